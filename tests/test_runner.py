import json
import os
import re
import threading
import time

import nbformat
import papermill
import pytest
import torch
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from topgap_nb import load_records
from topgap_nb.errors import UserError
from topgap_nb.experiments import recipes
from topgap_nb.files import ROOT
from topgap_nb.workbook import runner
from topgap_nb.workbook.book import BY_RUNNER, Book
from topgap_nb.workbook.runner import NotebookFailed, check_parameters, run_book

PARAMETERS = 'PROFILE = "smoke"\nNAME = "disk"\nSHARE = 0.5\nCOUNTS = [1, 2]\nQUICK = True'
READS = "print(PROFILE, NAME, SHARE, COUNTS, QUICK)"
WRITES = """
import os
from pathlib import Path
folder = Path(os.environ["TOPGAP_RUNS"]) / PROFILE / "figures"
folder.mkdir(parents=True, exist_ok=True)
size = (folder / "shares.csv").write_text(f"{NAME},{SHARE}")
"""
GLANCE = "| At a glance | |\n|---|---|\n| Outputs | `shares.csv` |"
FAILS = "shares = {}\nshares['ring']"


def notebook(*sources, parameters=PARAMETERS, glance=""):
    cells = [new_markdown_cell(f"# A title\n\n{glance}")]
    if parameters is not None:
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells += map(new_code_cell, [READS, *sources])
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture
def shelf(runs, tmp_path, monkeypatch):
    """A folder of notebooks in place of the project's, and how to fill it."""
    folder = tmp_path / "notebooks"
    (folder / "profiles").mkdir(parents=True)
    monkeypatch.setattr(runner, "NOTEBOOKS", folder)
    monkeypatch.setattr(recipes, "PROFILES", folder / "profiles")

    def fill(parameters=None, profile="smoke", seconds=60, first=(), **books):
        for name, book in books.items():
            nbformat.write(book, folder / f"{name[1:]}.ipynb")
        content = {"cell_seconds": seconds, "recipes": {}, "notebooks": parameters or {}}
        content["first"] = list(first)
        (folder / "profiles" / f"{profile}.yaml").write_text(yaml.safe_dump(content))
        return runs / profile

    return fill


@pytest.fixture
def executed(runs, monkeypatch):
    """Replace papermill by something that writes the output at once; list what it was given."""
    calls = []

    def execute(source, target, parameters, **settings):
        calls.append((source.rsplit("/", 1)[1], parameters))
        folder = runs / "smoke" / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "shares.csv").write_text("disk,0.5")

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    return calls


# With a kernel


def test_a_notebook_gets_its_parameters_and_leaves_its_outputs(shelf):
    where = shelf({"01_a": {"NAME": "ring", "SHARE": 1}}, _01_a=notebook(WRITES, glance=GLANCE))
    lines = []
    run_book("smoke", echo=lines.append)
    assert (where / "figures" / "shares.csv").read_text() == "ring,1"
    copy = nbformat.read(where / "executed" / "01_a.ipynb", as_version=4)
    printed = "".join(out["text"] for cell in copy.cells for out in cell.get("outputs", []))
    assert printed == "smoke ring 1 [1, 2] True\n"
    assert [line.split()[0] for line in lines] == ["[1/1]", "[1/1]", "1"]
    assert set(runner.minutes("smoke")) == {"01_a", runner.WHOLE}
    run_book("smoke", echo=lines.append)
    assert "unchanged, skipped" in lines[3]


def test_a_failing_cell_is_named_and_stops_the_book(shelf):
    where = shelf(_01_a=notebook("ready = 1", FAILS), _02_b=notebook())
    with pytest.raises(NotebookFailed) as failed:
        run_book("smoke", jobs=1, echo=lambda line: None)
    copy = where / "executed" / "01_a.ipynb"
    message = str(failed.value)
    number = int(re.search(r"01_a\.ipynb, cell \[(\d+)\]: KeyError: 'ring'", message).group(1))
    assert f"executed copy: {copy}" in message
    sources = {
        cell["execution_count"]: cell.source
        for cell in nbformat.read(copy, as_version=4).cells
        if cell.cell_type == "code"
    }
    assert sources[number] == FAILS
    assert not (where / "executed" / "02_b.ipynb").exists()
    assert not (where / "stamps").exists()


