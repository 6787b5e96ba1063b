import itertools
import os
import re
import subprocess
import sys

import nbformat
import pandas as pd
import papermill
import pytest

from topgap_nb.workbook.runner import (
    all_notebooks,
    check_parameters,
    declared_parameters,
    load_profile,
    promised_outputs,
    run_book,
)
from topgap_nb.workbook.student import tag_of

NOTEBOOKS = all_notebooks()
NAMES = [path.stem for path in NOTEBOOKS]


@pytest.fixture(params=NOTEBOOKS, ids=NAMES)
def book(request):
    return nbformat.read(request.param, as_version=4)


def test_source_has_no_outputs(book):
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_source_follows_the_skeleton(book):
    title, glance = book.cells[0].source, book.cells[1].source
    assert re.match(r"# \S.*[^.]\n", title)
    for row in ("Question", "Prediction and pass rule", "Paper", "Outputs", "Minutes"):
        if row != "Prediction and pass rule" or "Prediction" not in glance:
            assert f"| {row} |" in glance
    core = [cell for cell in book.cells if tag_of(cell) is None]
    closing = "\n".join(cell.source for cell in core[-2:])
    assert "## What we learnt" in closing
    assert "One limit:" in closing
    assert len(core) <= 36
    # The exercises stand between what we learnt and the next notebook.
    places = [i for i, cell in enumerate(book.cells) if tag_of(cell)]
    if places:
        assert places == list(range(places[0], len(book.cells) - 1))
        assert "**Next:**" in book.cells[-1].source


def test_each_notebook_leads_to_the_next():
    for path, following in itertools.pairwise(NOTEBOOKS):
        end = nbformat.read(path, as_version=4).cells[-1].source
        link = rf"\[`{following.stem}`\]\({following.name}\)"
        assert re.search(rf"\*\*Next:\*\* {link} \w", end), path.stem


def test_source_is_short_and_defines_no_classes(book):
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    core = [line for c in code if tag_of(c) is None for line in c.source.splitlines() if line]
    assert len(core) <= 170
    solutions = [c.source.splitlines() for c in code if tag_of(c) == "solution"]
    assert max(map(len, solutions), default=0) <= 16
    lines = [line for cell in code for line in cell.source.splitlines() if line.strip()]
    assert max(map(len, lines)) <= 100
    assert not any(line.startswith("class ") or "sys.path" in line for line in lines)


def test_parameters_are_explained_in_the_table_before_them(book):
    tables = [c.source for c in book.cells if c.source.startswith("| Parameter |")]
    for name in declared_parameters(book):
        assert f"`{name}`" in tables[0]


@pytest.mark.parametrize("profile", ["smoke", "demo", "paper"])
def test_profiles_fit_every_notebook(profile):
    given = load_profile(profile).parameters
    assert sorted(given) == NAMES
    for path in NOTEBOOKS:
        check_parameters(nbformat.read(path, as_version=4), given[path.stem], path.name)


def test_defaults_are_the_demo_profile():
    assert not any(load_profile("demo").parameters.values())


def test_outputs_cover_every_table_and_figure_of_the_paper():
    promised = [name for path in NOTEBOOKS for name in promised_outputs(nbformat.read(path, 4))]
    assert len(promised) == len(set(promised))
    for number in ("1", "2", "3", "4", "5", "6", "7", *(f"a{i}" for i in range(1, 8))):
        assert f"table_{number}.csv" in promised
    for number in range(1, 6):
        assert f"figure_{number}.png" in promised


def test_the_whole_book_runs_in_the_smoke_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPGAP_RUNS", str(tmp_path))
    run_book("smoke", echo=lambda line: None)
    figures = tmp_path / "smoke" / "figures"
    for path in NOTEBOOKS:
        for name in promised_outputs(nbformat.read(path, as_version=4)):
            assert (figures / name).stat().st_size > 0
    lines = []
    run_book("smoke", echo=lines.append)
    assert sum("unchanged, skipped" in line for line in lines) == len(NOTEBOOKS)
    report = subprocess.run(
        [sys.executable, "-m", "topgap_nb.cli", "report", "--profile", "smoke"],
        env={**os.environ, "TOPGAP_RUNS": str(tmp_path)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    board = (figures / "scoreboard.csv").read_text().splitlines()
    assert len(report.stdout.splitlines()) == len(board) - 1 > 10


def test_attacks_run_on_data_without_masks(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPGAP_RUNS", str(tmp_path))
    path = next(path for path in NOTEBOOKS if path.stem.startswith("04"))
    # Of the radiographs only some have masks.
    given = {**load_profile("smoke").parameters[path.stem], "PROFILE": "smoke", "GRID": []}
    given |= {"DATASET": "pneumonia", "ALSO": [[9, 0.1]]}
    papermill.execute_notebook(path, tmp_path / path.name, given, cwd=path.parent)
    figures = tmp_path / "smoke" / "interactive"
    table = pd.read_csv(figures / "table_3.csv")
    ours = table[table.source == "ours"].method.tolist()
    assert ours == ["Standard", "Top-GAP (here)", "Top-GAP (here), k = 9, lambda = 0.1"]
    for name in promised_outputs(nbformat.read(path, as_version=4), always=True):
        assert (figures / name).stat().st_size > 0
    assert not (figures / "table_4.csv").exists()
