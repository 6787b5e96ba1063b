"""The README's and the teacher's tables, drawn from results that the tests write."""

import re

import nbformat
import pandas as pd
import pytest

from topgap_nb.store.layout import PROJECT
from topgap_nb.workbook import readme
from topgap_nb.workbook.notebooks import all_notebooks
from topgap_nb.workbook.readme import (
    TRIAL,
    claims_table,
    evidence_table,
    exercise_table,
    first_looks,
    notebook_table,
    open_row,
    read_board,
    real_table,
    shown_profile,
    shown_words,
    verdict_table,
    ways_table,
)

# Those of the first edition; SINCE are those that came with the second.
COLUMNS = [
    "notebook", "hypothesis", "verdict", "effect", "effect_low", "effect_high", "threshold",
    "paper_effect", "n", "n_trainings",
]  # fmt: skip
SINCE = {
    "claim_of_paper": True, "unit": "robust_accuracy", "smallest_effect": 0.05, "why": "|X| fell.",
    "alone": "supported", "p_holm": 0.012, "paper_low": 0.07, "paper_high": 0.4,
}  # fmt: skip
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
    rows = [re.split(r"(?<!\\)\|", row)[1:-1] for row in table.splitlines()]
    return [[cell.strip() for cell in row] for row in rows]


def board(folder, *changes):
    """Write a scoreboard of this edition, one row for each change; return its folder."""
    rows = [dict(zip(COLUMNS, ROBUST, strict=True)) | SINCE | change for change in changes]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "scoreboard.csv", index=False)
    return folder


def test_a_verdict_has_its_numbers_and_a_link(tmp_path):
    head, rule, row = cells(verdict_table(board(tmp_path, {}), notebooks="x/"))
    assert rule == ["---"] * len(head)
    assert head == ["", "the paper says", "we find", "why", "images × trainings"]
    assert row == [
        "[04](x/04_attacks.ipynb)",
        "It holds on pets. *Paper: +0.300 (+0.070 to +0.400).*",
        "**supported** +0.100 [+0.050, +0.200] in robust accuracy; relevant from 0.05, p = 0.012",
        r"\|X\| fell.",
        "64 × 2",
    ]


@pytest.mark.parametrize(
    ("change", "column", "words"),
    [
        ({"verdict": "inconclusive"}, 2, r"^\*\*inconclusive\*\* \(alone: supported\) \+0\.100"),
        ({"verdict": "no effect of relevant size"}, 2, r"; 90 % interval within ±0\.05, p = "),
        ({"p_holm": 0.0002}, 2, r"p < 0\.001$"),
        ({"p_holm": None, "smallest_effect": 0, "unit": ""}, 2, r"\+0\.200\]$"),
        ({"threshold": -0.02}, 2, r"; threshold -0\.02, relevant from 0\.05"),
        ({"paper_low": 0.3, "paper_high": 0.3}, 1, r"\*Paper: \+0\.300\.\*$"),
        ({"paper_effect": None}, 1, r"^It holds on pets\.$"),
        ({"why": None}, 3, "^–$"),
    ],
)
def test_a_verdict_says_what_it_is_held_against(tmp_path, change, column, words):
    assert re.search(words, cells(verdict_table(board(tmp_path, change)))[2][column])


def test_readings_stand_below_the_claims_of_the_paper(tmp_path):
    other = {"claim_of_paper": False, "hypothesis": "Another reading.", "p_holm": None}
    claims, others = verdict_table(board(tmp_path, {}, other)).split("\n\nOther readings")
    assert [row[1][:8] for row in cells(claims)] == ["the pape", "---", "It holds"]
    head, _, row = cells(others.split("\n\n")[1])
    assert head[1] == "claim"
    assert row[1] == "Another reading. *Paper: +0.300 (+0.070 to +0.400).*"
    # Only claims of the paper are corrected for their number.
    assert row[2].startswith("**supported** (uncorrected) +0.100")


def test_readings_can_be_folded_away(tmp_path):
    folder = board(tmp_path, {}, {"claim_of_paper": False, "hypothesis": "Another reading."})
    open_table = verdict_table(folder)
    shown, folded = verdict_table(folder, brief=True).split("<details>")
    assert "Another reading." not in shown
    assert folded.endswith("</details>")
    for brief, whole in ((shown, open_table.split("\n\n")[0]), (folded, open_table)):
        *_, told = [row for row in cells(brief) if len(row) == 4]
        *_, full = [row for row in cells(whole) if len(row) == 5]
        assert told == [*full[:3], full[4]]


def test_minutes_stand_beside_the_verdicts_of_a_notebook(tmp_path):
    rows = read_board(board(tmp_path, {}, {"notebook": "05_shifts"}))
    head, _, *found = cells(claims_table(rows, took={"04_attacks": 2.54}))
    assert head[-1] == "minutes"
    assert [row[-1] for row in found] == ["2.5", "–"]


