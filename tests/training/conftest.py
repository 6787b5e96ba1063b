import pytest
from helpers.trainings import TINY, tiny_data

from topgap_nb import train_or_load


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def finished(data):
    return train_or_load(TINY, data, quiet=True)
