from topgap_nb.store import layout


def test_folders_follow_the_environment(runs, tmp_path, monkeypatch):
    assert layout.runs_root() == runs
    monkeypatch.setenv("TOPGAP_DATA", str(tmp_path / "sets"))
    assert layout.data_root() == tmp_path / "sets"
    monkeypatch.delenv("TOPGAP_RUNS")
    assert layout.runs_root() == layout.PROJECT / "runs"


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
