"""From records to tables in the paper's layout, beside the paper's numbers."""

from statistics import mode

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
# What a number rests on, and how it is called beside the number.
SIZES = {"n": "n", "n_trainings": "trainings"}


def paper_table(number: str) -> pd.DataFrame:
    """Return one of the paper's tables, cell for cell.

    Args:
        number: the paper's numbering, ``1`` to ``7`` and ``a1`` to ``a7``.
    """
    path = paper_root() / f"table_{number.lower()}.csv"
    if not path.exists():
        raise UserError(f"the paper has no table {number!r}: it has 1 to 7 and A1 to A7")
    return pd.read_csv(path)


def paper_effect(number: str, column: str) -> pd.Series | None:
    """Return Top-GAP minus standard in a column, in each row of a table of the paper's.

    None where the paper has no such table or column: it then measures another quantity.
    """
    if not (paper_root() / f"table_{number}.csv").exists():
        return None
    paper, names = paper_table(number), (f"topgap_{column}", f"standard_{column}")
    return paper[names[0]] - paper[names[1]] if set(names) <= set(paper) else None


def key_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns that say what a row is about."""
    return [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c]) or c in KEY_COLUMNS]


def result_table(records: list[Record], number: str) -> pd.DataFrame:
    """Return our rows and then the paper's, in the paper's columns.

    Each quantity has ``_low`` and ``_high`` columns where it carries an interval; ``n`` and
    ``n_trainings`` are the test images and trainings behind most numbers of the row (of equally
    many, the first), and a quantity has ``_n`` and ``_n_trainings`` columns where it rests on
    others; ``source`` says whose it is.
    """
    mine = [r for r in records if r.table == number]
    if not mine:
        raise UserError(f"no record stands in table {number!r}")
    paper_file = paper_root() / f"table_{number}.csv"
    paper = paper_table(number) if paper_file.exists() else None
    told_apart_by = dict.fromkeys(key for r in mine for key in r.settings)
    keys = key_columns(paper) if paper is not None else list(told_apart_by)
    rows: dict[tuple, dict[str, Record]] = {}
    for record in mine:
        settings = {key: record.settings.get(key) for key in keys}
        row = rows.setdefault(tuple(settings.values()), {})
        if row.setdefault(record.quantity, record).value != record.value:
            raise UserError(
                f"table {number} has one cell for {record.quantity} of {settings}, and two records "
                f"disagree on it: tell them apart by a setting that the table has a column for"
            )
    # In the order of the fullest row: where one has only some of them, its order says little.
    fullest = sorted(rows.values(), key=len, reverse=True)
    quantities = list(dict.fromkeys(quantity for row in fullest for quantity in row))
    if paper is not None:
        quantities = [c for c in paper if c not in keys] + [q for q in quantities if q not in paper]
    ours = [dict(zip(keys, about, strict=True)) | _row(row) for about, row in rows.items()]
    frame = pd.DataFrame(ours).assign(source="ours")
    columns = ["source", *keys]
    for quantity in quantities:
        columns += [quantity, *(f"{quantity}_{side}" for side in ("low", "high", *SIZES))]
    columns += SIZES
    if paper is not None:
        frame = pd.concat([frame, paper.assign(source="paper")], ignore_index=True)
    return frame[[c for c in columns if c in frame]]


def _row(cells: dict[str, Record]) -> dict:
    """Return the columns of one row from its records, {quantity: record}."""
    # A number without images of its own, such as a count of parameters, rests on no size.
    sized = [record for record in cells.values() if record.n] or list(cells.values())
    row = {size: mode(getattr(record, size) for record in sized) for size in SIZES}
    for quantity, record in cells.items():
        cell = {"": record.value}
        if record.low != record.high:
            cell |= {"_low": record.low, "_high": record.high}
        own = {size: getattr(record, size) for size in SIZES if record.n}
        cell |= {f"_{size}": count for size, count in own.items() if count != row[size]}
        row |= {f"{quantity}{side}": value for side, value in cell.items()}
    return row


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table as it is shown: blanks as a dash, and beside a number its interval.

    Where a number rests on other test images or trainings than its row, these follow it.
    """
    sides = tuple(f"_{side}" for side in ("low", "high", *SIZES))
    shown = {}
    for column in frame:
        if any(column.endswith(side) and column.removesuffix(side) in frame for side in sides):
            continue
        beside = [f"{column}{side}" for side in sides]
        rows = frame.reindex(columns=[column, *beside]).itertuples(index=False)
        shown[column] = [_full_cell(column, *row) for row in rows]
    return pd.DataFrame(shown, index=frame.index)


def _full_cell(column: str, value, low: float, high: float, *sizes: float) -> str:
    named = zip(SIZES.values(), sizes, strict=True)
    own = ", ".join(f"{name} = {count:.0f}" for name, count in named if pd.notna(count))
    number = _cell(column, value) if pd.isna(low) else _interval(value, low, high)
    return f"{number} ({own})" if own else number


def _interval(value: float, low: float, high: float) -> str:
    without = pd.isna(low) or low == high
    return _cell("", value) + ("" if without else f" [{low:.3f}, {high:.3f}]")


def _cell(column: str, value) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, str):
        return value
    if column == "converged":
        return "yes" if value == 1 else "no" if value == 0 else f"{value:.0%} of the trainings"
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