def test_a_board_of_the_first_edition_is_read(results):
    first, second, _ = cells(verdict_table(results / "pets"))[2:]
    assert first[1:3] == [
        "It holds on pets. *Paper: +0.300.*",
        "**supported** +0.100 [+0.050, +0.200]",
    ]
    assert second[2] == "**not supported** -1.000 [-2.000, -0.500]; threshold -0.02"
    assert second[3:] == ["–", "9 × 1"]


def test_the_page_shows_the_trial_once_it_has_been_run(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "results_folder", lambda profile: tmp_path / profile)
    monkeypatch.setattr(readme, "made_by", lambda profile: {"a": {"hardware": "a CPU"}})
    reading = {"claim_of_paper": False, "verdict": "inconclusive"}
    late = {"verdict": "not converged", "alone": "not converged"}
    board(tmp_path / "demo", late, {}, reading)
    assert shown_profile("demo") == "demo"
    words = shown_words("demo")
    assert words.startswith("**A first look, not the trial** (profile `demo`, a CPU)")
    assert words.endswith(": of 2 claims of the paper 1 *not converged*, 1 *supported*.")
    board(tmp_path / TRIAL, {"verdict": "inconclusive"})
    assert shown_profile("demo") == TRIAL
    assert shown_words(TRIAL) == (
        f"**The trial** (profile `{TRIAL}`, a CPU): of 1 claims of the paper 1 *inconclusive*. "
        "By itself, without the correction for many, 1 more would be *supported*."
    )


def test_an_accuracy_over_fewer_images_than_its_row_says_so(results):
    table = pd.read_csv(results / "cub" / "table_3.csv")
    table.assign(clean_n=[50.0, None], clean_n_trainings=[3.0, None]).to_csv(
        results / "cub" / "table_3.csv"
    )
    clean = cells(real_table(results))[2]
    assert clean[2:] == ["0.900, 0.800, n = 50 × 3", "0.900, 0.800, n = 64 × 2"]


def test_real_data_sets_stand_side_by_side(results):
    head, _, clean, *verdicts, overlap = cells(real_table(results))
    assert head == ["", "claim", "cub", "pets"]
    assert clean[2:] == ["0.900, 0.800, n = 64 × 2"] * 2
    # By today's rules these verdicts would be others, so only the effects stand.
    robust, field = "+0.100 [+0.050, +0.200], n = 64 × 2", "-1.000 [-2.000, -0.500], n = 9 × 1"
    assert verdicts == [
        ["03", "Its field is larger.", field, field],
        ["04", "It holds on photographs.", "–", robust],
    ]
    assert overlap[2:] == ["–", "–"]
    assert real_table(results / "pets") == ""


def test_claims_stand_beside_each_other_across_data_sets(tmp_path):
    places = tmp_path / "evidence" / "cells", tmp_path / "evidence" / "toys"
    board(places[0], {"hypothesis": "It holds on cells."}, {"claim_of_paper": False})
    assert evidence_table(tmp_path / "evidence") == ""
    weaker = {"hypothesis": "It holds on rays.", "verdict": "inconclusive"}
    board(places[1], {"hypothesis": "It holds on toys."}, weaker)
    head, _, *rows = cells(evidence_table(tmp_path / "evidence"))
    assert head[2] == "[cells](figures/evidence/cells/numbers.csv)"
    found = "**supported** +0.100 [+0.050, +0.200], n = 64 × 2"
    by_itself = found.replace("supported**", "inconclusive** (alone: supported)")
    assert rows == [
        ["04", "It holds on the data set.", found, found],
        ["04", "It holds on rays.", "–", by_itself],
    ]


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


def test_what_is_not_on_trial_is_shown_as_a_first_look(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "results_folder", lambda name: tmp_path / name)
    field = {"notebook": "03_field", "hypothesis": "Wide.", "verdict": "not converged"}
    board(tmp_path / "demo", {}, field)
    board(tmp_path / "trial", {})
    words = first_looks("demo", "trial").strip()
    assert words.startswith("Not on trial yet: notebooks 03. [A first look at them](figures/demo/")
    assert first_looks("demo", "demo") == ""


PAGES = [
    "README.md", "CONTRIBUTING.md", "CLUSTER.md", "notebooks/README.md", "notebooks/teacher.md",
    *(str(path.relative_to(PROJECT)) for path in sorted(PROJECT.glob("figures/**/*.md"))),
]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_every_local_link_leads_somewhere(page):
    path = PROJECT / page
    # Code may hold brackets before parentheses.
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        assert "://" in target or (path.parent / target).exists(), target
