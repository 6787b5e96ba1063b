"""From records to tables in the paper's layout, beside the paper's numbers."""

import numpy as np
import pandas as pd

from topgap_nb.errors import UserError
from topgap_nb.results.records import Record
from topgap_nb.results.statistics import Estimate
from topgap_nb.store.layout import paper_root

ARCHITECTURES = {
    "convnext_tiny": "ConvNeXt-tiny",
    "densenet121": "DenseNet-121",
    "efficientnet_b0": "EfficientNet-B0",
    "preact_resnet18": "PreAct ResNet-18",
    "preact_resnet18_quarter": "PreAct ResNet-18, a quarter as wide",
    "resnet18": "ResNet-18",
    "tf_efficientnet_lite0": "EfficientNet-Lite0",
    "vgg11_bn": "VGG11-BN",
}
# Columns that tell a table's rows apart, though they hold numbers.
KEY_COLUMNS = {"sparsity_weight", "k"}


def paper_table(number: str) -> pd.DataFrame:
    """Return one of the paper's tables, cell for cell.

    Args:
        number: the paper's numbering, ``1`` to ``7`` and ``a1`` to ``a7``.
    """
    path = paper_root() / f"table_{number.lower()}.csv"
    if not path.exists():
        raise UserError(f"the paper has no table {number!r}: it has 1 to 7 and A1 to A7")
    return pd.read_csv(path)


def paper_effect(number: str, column: str) -> float | None:
    """Return the mean over a paper table's rows of Top-GAP minus standard in a column.

    None where the paper has no such table or column.
    """
    if not (paper_root() / f"table_{number}.csv").exists():
        return None
    paper, names = paper_table(number), (f"topgap_{column}", f"standard_{column}")
    if not set(names) <= set(paper):
        return None
    return float((paper[names[0]] - paper[names[1]]).mean())


def key_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns that say what a row is about."""
    return [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c]) or c in KEY_COLUMNS]


def result_table(records: list[Record], number: str) -> pd.DataFrame:
    """Return our rows and then the paper's, in the paper's columns.

    Each quantity has ``_low`` and ``_high`` columns where it carries an interval; ``n`` and
    ``n_trainings`` are the test images and trainings behind the row; ``source`` says whose it is.
    """
    mine = [r for r in records if r.table == number]
    if not mine:
        raise UserError(f"no record stands in table {number!r}")
    paper_file = paper_root() / f"table_{number}.csv"
    paper = paper_table(number) if paper_file.exists() else None
    told_apart_by = dict.fromkeys(key for r in mine for key in r.settings)
    keys = key_columns(paper) if paper is not None else list(told_apart_by)
    quantities = list(dict.fromkeys(r.quantity for r in mine))
    if paper is not None:
        quantities = [c for c in paper if c not in keys] + [q for q in quantities if q not in paper]
    rows: dict[tuple, dict] = {}
    for record in mine:
        settings = {key: record.settings.get(key) for key in keys}
        row = rows.setdefault(tuple(settings.values()), {"source": "ours", **settings})
        if row.get(record.quantity, record.value) != record.value:
            raise UserError(
                f"table {number} has one cell for {record.quantity} of {settings}, and two records "
                f"disagree on it: tell them apart by a setting that the table has a column for"
            )
        row[record.quantity] = record.value
        if record.low != record.high:
            row[f"{record.quantity}_low"] = record.low
            row[f"{record.quantity}_high"] = record.high
        row["n"], row["n_trainings"] = record.n, record.n_trainings
    frame = pd.DataFrame(rows.values())
    columns = ["source", *keys]
    for quantity in quantities:
        columns += [quantity, f"{quantity}_low", f"{quantity}_high"]
    columns += ["n", "n_trainings"]
    if paper is not None:
        frame = pd.concat([frame, paper.assign(source="paper")], ignore_index=True)
    return frame[[c for c in columns if c in frame]]


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table as it is shown: intervals beside their numbers, blanks as a dash."""
    shown = pd.DataFrame(index=frame.index)
    for column in frame:
        if column.endswith(("_low", "_high")):
            continue
        if f"{column}_low" in frame:
            bounds = (frame[column], frame[f"{column}_low"], frame[f"{column}_high"])
            shown[column] = [_interval(*cell) for cell in zip(*bounds, strict=True)]
        else:
            shown[column] = [_cell(column, value) for value in frame[column]]
    return shown


def _interval(value: float, low: float, high: float) -> str:
    without = pd.isna(low) or low == high
    return _cell("", value) + ("" if without else f" [{low:.3f}, {high:.3f}]")


def _cell(column: str, value) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, str):
        return value
    if column in ("n", "n_trainings", "trainings"):
        return f"{value:.0f}" if value else "–"
    if isinstance(value, int | np.integer):
        return str(value)
    if column.endswith("_parameters"):
        return f"{value:.2f}"
    return f"{value:.4g}" if column in KEY_COLUMNS else f"{value:.3f}"


def format_interval(estimate: Estimate | Record) -> str:
    """Return a number with its interval, as prose shows it.

    Example:
        >>> format_interval(Estimate(0.9512, 0.9321, 0.9654, 400))
        '0.951 [0.932, 0.965]'
    """
    return _interval(estimate.value, estimate.low, estimate.high)


def as_markdown(frame: pd.DataFrame) -> str:
    """Return a table as Markdown, as it is shown."""
    view = readable(frame)
    head = [column.replace("_", " ") for column in view]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in view.itertuples(index=False)]
    return "\n".join(lines)


def as_latex(frame: pd.DataFrame) -> str:
    """Return a table as LaTeX, as it is shown."""
    view = readable(frame)
    view = view.set_axis([column.replace("_", " ") for column in view], axis=1)
    return view.replace({"–": "--"}, regex=True).to_latex(index=False, escape=True)
