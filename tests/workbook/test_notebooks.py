"""The notebooks as they are committed, what their sources declare, and the whole book."""

import itertools
import os
import re
import subprocess
import sys

import nbformat
import pandas as pd
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from topgap_nb import UserError, load_profile
from topgap_nb.store import layout
from topgap_nb.workbook.notebooks import (
    all_notebooks,
    check_given,
    check_parameters,
    declared_parameters,
    declared_ranges,
    promised_outputs,
)
from topgap_nb.workbook.runner import run_book
from topgap_nb.workbook.student import exercise_part

NOTEBOOKS = all_notebooks()
NAMES = [path.stem for path in NOTEBOOKS]
PARAMETERS = 'PROFILE = "smoke"\nNAME = "disk"\nSHARE = 0.5\nCOUNTS = [1, 2]\nQUICK = True'


@pytest.fixture(params=NOTEBOOKS, ids=NAMES)
def book(request):
    return nbformat.read(request.param, as_version=4)


# Their sources


def test_source_has_no_outputs(book):
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_source_follows_the_skeleton(book):
    title, glance = book.cells[0].source, book.cells[1].source
    assert re.match(r"# \S.*\?\n", title)
    for row in ("Question", "Paper", "Outputs", "Minutes"):
        assert f"| {row} |" in glance
    assert re.search(r"^\| (Prediction|Rule)", glance, re.MULTILINE)
    # The exercises stand between the verdicts and the next notebook.
    places = [i for i, cell in enumerate(book.cells) if exercise_part(cell)]
    if places:
        assert places == list(range(places[0], len(book.cells) - 1))
        assert "**Next:**" in book.cells[-1].source


def test_each_source_leads_to_the_next():
    for path, following in itertools.pairwise(NOTEBOOKS):
        end = nbformat.read(path, as_version=4).cells[-1].source
        link = rf"\[`{following.stem}`\]\({following.name}\)"
        assert re.search(rf"\*\*Next:\*\* {link} \w", end), path.stem


def test_source_lines_fit_and_leave_the_path_alone(book):
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    lines = [line for cell in code for line in cell.source.splitlines()]
    assert max(map(len, lines)) <= 100
    assert not any("sys.path" in line for line in lines)


def test_source_explains_its_parameters_in_the_table_before_them(book):
    tables = [c.source for c in book.cells if c.source.startswith("| Parameter |")]
    for name in declared_parameters(book):
        assert f"`{name}`" in tables[0]


def test_source_takes_profile_and_results_folder_and_reads_every_parameter(book):
    check_parameters(book, {"PROFILE": "demo", "RESULTS": ""}, "notebook")
    assert declared_parameters(book)["RESULTS"] == ""


@pytest.mark.parametrize("profile", ["smoke", "demo", "paper"])
def test_profiles_fit_every_notebook(profile):
    given = load_profile(profile).notebooks
    assert sorted(given) == NAMES
    for path in NOTEBOOKS:
        check_parameters(nbformat.read(path, as_version=4), given[path.stem], path.name)


def test_defaults_are_the_demo_profile():
    assert not any(load_profile("demo").notebooks.values())


def test_outputs_cover_every_table_and_figure_of_the_paper():
    books = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    promised = [name for book in books for name in promised_outputs(book)]
    assert len(promised) == len(set(promised))
    for number in ("1", "2", "3", "4", "5", "6", "7", *(f"a{i}" for i in range(1, 8))):
        assert f"table_{number}.csv" in promised
    for number in range(1, 6):
        assert f"figure_{number}.png" in promised


# What a source declares


def notebook(*sources, parameters=PARAMETERS, glance=""):
    cells = [new_markdown_cell(f"# A title\n\n{glance}")]
    if parameters is not None:
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    reads = "print(PROFILE, NAME, SHARE, COUNTS, QUICK)"
    return new_notebook(cells=[*cells, *map(new_code_cell, [reads, *sources])])


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
def test_a_wrong_parameter_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        check_parameters(notebook(), given, "01_a.ipynb")


@pytest.mark.parametrize("given", [{"SHARE": 1}, {"COUNTS": []}, {"COUNTS": [5]}, {}])
def test_a_right_parameter_is_accepted(given):
    check_parameters(notebook(), given, "01_a.ipynb")


TABLE = """| Parameter | Meaning | Unit | Paper | Sensible range |
|---|---|---|---|---|
| `NAME` | what | – | – | any |
| `SHARE` | how much | share | – | 0: as suggested |
| `COUNTS` | how many | images | all | 100 and more |"""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"SHARE": 20}, r"01_a\.ipynb: SHARE = 20 is out of range: give 0 to 1"),
        ({"SHARE": 1.01}, "SHARE = 1.01"),
        ({"SHARE": -0.5}, "SHARE = -0.5"),
        ({"SHARE": float("nan")}, "SHARE = nan"),
        ({"COUNTS": [3, 0]}, "COUNTS = 0 is out of range: give 1 or more"),
    ],
)
def test_a_parameter_outside_the_range_of_its_unit_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        check_parameters(notebook(glance=TABLE), given, "01_a.ipynb")


