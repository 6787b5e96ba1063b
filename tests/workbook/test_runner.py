"""The runner: what is executed, what is read back, and what a failure leaves."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from topgap_nb import UserError
from topgap_nb.errors import NotebookFailed
from topgap_nb.store import fingerprint, layout, store
from topgap_nb.workbook import runner
from topgap_nb.workbook.runner import made_by, run_book

PARAMETERS = 'PROFILE = "smoke"\nNAME = "disk"\nSHARE = 0.5\nRESULTS = ""'
READS = "print(PROFILE, NAME, SHARE, RESULTS)"
GLANCE = "| At a glance | |\n|---|---|\n| Outputs | `shares.csv`; with masks `masks.csv` |"
FAILS = "shares = {}\nshares['ring']"
RECIPE = {"backbone": "test_efficientnet", "image_size": 32}


def notebook(*sources, parameters=PARAMETERS, reads=READS, glance=GLANCE):
    cells = [new_markdown_cell(f"# A title\n\n{glance}")]
    cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells += map(new_code_cell, [reads, *sources])
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture
def shelf(runs, tmp_path, monkeypatch):
    """A project of small notebooks, and how to fill it; returns ``runs/<profile>``."""
    project = tmp_path / "project"
    (project / "notebooks" / "profiles").mkdir(parents=True)
    monkeypatch.setenv("TOPGAP_PROJECT", str(project))

    def fill(parameters=None, profile="smoke", recipes=None, first=(), cell_seconds=60, **books):
        for name, book in books.items():
            nbformat.write(book, project / "notebooks" / f"{name[1:]}.ipynb")
        content = {
            "cell_seconds": cell_seconds, "recipes": recipes or {}, "first": list(first),
            "notebooks": parameters or {},
        }  # fmt: skip
        file = project / "notebooks" / "profiles" / f"{profile}.yaml"
        file.write_text(yaml.safe_dump(content))
        return runs / profile

    return fill


class Calls(list):
    """What papermill would have been given: (notebook, parameters)."""

    outputs = None


@pytest.fixture
def executed(monkeypatch):
    """Replace papermill by something that writes the outputs at once."""
    calls = Calls()
    calls.outputs = {"shares.csv": "{NAME},{SHARE}"}

    def execute(source, target, parameters, **settings):
        name = Path(source).stem
        calls.append((name, parameters))
        given = {"NAME": "disk", "SHARE": 0.5, **parameters}
        shutil.copy(source, target)
        results = Path(parameters["RESULTS"])
        (results / "records").mkdir()
        (results / "records" / f"{name}.jsonl").write_text(json.dumps(given["NAME"]) + "\n")
        for file, text in calls.outputs.items():
            (results / file).write_text(text.format(**given))

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    return calls


def ran(executed, profile="smoke", **choices):
    """Run the book, one notebook at a time; return which notebooks were executed."""
    before = len(executed)
    run_book(profile, jobs=1, echo=lambda line: None, **choices)
    return [name for name, _ in executed[before:]]


# With a kernel


def test_a_notebook_gets_its_parameters_and_leaves_its_outputs(shelf):
    writes = (
        "from pathlib import Path\n"
        "size = (Path(RESULTS) / 'shares.csv').write_text(f'{NAME},{SHARE}')\n"
        "(Path(RESULTS) / 'records').mkdir()\n"
        "size = (Path(RESULTS) / 'records' / '01_a.jsonl').write_text('{}')\n"
        "import os; print(os.environ['OMP_NUM_THREADS'], os.getcwd(), os.environ['TOPGAP_RUNS'])"
    )
    where = shelf({"01_a": {"NAME": "ring", "SHARE": 1}}, _01_a=notebook(writes))
    lines = []
    run_book("smoke", echo=lines.append)
    assert [line.split()[0] for line in lines] == ["[1/1]", "[1/1]", "1"]
    assert (where / "figures" / "shares.csv").read_text() == "ring,1.0"
    assert (where / "records" / "01_a.jsonl").exists()
    copy = nbformat.read(where / "executed" / "01_a.ipynb", as_version=4)
    page = (where / "figures" / "01_a.md").read_text()
    assert page.startswith("# 01 · A title")
    assert "smoke ring 1.0 /" in page
    printed = [out["text"] for cell in copy.cells for out in cell.get("outputs", [])]
    assert printed[0].startswith("smoke ring 1.0 /")
    # Its share of the cores, and folders that mean the same from where it runs.
    here = layout.notebooks_root()
    assert printed[1].split() == ["1", str(here), str(layout.runs_root())]
    # What it was written into is gone.
    assert {path.name for path in where.iterdir()} == {"executed", "figures", "records"}
    assert set(made_by("smoke")) == {"01_a", runner.WHOLE}
    run_book("smoke", echo=lines.append)
    assert "unchanged, skipped" in lines[3]


def test_a_failing_cell_is_named_and_stops_the_book_and_changes_no_figure(shelf):
    where = shelf(_01_a=notebook("ready = 1", FAILS), _02_b=notebook())
    (where / "figures").mkdir(parents=True)
    (where / "figures" / "shares.csv").write_text("of an earlier run")
    with pytest.raises(NotebookFailed) as failed:
        run_book("smoke", jobs=1, echo=lambda line: None)
    copy = where / "failed" / "01_a.ipynb"
    message = str(failed.value)
    number = int(re.search(r"01_a\.ipynb, cell \[(\d+)\]: KeyError: 'ring'", message).group(1))
    assert f"executed copy: {copy}" in message
    sources = {
        cell["execution_count"]: cell.source
        for cell in nbformat.read(copy, as_version=4).cells
        if cell.cell_type == "code"
    }
    assert sources[number] == FAILS
    assert (where / "figures" / "shares.csv").read_text() == "of an earlier run"
    assert {path.name for path in where.iterdir()} == {"failed", "figures"}
    assert not list(layout.runs_root().glob("notebooks/0*"))
    assert made_by("smoke") == {}


def test_a_cell_that_takes_too_long_is_stopped(shelf):
    where = shelf(cell_seconds=1, _01_a=notebook("import time; time.sleep(60)"))
    with pytest.raises(NotebookFailed, match=r"01_a\.ipynb, cell .*Timeout"):
        run_book("smoke", echo=lambda line: None)
    assert (where / "failed" / "01_a.ipynb").exists()
    assert {path.name for path in where.iterdir()} == {"failed", "figures"}


# Promised outputs


def test_a_missing_output_is_named(shelf, executed):
    where = shelf(_01_a=notebook(glance=GLANCE.replace("`shares.csv`", "`shares.csv`, `s.png`")))
    with pytest.raises(NotebookFailed, match=r"01_a\.ipynb did not write .* promises: s\.png\n"):
        ran(executed)
    assert (where / "failed" / "01_a.ipynb").exists()
    assert not (where / "executed").exists()
    # It is not among what succeeded.
    with pytest.raises(NotebookFailed):
        ran(executed)
    assert len(executed) == 2


def test_an_output_of_an_earlier_run_does_not_count(shelf, executed):
    where = shelf(_01_a=notebook())
    (where / "figures").mkdir(parents=True)
    (where / "figures" / "shares.csv").write_text("old")
    executed.outputs = {}
    with pytest.raises(NotebookFailed, match=r"promises: shares\.csv"):
        ran(executed)


def test_what_only_data_with_masks_give_does_not_outlive_them(shelf, executed):
    where = shelf(_01_a=notebook())
    executed.outputs = {"shares.csv": "{NAME}", "masks.csv": "of the disk"}
    ran(executed)
    assert (where / "figures" / "masks.csv").exists()
    executed.outputs = {"shares.csv": "{NAME}"}
    shelf({"01_a": {"NAME": "without masks"}})
    ran(executed)
    assert (where / "figures" / "shares.csv").read_text() == "without masks"
    assert not (where / "figures" / "masks.csv").exists()
    shelf()
    assert ran(executed) == []
    assert (where / "figures" / "masks.csv").read_text() == "of the disk"


# Executed once


def test_what_has_not_changed_is_skipped_unless_forced(shelf, executed):
    shelf(_01_a=notebook(), _02_b=notebook())
    assert ran(executed) == ["01_a", "02_b"]
    assert ran(executed) == []
    assert ran(executed, force=True) == ["01_a", "02_b"]
    assert ran(executed, force=True, only=("02",)) == ["02_b"]


def test_another_parameter_executes_its_notebook_and_the_earlier_one_is_read_back(shelf, executed):
    where = shelf({"02_b": {"NAME": "ring"}}, _01_a=notebook(), _02_b=notebook())
    ran(executed)
    shelf({"02_b": {"NAME": "star"}})
    assert ran(executed) == ["02_b"]
    assert executed[-1][1]["NAME"] == "star"
    assert (where / "figures" / "shares.csv").read_text() == "star,0.5"
    shelf({"02_b": {"NAME": "ring"}})
    assert ran(executed) == []
    assert (where / "figures" / "shares.csv").read_text() == "ring,0.5"
    assert (where / "records" / "02_b.jsonl").read_text() == '"ring"\n'


def test_another_source_executes_its_notebook(shelf, executed):
    shelf(_01_a=notebook(), _02_b=notebook())
    ran(executed)
    shelf(_02_b=notebook("pass"))
    assert ran(executed) == ["02_b"]


def test_another_recipe_and_other_threads_execute_every_notebook(shelf, executed):
    shelf(_01_a=notebook(), _02_b=notebook(), recipes={"planted": RECIPE})
    assert ran(executed) == ["01_a", "02_b"]
    shelf(recipes={"planted": {**RECIPE, "epochs": 9}})
    assert ran(executed) == ["01_a", "02_b"]
    profile = layout.profiles_root() / "smoke.yaml"
    profile.write_text(f"{profile.read_text()}\nthreads: 2\n")
    assert ran(executed) == ["01_a", "02_b"]


def test_a_lost_or_changed_output_is_written_again_without_executing(shelf, executed):
    where = shelf(_01_a=notebook(), _02_b=notebook())
    ran(executed)
    (where / "figures" / "shares.csv").unlink()
    (where / "executed" / "01_a.ipynb").write_text("{}")
    assert ran(executed) == []
    assert (where / "figures" / "shares.csv").read_text() == "disk,0.5"
    assert len(nbformat.read(where / "executed" / "01_a.ipynb", as_version=4).cells) == 3


def test_new_records_execute_the_scoreboard(shelf, executed):
    where = shelf(_01_a=notebook(), _90_scoreboard=notebook())
    ran(executed)
    assert ran(executed) == []
    shelf({"01_a": {"NAME": "star"}})
    assert ran(executed) == ["01_a", "90_scoreboard"]
    # Its own records are no input of its own.
    (where / "records" / "90_scoreboard.jsonl").write_text("{}\n")
    assert ran(executed) == []


def test_a_damaged_notebook_is_set_aside_and_executed_again(shelf, executed, runs):
    where = shelf(_01_a=notebook(), _02_b=notebook())
    ran(executed)
    (entry,) = runs.glob("notebooks/01_a-*")
    (entry / "shares.csv").write_text("another number")
    with pytest.warns(UserWarning, match=r"is damaged .* set aside as 01_a-.*\.damaged"):
        assert ran(executed) == ["01_a"]
    assert (where / "figures" / "shares.csv").read_text() == "disk,0.5"
    assert ran(executed) == []


def test_a_notebook_that_cannot_be_kept_is_published_all_the_same(shelf, executed, monkeypatch):
    where = shelf(_01_a=notebook())

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_folder", full)
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert ran(executed) == ["01_a"]
    assert (where / "figures" / "shares.csv").read_text() == "disk,0.5"
    assert (where / "executed" / "01_a.ipynb").exists()


def test_a_data_file_executes_the_notebooks_of_its_profile(shelf, executed, tmp_path):
    leaves = tmp_path / "leaves"
    leaves.mkdir()
    (leaves / "1.png").write_text("a")
    recipe = {**RECIPE, "options": {"path": str(leaves)}}
    shelf(_01_a=notebook(), recipes={"folder": recipe})
    ran(executed)
    assert ran(executed) == []
    (leaves / "1.png").write_text("another")
    assert ran(executed) == ["01_a"]


def test_an_image_of_ones_own_executes_its_notebook(shelf, executed, tmp_path, runs):
    leaves = tmp_path / "leaves"
    leaves.mkdir()
    (leaves / "1.png").write_text("a")
    parameters = f'{PARAMETERS}\nDATA_FOLDER = ""'
    book = notebook("print(DATA_FOLDER)", parameters=parameters)
    given = {"10_x": {"DATA_FOLDER": str(leaves)}}
    where = shelf(given, _01_a=notebook(), _10_x=book)
    assert ran(executed) == ["01_a", "10_x"]
    assert ran(executed) == []
    (leaves / "1.png").write_text("another")
    assert ran(executed) == ["10_x"]
    # Its results stand apart, also from what the scoreboard reads.
    own = layout.own_folder(leaves)
    assert own.parent == runs / "own"
    assert {path.name for path in own.iterdir()} == {"10_x.md", "shares.csv", "records"}
    assert [path.name for path in (where / "records").iterdir()] == ["01_a.jsonl"]


# The package's code


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package whose code is keyed; returns how to add a line to a module of it."""
    copy = tmp_path / "copy" / "topgap_nb"
    shutil.copytree(layout.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    caches = fingerprint._code, fingerprint._file, fingerprint.public_names

    def forget():
        for cache in caches:
            cache.cache_clear()

    def add(module: str, line: str):
        path = copy / module
        path.write_text(f"{path.read_text()}\n{line}\n")
        forget()

    monkeypatch.setattr(fingerprint, "PACKAGE", copy)
    forget()
    yield add
    monkeypatch.undo()
    forget()


def test_only_code_that_a_notebook_imports_executes_it(shelf, executed, package):
    shelf(
        _01_a=notebook("from topgap_nb import erf_map"),
        _02_b=notebook("from topgap_nb import mask_iou\nimport topgap_nb.training.loop"),
        _03_c=notebook(),
    )
    assert ran(executed) == ["01_a", "02_b", "03_c"]
    for module in ("metrics/erf.py", "metrics/localisation.py", "workbook/runner.py"):
        package(module, "# a comment")
        assert ran(executed) == []
    package("metrics/erf.py", "CHANGED = 1")
    assert ran(executed) == ["01_a"]
    package("metrics/localisation.py", "CHANGED = 1")
    assert ran(executed) == ["02_b"]
    # Behind what is imported by name.
    package("training/augment.py", "CHANGED = 1")
    assert ran(executed) == ["02_b"]
    package("workbook/runner.py", "CHANGED = 1")
    package("store/store.py", "CHANGED = 1")
    assert ran(executed) == []


def test_the_code_of_a_data_set_counts_where_it_is_named(shelf, executed, package):
    named = notebook(parameters=PARAMETERS.replace("disk", "planted"))
    shelf(_01_a=named, _02_b=notebook(), recipes={"default": RECIPE})
    assert ran(executed) == ["01_a", "02_b"]
    package("data/sets/planted.py", "CHANGED = 1")
    assert ran(executed) == ["01_a"]
    shelf(recipes={"default": RECIPE, "planted": RECIPE})
    assert ran(executed) == ["01_a", "02_b"]
    package("data/sets/planted.py", "CHANGED = 2")
    assert ran(executed) == ["01_a", "02_b"]


def test_the_papers_numbers_and_the_lock_count(shelf, executed):
    shelf(_01_a=notebook())
    ran(executed)
    (layout.project_root() / "requirements.lock").write_text("torch==2")
    assert ran(executed) == ["01_a"]
    layout.paper_root().mkdir(parents=True)
    (layout.paper_root() / "table_6.csv").write_text("accuracy\n0.9\n")
    assert ran(executed) == ["01_a"]


@pytest.mark.slow
def test_a_data_set_of_ones_own_is_found_and_keyed_by_its_file(shelf, tmp_path):
    # The sets of $TOPGAP_SETS are looked up once in a process, so this takes processes of its own.
    # Relative folders start at the project, for the command and for the notebook.
    found = "from topgap_nb.data.registry import find_set\nprint(find_set(NAME))"
    shelf(_01_a=notebook(found, glance=""))
    sets, lines = layout.project_root() / "sets", []
    sets.mkdir()
    shelf({"01_a": {"NAME": "dots"}}, recipes={"default": RECIPE})
    for opener in ("...", "...  # a comment", "None"):
        (sets / "dots.py").write_text(
            "from topgap_nb.data.registry import DataSet\n"
            f"def _open(split, image_size): return {opener}\n"
            "DOTS = DataSet('dots', 'dots', _open)\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "topgap_nb.cli", "run", "--profile", "smoke"],
            env={**os.environ, "TOPGAP_SETS": "sets", "TOPGAP_RUNS": "made"},
            cwd=layout.project_root(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.splitlines()[-2])
    assert ["unchanged" in line for line in lines] == [False, True, False]
    made = layout.project_root() / "made"
    assert (made / "smoke" / "executed" / "01_a.ipynb").exists()
    assert not (layout.notebooks_root() / "made").exists()


# Side by side


def held(monkeypatch, wait):
    """Replace execution by ``wait(name)``; return the names in the order of their end."""
    order = []

    def execute(path, book, profile):
        folder = layout.runs_root() / profile.name / f".{path.stem}"
        folder.mkdir(parents=True)
        shutil.copy(path, folder / "notebook.ipynb")
        wait(path.stem)
        order.append(path.stem)
        return runner.Executed(folder, 0.0)

    monkeypatch.setattr(runner, "_execute", execute)
    return order


def test_two_notebooks_run_at_once_and_the_scoreboard_when_all_are_done(shelf, monkeypatch):
    shelf(_01_a=notebook(), _02_b=notebook(), _03_c=notebook(), _90_d=notebook())
    pair = threading.Barrier(2)
    order = held(monkeypatch, lambda name: pair.wait(20) if name in ("01_a", "02_b") else None)
    run_book("smoke", jobs=2, echo=lambda line: None)
    assert sorted(order) == ["01_a", "02_b", "03_c", "90_d"]
    assert order[-1] == "90_d"


def test_what_the_profile_puts_first_starts_first(shelf, monkeypatch):
    shelf(first=["03_c"], _01_a=notebook(), _02_b=notebook(), _03_c=notebook())
    pair = threading.Barrier(2)
    order = held(monkeypatch, lambda name: pair.wait(20) if name != "02_b" else None)
    run_book("smoke", jobs=2, echo=lambda line: None)
    assert order[-1] == "02_b"


def test_a_profile_may_put_only_notebooks_first(shelf):
    shelf(first=["07_a"], _01_a=notebook())
    with pytest.raises(UserError, match=r"names \['07_a'\], which are no notebooks"):
        run_book("smoke")


def test_after_a_failure_what_runs_is_finished_and_no_scoreboard_drawn(shelf, monkeypatch):
    shelf(_01_a=notebook(), _02_b=notebook(), _03_c=notebook(), _90_d=notebook())
    pair, begun = threading.Barrier(2), []

    def wait(name):
        begun.append(name)
        pair.wait(20)
        if name == "01_a":
            raise NotebookFailed("01_a.ipynb")
        time.sleep(0.2)

    order = held(monkeypatch, wait)
    with pytest.raises(NotebookFailed, match=r"01_a\.ipynb"):
        run_book("smoke", jobs=2, echo=lambda line: None)
    assert (sorted(begun), order) == (["01_a", "02_b"], ["02_b"])
    assert set(made_by("smoke")) == {"02_b"}


@pytest.mark.parametrize(
    ("cores", "threads", "count", "expected"),
    [(6, 2, 12, 3), (6, 2, 2, 2), (2, 1, 12, 2), (1, 4, 12, 1), (16, 0, 12, 1)],
)
def test_as_many_run_as_there_are_cores_for(monkeypatch, cores, threads, count, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    profile = runner.Profile("some", {}, {}, threads=threads)
    assert runner.side_by_side(profile, count) == expected
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert runner.side_by_side(profile, count) == 1


# How long it took


def test_the_minutes_are_the_most_that_a_notebook_took_on_this_machine(shelf, executed):
    where = shelf(_01_a=notebook(), _02_b=notebook())
    ran(executed, only=("01",))
    ran(executed)
    # The whole is noted by a run that skipped nothing.
    assert set(made_by("smoke")) == {"01_a", "02_b"}
    file = where / "figures" / "made.json"
    entries = made_by("smoke")
    entries["01_a"]["seconds"] = 300.0
    entries["02_b"] |= {"seconds": 300.0, "hardware": "another"}
    file.write_text(json.dumps(entries))
    networks = where.parent / "networks"
    networks.mkdir()
    ran(executed, force=True)
    assert set(made_by("smoke")) == {"01_a", "02_b", runner.WHOLE}
    assert made_by("smoke")["01_a"]["seconds"] == 300.0
    assert made_by("smoke")["02_b"]["seconds"] < 60
    assert "torch" in made_by("smoke")[runner.WHOLE]["versions"]
    networks.rmdir()
    ran(executed, force=True)
    assert made_by("smoke")["01_a"]["seconds"] < 60


def test_what_the_first_edition_left_is_named_once(shelf, executed, runs):
    shelf(_01_a=notebook(), _02_b=notebook())
    (runs / "models").mkdir(parents=True)
    lines = []
    run_book("smoke", echo=lines.append)
    assert [line for line in lines if "first edition" in line] == [layout.first_edition_note()]
    assert (runs / "models").is_dir()


# Refused before anything runs


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"SHAPE": 1}, r"02_b\.ipynb: parameter 'SHAPE' is unknown; it declares PROFILE, NAME"),
        ({"NAME": 1}, "NAME = 1 is int, its default 'disk' is str"),
    ],
)
def test_a_wrong_parameter_is_refused(shelf, executed, given, words):
    shelf({"02_b": given}, _01_a=notebook(), _02_b=notebook())
    with pytest.raises(UserError, match=words):
        run_book("smoke")
    assert executed == []


