"""Sentences to quote stand only while the verdicts and numbers are those they were written for."""

import pandas as pd
import pytest

from topgap_nb.workbook.quotations import quotations

CLAIMS = {
    "Top-GAP keeps the accuracy of the standard network on planted.": ("supported", 0.005),
    "Top-GAP is more robust to PGD-40 at 2/255.": ("supported", 0.372),
    "Top-GAP's maps are sparser than Grad-CAM on the standard network.": ("supported", 0.136),
    "Top-GAP's maps overlap the object better than the best map.": ("not supported", -0.099),
}
SATURATED = {
    "network": ["saturated (no l1)"],
    "pgd_20": 0.63,
    "margin_20": 0.0,
    "n": 32,
    "n_trainings": 1,
}
BOTH = {"method": ["Standard", "Top-GAP (here)", "Top-GAP"], "source": ["ours", "ours", "paper"]}


@pytest.fixture
def trial(tmp_path):
    """Write a trial's tables; return its folder and its scoreboard."""
    maps = ["Top-GAP, own map", "standard, Grad-CAM, last layer", "standard, LayerCAM, fine layer"]
    tables = {
        "table_3": {**BOTH, "pgd_20": [0.0, 0.0, 0.517], "pgd_50": 0.0, "margin_20": 0.0},
        "table_06_sparsity": {"method": maps, "l1": [0.091, 0.228, 0.06]},
        "table_08_pattern": SATURATED,
    }
    for name, columns in tables.items():
        write(tmp_path, name, columns)
    board = pd.DataFrame(
        [(claim, verdict, x, x - 0.01, x + 0.01) for claim, (verdict, x) in CLAIMS.items()],
        columns=["hypothesis", "verdict", "effect", "effect_low", "effect_high"],
    )
    return tmp_path, board


def write(folder, name, columns):
    pd.DataFrame({"source": "ours", **columns}).to_csv(folder / f"{name}.csv", index=False)


def test_the_numbers_are_those_of_the_records(trial):
    robust, maps, masking = quotations(*trial)
    assert "(+0.005 [-0.005, +0.015])" in robust
    assert "PGD-40 at 2/255" in robust
    assert "(+0.372 [+0.362, +0.382] of them)" in robust
    assert "l1 0.09 against 0.23" in maps
    assert "size (0.06)" in maps
    assert "IoU -0.099 [-0.109, -0.089]" in maps
    assert "keeps 0.63 of its images under PGD-20 at 8/255 and 0.00 when" in masking
    assert "(n = 32, trainings: 1): a number like the 0.517 of the paper's" in masking


@pytest.mark.parametrize("claim", CLAIMS)
def test_another_verdict_takes_its_sentence_away_and_no_other(trial, claim):
    folder, board = trial
    board.loc[board.hypothesis == claim, "verdict"] = "inconclusive"
    left = quotations(folder, board)
    assert len(left) == 2
    assert left[0].startswith("Top-GAP's maps" if "maps" not in claim else "Top-GAP keeps")


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        # Something is left of an image at 8/255.
        ("table_3", {**BOTH, "pgd_20": [0.1, 0.0, 0.517], "pgd_50": 0.0, "margin_20": 0.0}),
        # Its margin withstands, too: then nothing is masked.
        ("table_08_pattern", {**SATURATED, "margin_20": 0.4}),
    ],
)
def test_other_numbers_take_their_sentence_away(trial, name, columns):
    folder, board = trial
    write(folder, name, columns)
    assert len(quotations(folder, board)) == 2