def test_a_cell_that_takes_too_long_is_stopped(shelf):
    shelf(seconds=1, _01_a=notebook("import time; time.sleep(60)"))
    with pytest.raises(NotebookFailed, match=r"01_a\.ipynb, cell .*Timeout"):
        run_book("smoke", echo=lambda line: None)


# Promised outputs


def test_a_missing_output_is_named(shelf, executed):
    glance = GLANCE.replace("`shares.csv`", "`shares.csv`, `shares.png`")
    where = shelf(_01_a=notebook(glance=glance))
    with pytest.raises(NotebookFailed, match=r"promises: shares\.png in ") as failed:
        run_book("smoke", echo=lambda line: None)
    assert str(where / "figures") in str(failed.value)
    assert str(where / "executed" / "01_a.ipynb") in str(failed.value)
    assert not (where / "stamps" / "01_a.json").exists()


def test_an_output_of_an_earlier_run_does_not_count(shelf, monkeypatch):
    where = shelf(_01_a=notebook(glance=GLANCE))
    (where / "figures").mkdir(parents=True)
    (where / "figures" / "shares.csv").write_text("old")
    os.utime(where / "figures" / "shares.csv", (1_000_000_000, 1_000_000_000))
    monkeypatch.setattr(papermill, "execute_notebook", lambda *args, **settings: None)
    with pytest.raises(NotebookFailed, match=r"promises: shares\.csv"):
        run_book("smoke", echo=lambda line: None)


def test_promises_stand_in_the_outputs_row_only():
    book = notebook(glance=f"`not_this.csv`\n\n{GLANCE}\n| Time | `nor_this.png` |")
    assert runner.promised_outputs(book) == ["shares.csv"]
    assert runner.promised_outputs(notebook()) == []


def test_what_needs_masks_is_promised_only_where_there_are_some():
    book = notebook(glance="| Outputs | `a.csv`, `b.png`; with masks `c.csv` |")
    assert runner.promised_outputs(book) == ["a.csv", "b.png", "c.csv"]
    assert runner.promised_outputs(book, always=True) == ["a.csv", "b.png"]


# Skipping


def ran(executed, **choices):
    before = len(executed)
    run_book("smoke", jobs=1, echo=lambda line: None, **choices)
    return [name for name, _ in executed[before:]]


def test_what_has_not_changed_is_skipped_unless_forced(shelf, executed):
    shelf(_01_a=notebook(), _02_b=notebook())
    both = ["01_a.ipynb", "02_b.ipynb"]
    assert ran(executed) == both
    assert ran(executed) == []
    assert ran(executed, force=True) == both
    assert ran(executed, force=True, only=("02",)) == ["02_b.ipynb"]


def test_another_parameter_runs_its_notebook_again(shelf, executed):
    shelf({"01_a": {"NAME": "ring"}}, _01_a=notebook(), _02_b=notebook())
    ran(executed)
    shelf({"01_a": {"NAME": "star"}})
    assert ran(executed) == ["01_a.ipynb"]
    assert executed[-1][1] == {"PROFILE": "smoke", "NAME": "star"}


def test_another_source_runs_its_notebook_again(shelf, executed):
    shelf(_01_a=notebook(), _02_b=notebook())
    ran(executed)
    shelf(_02_b=notebook("pass"))
    assert ran(executed) == ["02_b.ipynb"]


