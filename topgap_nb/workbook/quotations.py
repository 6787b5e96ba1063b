"""Sentences to quote: what the trial found, with the numbers of its committed records.

A sentence is written for certain verdicts, and left out as soon as a run brings others: its numbers
can be filled in again, its words cannot.
"""

from pathlib import Path

import pandas as pd

ROBUSTNESS = (
    "Top-GAP keeps the accuracy of the standard network ({kept}) and leaves more images unbroken "
    "by PGD-40 at {budget} ({small} of them); at 8/255, the budget of the paper's Table 3, PGD "
    "breaks every image of both."
)
MAPS = (
    "Top-GAP's maps are sparser than Grad-CAM at the last layer (l1 {own:.2f} against {last:.2f}) "
    "but not sparser than LayerCAM at a layer of their own size ({fine:.2f}), and they overlap the "
    "object less than the standard network's best map does (IoU {overlap})."
)
MASKING = (
    "A network built to saturate, with the same pooling and no l1 term, keeps {loss:.2f} of its "
    "images under PGD-20 at 8/255 and {margin:.2f} when the same attack follows the margin of the "
    "logits (n = {n:.0f}, trainings: {trainings:.0f}): a number like the {paper} of the paper's "
    "Table 3 does not show robustness by itself."
)


def quotations(folder: Path, board: pd.DataFrame) -> list[str]:
    """Return what a busy reader can quote of a trial; fewer sentences where verdicts have changed.

    Args:
        folder: the trial's results, with the tables that the sentences take numbers from.
        board: its scoreboard.
    """
    sentences = (write(folder, board) for write in (_robustness, _maps, _masking))
    return [sentence for sentence in sentences if sentence]


def effect_words(row) -> str:
    """Return the effect of a row of a scoreboard, with its interval."""
    return f"{row.effect:+.3f} [{row.effect_low:+.3f}, {row.effect_high:+.3f}]"


def _robustness(folder: Path, board: pd.DataFrame) -> str:
    kept = _judged(board, "Top-GAP keeps the accuracy", "supported")
    small = _judged(board, "Top-GAP is more robust to PGD-40", "supported")
    large = _ours(folder / "table_3.csv")[["pgd_20", "pgd_50", "margin_20"]]
    if kept is None or small is None or (large > 0).any(axis=None):
        return ""
    budget = small.hypothesis.rstrip(".").rpartition(" at ")[2]
    return ROBUSTNESS.format(kept=effect_words(kept), small=effect_words(small), budget=budget)


def _maps(folder: Path, board: pd.DataFrame) -> str:
    sparser = _judged(board, "Top-GAP's maps are sparser than Grad-CAM", "supported")
    overlap = _judged(board, "Top-GAP's maps overlap the object better than the", "not supported")
    l1 = _ours(folder / "table_06_sparsity.csv").l1
    own, last = l1["Top-GAP, own map"], l1["standard, Grad-CAM, last layer"]
    fine = l1["standard, LayerCAM, fine layer"]
    if sparser is None or overlap is None or not fine < own < last:
        return ""
    return MAPS.format(own=own, last=last, fine=fine, overlap=effect_words(overlap))


def _masking(folder: Path, board: pd.DataFrame) -> str:
    made = _ours(folder / "table_08_pattern.csv").loc["saturated (no l1)"]
    table = pd.read_csv(folder / "table_3.csv").set_index(["source", "method"])
    if not (made.pgd_20 > 0.3 and made.margin_20 < 0.05):
        return ""
    return MASKING.format(
        loss=made.pgd_20,
        margin=made.margin_20,
        n=made.n,
        trainings=made.n_trainings,
        paper=table.loc[("paper", "Top-GAP"), "pgd_20"],
    )


def _judged(board: pd.DataFrame, claim: str, verdict: str) -> pd.Series | None:
    """Return the first claim that starts so; None where there is none or its verdict is another."""
    found = board[board.hypothesis.str.startswith(claim)]
    return found.iloc[0] if len(found) and found.iloc[0].verdict == verdict else None


def _ours(path: Path) -> pd.DataFrame:
    """Return our rows of a table, by network or method."""
    table = pd.read_csv(path)
    named = table.set_index("network" if "network" in table else "method")
    return named[named.source.eq("ours")]
