"""The README's and the teacher's tables, drawn from results that the tests write."""

import re

import nbformat
import pandas as pd
import pytest

from topgap_nb.store.layout import PROJECT
from topgap_nb.workbook.notebooks import all_notebooks
from topgap_nb.workbook.readme import (
    exercise_table,
    notebook_table,
    open_row,
    real_table,
    verdict_table,
    ways_table,
)

COLUMNS = [
    "notebook", "hypothesis", "verdict", "effect", "effect_low", "effect_high", "threshold",
    "paper_effect", "n", "n_trainings",
]  # fmt: skip
ROBUST = ("04_attacks", "It holds on pets.", "supported", 0.1, 0.05, 0.2, 0, 0.3, 64, 2)
DISTANCE = ("03_field", "Its field is larger.", "not supported", -1, -2, -0.5, -0.02, None, 9, 1)
PLANTED = ("04_attacks", "On planted.", "supported", 1, 1, 1, 0, None, 1, 1)


@pytest.fixture
def results(tmp_path):
    for name, rows in {"cub": [DISTANCE], "pets": [ROBUST, DISTANCE, PLANTED]}.items():
        folder = tmp_path / name
        folder.mkdir()
        pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "scoreboard.csv", index=False)
        accuracies = {
            "source": "ours",
            "method": ["Standard", "Top-GAP (here)"],
            "clean": [0.9, 0.8],
        }
        pd.DataFrame({**accuracies, "n": 64.0, "n_trainings": 2.0}).to_csv(folder / "table_3.csv")
    return tmp_path


def cells(table):
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]


def test_a_verdict_has_its_numbers_and_a_link(results):
    head, rule, first, second = cells(verdict_table(results / "pets", notebooks="x/"))[:4]
    assert rule == ["---"] * len(head)
    assert first[:3] == ["[04](x/04_attacks.ipynb)", "It holds on pets.", "**supported**"]
    assert first[3:] == ["+0.100 [+0.050, +0.200]", "+0.00", "+0.300", "64 × 2"]
    assert second[3:] == ["-1.000 [-2.000, -0.500]", "-0.02", "–", "9 × 1"]


def test_real_data_sets_stand_side_by_side(results):
    head, _, clean, *verdicts, overlap = cells(real_table(results))
    assert head == ["", "claim", "cub", "pets"]
    assert clean[2:] == ["0.900, 0.800, n = 64 × 2"] * 2
    robust = "**supported** +0.100 [+0.050, +0.200], n = 64 × 2"
    field = "**not supported** -1.000 [-2.000, -0.500], n = 9 × 1"
    assert verdicts == [
        ["03", "Its field is larger.", field, field],
        ["04", "It holds on photographs.", "–", robust],
    ]
    assert overlap[2:] == ["–", "–"]
    assert real_table(results / "pets") == ""


@pytest.mark.parametrize("address", ["https://github.com/a/b", "https://github.com/a/b.git"])
def test_badges_open_the_repository_that_the_citation_names(tmp_path, address):
    citation = tmp_path / "CITATION.cff"
    citation.write_text(f"title: some\nrepository-code: {address}\n")
    assert "/gh/a/b/HEAD?labpath=notebooks%2F00_tour.ipynb)" in open_row(citation)
    citation.write_text("title: some\n")
    assert open_row(citation) == ""


def test_the_ways_through_the_book_add_up():
    names = [path.stem for path in all_notebooks()]
    table = ways_table({name: 10.0**index for index, name in enumerate(names)}).splitlines()
    sums = [cell.strip() for cell in table[-1].split("|")[4:-1]]
    # One minute for 00, ten for 01, and the scoreboard's power of ten.
    assert sums[0] == f"{11 + 10 ** (len(names) - 1)} min"
    assert sums[2] == f"{int('1' * len(names))} min"


def test_every_notebook_and_every_exercise_has_its_row():
    rows = notebook_table({path.stem: 1.25 for path in all_notebooks()}).splitlines()[2:]
    assert [row.split("](")[0][3:] for row in rows] == [path.stem for path in all_notebooks()]
    assert all(row.endswith(" 1.2 |") for row in rows)
    sources = [
        cell.source
        for path in all_notebooks()
        for cell in nbformat.read(path, as_version=4).cells
        if cell.source.startswith("### Exercise ")
    ]
    assert len(exercise_table().splitlines()) == 2 + len(sources)


@pytest.mark.parametrize("page", ["README.md", "notebooks/README.md"])
def test_every_local_link_leads_somewhere(page):
    path = PROJECT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), target