def test_a_vanished_output_runs_its_notebook_again(shelf, executed):
    where = shelf(_01_a=notebook(glance=GLANCE), _02_b=notebook())
    ran(executed)
    (where / "figures" / "shares.csv").unlink()
    assert ran(executed) == ["01_a.ipynb"]


def test_another_package_runs_every_notebook_again(shelf, executed, monkeypatch):
    shelf(_01_a=notebook(), _02_b=notebook())
    ran(executed)
    monkeypatch.setattr(runner, "package_digest", lambda: "another")
    assert ran(executed) == ["01_a.ipynb", "02_b.ipynb"]


def test_new_records_run_the_scoreboard_again(shelf, executed):
    where = shelf(_01_a=notebook(), _90_scoreboard=notebook())
    ran(executed)
    assert ran(executed) == []
    (where / "records").mkdir()
    (where / "records" / "01_a.jsonl").write_text("{}\n")
    assert ran(executed) == ["90_scoreboard.ipynb"]


def test_a_failed_notebook_is_not_skipped_the_next_time(shelf, executed, monkeypatch):
    shelf(_01_a=notebook())
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_execute", lambda *args: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            ran(executed)
    assert ran(executed) == ["01_a.ipynb"]


def test_a_stamp_says_how_long_the_notebook_took(shelf, executed):
    where = shelf(_01_a=notebook())
    ran(executed)
    stamp = json.loads((where / "stamps" / "01_a.json").read_text())
    assert runner.minutes("smoke")["01_a"] == stamp["slowest"] / 60


def test_the_minutes_of_the_whole_are_those_of_a_run_that_skipped_nothing(shelf, executed):
    shelf(_01_a=notebook(), _02_b=notebook())
    ran(executed, only=("01",))
    ran(executed)
    assert runner.WHOLE not in runner.minutes("smoke")
    ran(executed, force=True)
    assert runner.WHOLE in runner.minutes("smoke")


# Side by side


def test_two_notebooks_run_at_once_and_the_scoreboard_when_all_are_done(shelf, monkeypatch):
    shelf(_01_a=notebook(), _02_b=notebook(), _03_c=notebook(), _90_d=notebook())
    pair, order = threading.Barrier(2), []

    def execute(path, book, profile):
        if path.stem in ("01_a", "02_b"):
            pair.wait(timeout=20)
        order.append(path.stem)
        return 0.0

    monkeypatch.setattr(runner, "_execute", execute)
    run_book("smoke", jobs=2, echo=lambda line: None)
    assert sorted(order) == ["01_a", "02_b", "03_c", "90_d"]
    assert order[-1] == "90_d"


def test_what_the_profile_puts_first_starts_first(shelf, monkeypatch):
    shelf(first=["03_c"], _01_a=notebook(), _02_b=notebook(), _03_c=notebook())
    pair, order = threading.Barrier(2), []

    def execute(path, book, profile):
        if path.stem != "02_b":
            pair.wait(timeout=20)
        order.append(path.stem)
        return 0.0

    monkeypatch.setattr(runner, "_execute", execute)
    run_book("smoke", jobs=2, echo=lambda line: None)
    assert order[-1] == "02_b"


def test_a_profile_may_put_only_notebooks_first(shelf):
    shelf(first=["07_a"], _01_a=notebook())
    with pytest.raises(UserError, match=r"names \['07_a'\], which are no notebooks"):
        run_book("smoke")


def test_after_a_failure_what_runs_is_finished_and_no_scoreboard_drawn(shelf, monkeypatch):
    shelf(_01_a=notebook(), _02_b=notebook(), _03_c=notebook(), _90_d=notebook())
    pair, order = threading.Barrier(2), []

    def execute(path, book, profile):
        order.append(path.stem)
        pair.wait(timeout=20)
        if path.stem == "01_a":
            raise NotebookFailed("01_a.ipynb")
        time.sleep(0.2)
        return 0.0

    monkeypatch.setattr(runner, "_execute", execute)
    with pytest.raises(NotebookFailed, match=r"01_a\.ipynb"):
        run_book("smoke", jobs=2, echo=lambda line: None)
    assert sorted(order) == ["01_a", "02_b"]
    assert "02_b" in runner.minutes("smoke")