def test_ranges_come_from_the_units_and_zero_from_a_row_that_explains_it():
    book = new_notebook(cells=[new_markdown_cell(TABLE.replace("100 and more", "0 is all"))])
    assert declared_ranges(book) == {"SHARE": (0, 1), "COUNTS": (0, float("inf"))}
    assert declared_ranges(notebook()) == {}


def test_parameters_take_the_types_of_their_defaults():
    parameters = f"{PARAMETERS}\nGRID = [0.5, 1.0]"
    book = notebook("print(GRID)", parameters=parameters, glance=TABLE)
    given = {"SHARE": 1, "GRID": [1, 0.25], "COUNTS": [5], "NAME": "ring"}
    found = check_parameters(book, given, "01_a.ipynb")
    assert found == given
    assert [type(value) for value in (found["SHARE"], *found["GRID"])] == [float] * 3
    assert type(found["COUNTS"][0]) is int


def test_a_share_that_papermill_gives_as_1_is_the_whole_map_and_not_one_position():
    names = {"K_FRACTION": 1, "EPSILON": 2, "ATTACKED": 60, "study": "untouched"}
    check_given("10_your_own_data", names)
    assert names == {"K_FRACTION": 1.0, "EPSILON": 2.0, "ATTACKED": 60, "study": "untouched"}
    assert isinstance(names["K_FRACTION"], float)
    for wrong in ({"K_FRACTION": 20}, {"K_FRACTION": "half"}, {"EPSILON": -1}, {"LONGEST": 0}):
        (name,) = wrong
        with pytest.raises(UserError, match=rf"10_your_own_data\.ipynb: {name} = "):
            check_given("10_your_own_data", wrong)


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


def test_promises_stand_in_the_outputs_row_only():
    glance = "| At a glance | |\n|---|---|\n| Outputs | `shares.csv` |"
    book = notebook(glance=f"`not_this.csv`\n\n{glance}\n| Time | `nor_this.png` |")
    assert promised_outputs(book) == ["shares.csv"]
    assert promised_outputs(notebook()) == []


def test_what_needs_masks_is_promised_only_where_there_are_some():
    book = notebook(glance="| Outputs | `a.csv`, `b.png`; with masks `c.csv` |")
    assert promised_outputs(book) == ["a.csv", "b.png", "c.csv"]
    assert promised_outputs(book, always=True) == ["a.csv", "b.png"]


# The whole book


@pytest.mark.slow
def test_the_whole_book_runs_in_the_smoke_profile(runs):
    run_book("smoke", echo=lambda line: None)
    figures = layout.results_folder("smoke")
    for path in NOTEBOOKS:
        for name in promised_outputs(nbformat.read(path, as_version=4)):
            assert (figures / name).stat().st_size > 0
    lines = []
    run_book("smoke", echo=lines.append)
    assert sum("unchanged, skipped" in line for line in lines) == len(NOTEBOOKS)
    report = subprocess.run(
        [sys.executable, "-m", "topgap_nb.cli", "report", "--profile", "smoke"],
        env={**os.environ, "TOPGAP_RUNS": str(runs)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    board = (figures / "scoreboard.csv").read_text().splitlines()
    assert len(report.stdout.splitlines()) == len(board) - 1 > 10


@pytest.mark.slow
def test_attacks_run_on_data_without_masks(runs, tmp_path):
    path = next(path for path in NOTEBOOKS if path.stem.startswith("04"))
    # Of the radiographs only some have masks.
    given = {**load_profile("smoke").notebooks[path.stem], "PROFILE": "smoke", "GRID": [1.0]}
    given |= {"DATASET": "pneumonia", "ALSO": [[9, 0.1]], "READING_SEEDS": []}
    given["RESULTS"] = str(tmp_path / "results")
    papermill.execute_notebook(path, tmp_path / path.name, given, cwd=path.parent)
    table = pd.read_csv(tmp_path / "results" / "table_3.csv")
    ours = table[table.source == "ours"].method.tolist()
    assert ours == ["Standard", "Top-GAP (here)", "Top-GAP (here), k = 9, lambda = 0.1"]
    for name in promised_outputs(nbformat.read(path, as_version=4), always=True):
        assert (tmp_path / "results" / name).stat().st_size > 0
    assert not (tmp_path / "results" / "table_4.csv").exists()
