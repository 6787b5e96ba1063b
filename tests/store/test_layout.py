from pathlib import Path

import pytest

from topgap_nb.store import layout


def test_folders_follow_the_environment(runs, tmp_path, monkeypatch):
    assert layout.runs_root() == runs
    monkeypatch.setenv("TOPGAP_DATA", str(tmp_path / "sets"))
    assert layout.data_root() == tmp_path / "sets"
    monkeypatch.delenv("TOPGAP_RUNS")
    assert layout.runs_root() == layout.PROJECT / "runs"


@pytest.mark.parametrize("folder", ["here", "here/sets"])
@pytest.mark.parametrize(
    ("variable", "root", "default"),
    [
        ("TOPGAP_RUNS", layout.runs_root, "runs"),
        ("TOPGAP_DATA", layout.data_root, "data/downloads"),
    ],
)
def test_a_folder_means_the_same_wherever_the_process_runs(
    tmp_path, monkeypatch, variable, root, default, folder
):
    project = tmp_path / "project"
    (project / "notebooks").mkdir(parents=True)
    monkeypatch.setenv("TOPGAP_PROJECT", str(project))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    meant = {
        folder: project / folder,
        f"~/{folder}": tmp_path / "home" / folder,
        "": project / default,
    }
    for written, expected in meant.items():
        monkeypatch.setenv(variable, written)
        # The shell, and the kernel of a notebook.
        for place in (project, project / "notebooks"):
            monkeypatch.chdir(place)
            assert root() == expected
        # What the runner hands on means the same once more.
        monkeypatch.setenv(variable, layout.environment()[variable])
        assert root() == expected


def test_ones_own_sets_are_handed_on_where_there_are_some(monkeypatch):
    monkeypatch.delenv("TOPGAP_SETS", raising=False)
    assert layout.own_sets() is None
    assert "TOPGAP_SETS" not in layout.environment()
    monkeypatch.setenv("TOPGAP_SETS", "mine")
    assert layout.environment()["TOPGAP_SETS"] == str(layout.project_root() / "mine")
    assert all(Path(path).is_absolute() for path in layout.environment().values())
    assert set(layout.environment()) == {
        "TOPGAP_SETS",
        "TOPGAP_PROJECT",
        "TOPGAP_RUNS",
        "TOPGAP_DATA",
    }


def test_smoke_results_stay_out_of_the_figures(runs):
    assert layout.results_folder("smoke").is_relative_to(runs)
    assert layout.results_folder("demo") == layout.PROJECT / "figures" / "demo"


def test_results_on_own_images_have_a_folder_for_each_path(runs, tmp_path):
    one, other = (
        layout.own_folder(tmp_path / "a" / "cells"),
        layout.own_folder(tmp_path / "b/cells"),
    )
    assert one != other
    assert one.name.startswith("cells-")
    assert layout.own_folder(f"{tmp_path}/b/../a/cells") == one


def test_what_the_first_edition_left_is_named_and_kept(runs):
    assert layout.first_edition_note() == ""
    (runs / "models").mkdir(parents=True)
    note = layout.first_edition_note()
    assert str(runs / "models") in note
    assert "first edition" in note
    assert (runs / "models").exists()