def test_a_notebook_has_its_share_of_the_cores_however_it_is_run(shelf, monkeypatch):
    says = "import os; print(os.environ['OMP_NUM_THREADS'])"
    shelf(_01_a=notebook(says), _02_b=notebook(says), _90_c=notebook(says))
    monkeypatch.setattr(os, "cpu_count", lambda: 6)

    def threads():
        folder = runner.runs_root() / "smoke" / "executed"
        copies = [nbformat.read(path, as_version=4) for path in sorted(folder.glob("*.ipynb"))]
        return [copy.cells[-1].outputs[0]["text"].strip() for copy in copies]

    run_book("smoke", echo=lambda line: None)
    assert threads() == ["3", "3", "3"]
    # Alone, or one after the other, it would train other networks with more.
    run_book("smoke", only=("02",), force=True, jobs=1, echo=lambda line: None)
    assert threads() == ["3", "3", "3"]
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    Book("01_a", "smoke")
    assert set_to == [3]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    Book("01_a", "smoke")
    assert set_to == [3]


def test_what_a_person_runs_leaves_the_results_of_the_profile_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPGAP_RUNS", str(tmp_path))
    monkeypatch.delenv(BY_RUNNER, raising=False)
    played = Book("01_x", "demo")
    played.record("9", "accuracy", 0.5)
    played.table("9")
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")} == {
        f"demo/interactive/{name}"
        for name in ("records/01_x.jsonl", "table_9.csv", "table_9.md", "table_9.tex")
    }
    with pytest.raises(UserError, match="no records of profile 'demo' yet"):
        load_records("demo")
    monkeypatch.setenv(BY_RUNNER, "1")
    run = Book("01_x", "demo")
    assert run.folder == ROOT / "figures" / "demo"
    run.record("9", "accuracy", 0.5)
    assert len(load_records("demo")) == 1


# Parameters


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"SHAPE": 1}, r"01_a\.ipynb: parameter 'SHAPE' is unknown; it declares PROFILE, NAME"),
        ({"NAME": 1}, "NAME = 1 is int, its default 'disk' is str"),
        ({"SHARE": "half"}, "SHARE = 'half' is str, its default 0.5 is float"),
        ({"SHARE": True}, "SHARE = True is bool"),
        ({"QUICK": 1}, "QUICK = 1 is int, its default True is bool"),
        ({"COUNTS": 3}, "COUNTS = 3 is int"),
        ({"COUNTS": [1, "two"]}, "COUNTS = "),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(shelf, executed, given, words):
    shelf({"02_b": given}, _01_a=notebook(), _02_b=notebook())
    with pytest.raises(UserError, match=words.replace("01_a", "02_b")):
        run_book("smoke")
    assert executed == []


@pytest.mark.parametrize("given", [{"SHARE": 1}, {"COUNTS": []}, {"COUNTS": [5]}, {}])
def test_a_right_parameter_is_accepted(given):
    check_parameters(notebook(), given, "01_a.ipynb")


def test_an_unread_parameter_is_refused():
    book = notebook("UNREAD = 2", parameters=f"{PARAMETERS}\nUNREAD = 1")
    with pytest.raises(UserError, match="parameter UNREAD is declared and never read"):
        check_parameters(book, {}, "01_a.ipynb")


def test_a_notebook_without_parameters_cell_is_refused():
    with pytest.raises(UserError, match=r"01_a\.ipynb: .* no cell tagged `parameters`"):
        check_parameters(notebook(parameters=None), {}, "01_a.ipynb")


