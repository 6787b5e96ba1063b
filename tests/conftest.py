"""Fixtures that several test files share."""

import os

import pytest

# One process a core, and one thread a process: threads that wait for each other on busy cores take
# several times as long. Before torch is loaded, and for the processes that tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


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


@pytest.fixture
def root(tmp_path, monkeypatch, runs):
    """An empty ``$TOPGAP_DATA``, and a fresh ``$TOPGAP_RUNS``."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("TOPGAP_DATA", str(folder))
    return folder


def pytest_collection_modifyitems(items):
    """Begin with the slow tests, so that no core ends alone; skip what this machine cannot run."""
    import torch

    items.sort(key=lambda item: item.get_closest_marker("slow") is None)

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU here"))
