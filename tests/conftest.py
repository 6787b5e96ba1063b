"""Fixtures that several test files share."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _runs_stay_out_of_the_repository(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPGAP_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A fresh ``$TOPGAP_RUNS`` for one test."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("TOPGAP_RUNS", str(folder))
    return folder