@pytest.mark.parametrize(
    "line",
    ["SHARE = 1 / 2", "SHARE = float('nan')", "SHARE: float = 0.5", "A = B = 1", "print(1)"],
)
def test_a_parameter_that_is_no_literal_is_refused(line):
    with pytest.raises(UserError, match="line 2 of the parameters cell is not `NAME = literal`"):
        check_parameters(notebook(parameters=f"NAME = 'disk'\n{line}"), {}, "01_a.ipynb")


@pytest.mark.parametrize("parameters", [PARAMETERS, "NAME ="])
def test_a_cell_that_is_not_python_is_refused(parameters):
    with pytest.raises(UserError, match=r"01_a\.ipynb: invalid syntax"):
        check_parameters(notebook("%time 1", parameters=parameters), {}, "01_a.ipynb")


# Profiles, names, folders


def test_an_unknown_profile_comes_with_the_known_ones(shelf):
    shelf(_01_a=notebook())
    shelf(profile="demo")
    with pytest.raises(UserError, match="'dmo' is unknown: there are demo, smoke"):
        run_book("dmo")


def test_an_unknown_notebook_comes_with_the_known_ones(shelf):
    shelf(_01_a=notebook(), _02_b=notebook())
    with pytest.raises(UserError, match="no notebook starts with '07': there are 01_a, 02_b"):
        run_book("smoke", only=("01", "07"))


def test_a_profile_with_parameters_for_no_notebook_is_refused(shelf):
    shelf({"01_b": {}}, _01_a=notebook())
    with pytest.raises(UserError, match=r"smoke\.yaml names \['01_b'\]"):
        run_book("smoke")


@pytest.mark.parametrize(
    "content",
    ["a: [", "just words", "", "recipes: {}", "recipes: {}\ncell_seconds: soon\nnotebooks: {}"],
)
def test_a_profile_that_says_too_little_is_refused(shelf, content):
    shelf(_01_a=notebook())
    recipes.profile_file("smoke").write_text(content)
    with pytest.raises(UserError, match=r"smoke\.yaml"):
        run_book("smoke")


def test_an_output_folder_that_cannot_be_written_is_refused(shelf, executed, tmp_path, monkeypatch):
    shelf(_01_a=notebook())
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOPGAP_RUNS", str(tmp_path / "file" / "runs"))
    with pytest.raises(UserError, match=r"cannot write into .*file/runs/smoke.*TOPGAP_RUNS"):
        run_book("smoke")
    assert executed == []


def test_numbers_of_the_smoke_profile_stay_out_of_figures(runs):
    assert runner.outputs_folder("smoke") == runs / "smoke" / "figures"
    assert runner.outputs_folder("demo") == runner.ROOT / "figures" / "demo"


def test_results_of_ones_own_images_stay_out_of_figures_and_apart(runs, tmp_path):
    first = runner.outputs_folder("demo", str(tmp_path / "a" / "leaves"))
    other = runner.outputs_folder("demo", str(tmp_path / "b" / "leaves"))
    assert first.parent == other.parent == runs / "own"
    assert first != other
    assert first.name.startswith("leaves-")
    book = Book("10_x", "demo", str(tmp_path / "a" / "leaves"))
    book.record("t", "accuracy", 0.5)
    assert (first / "records.jsonl").exists()
    assert not (runs / "demo").exists()


def test_a_changed_image_runs_the_notebook_again(shelf, executed, tmp_path):
    (tmp_path / "leaves").mkdir()
    picture = tmp_path / "leaves" / "1.png"
    picture.write_text("a")
    source = notebook(parameters='PROFILE = "smoke"\nDATA_FOLDER = ""')
    source.cells[2].source = "print(PROFILE, DATA_FOLDER)"
    shelf({"10_x": {"DATA_FOLDER": str(tmp_path / "leaves")}}, _10_x=source)
    quiet = {"echo": lambda line: None}
    run_book("smoke", **quiet)
    run_book("smoke", **quiet)
    assert len(executed) == 1
    picture.write_text("another")
    run_book("smoke", **quiet)
    assert len(executed) == 2