def test_a_notebook_that_does_not_say_where_its_results_go_is_refused(shelf, executed):
    parameters = 'PROFILE = "smoke"'
    shelf(_01_a=notebook(parameters=parameters, reads="print(PROFILE)"))
    with pytest.raises(UserError, match="parameter 'RESULTS' is unknown"):
        run_book("smoke")
    assert executed == []


def test_an_unknown_profile_comes_with_the_known_ones(shelf):
    shelf(_01_a=notebook())
    shelf(profile="demo")
    with pytest.raises(UserError, match="'dmo' is unknown: there are demo, smoke"):
        run_book("dmo")


def test_an_unknown_notebook_comes_with_the_known_ones(shelf):
    shelf(_01_a=notebook(), _02_b=notebook())
    with pytest.raises(UserError, match="no notebook starts with '07': there are 01_a, 02_b"):
        run_book("smoke", only=("01", "07"))


def test_a_profile_runs_the_notebooks_that_it_is_for(shelf, executed):
    shelf(_01_a=notebook(), _02_b=notebook())
    profile = layout.profiles_root() / "smoke.yaml"
    profile.write_text(f"{profile.read_text()}\nonly: ['02']\n")
    assert ran(executed) == ["02_b"]
    assert ran(executed, only=("01",)) == ["01_a"]


