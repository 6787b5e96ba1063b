import pytest


@pytest.fixture
def root(tmp_path, monkeypatch, runs):
    """An empty ``$TOPGAP_DATA``, and a fresh ``$TOPGAP_RUNS``."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("TOPGAP_DATA", str(folder))
    return folder