def test_a_profile_with_parameters_for_no_notebook_is_refused(shelf):
    shelf({"01_b": {}}, _01_a=notebook())
    with pytest.raises(UserError, match=r"'smoke' names \['01_b'\]"):
        run_book("smoke")


def test_a_recipe_that_cannot_be_followed_stops_the_book(shelf, executed):
    shelf(_01_a=notebook(), _02_b=notebook(), recipes={"planted": {**RECIPE, "wings": 2}})
    with pytest.raises(UserError, match="wings is unknown"):
        ran(executed)
    assert executed == []


def test_an_output_folder_that_cannot_be_written_is_refused(shelf, executed, tmp_path, monkeypatch):
    shelf(_01_a=notebook())
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOPGAP_RUNS", str(tmp_path / "file" / "runs"))
    with pytest.raises(UserError, match=r"cannot write into .*file/runs/smoke.*TOPGAP_RUNS"):
        run_book("smoke")
    assert executed == []


def test_results_are_figures_but_for_those_of_smoke(shelf, executed):
    shelf(profile="demo", _01_a=notebook())
    ran(executed, "demo")
    assert (layout.project_root() / "figures" / "demo" / "shares.csv").exists()
    shelf()
    ran(executed)
    assert not (layout.project_root() / "figures" / "smoke").exists()
