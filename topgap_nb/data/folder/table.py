"""A table of classes, ``labels.csv``: first column the image, second its class."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from topgap_nb.data.image_file import SUFFIXES, plain
from topgap_nb.errors import UserError


class Labels(NamedTuple):
    """The class of each image that the table names, and the rows that no image belongs to."""

    classes: dict[Path, str]
    unused: list[str]


def read_table(table: Path, files: Sequence[Path]) -> Labels:
    """Return what a table says of image files; every cell is text, also ``NA`` and ``None``.

    A first row that names neither a file nor a number is taken for the heads of the columns.

    Args:
        table: with commas, semicolons or tabs, in UTF-8.
        files: the images; a row may give a file's name, its stem, or its number (7 is 007).

    Raises:
        UserError: not such a table, no row names an image, or two rows give an image two classes.
    """
    rows = _rows(table)
    keys = {file: [_key(file.name), _key(file.stem)] for file in files}
    known = {key for names in keys.values() for key in names}
    if rows and not _is_data(rows[0][0], known):
        rows = rows[1:]
    labels_of = defaultdict(set)
    for name, label, *_ in rows:
        if label.lower().endswith(SUFFIXES):
            raise UserError(
                f"{plain(table)} gives {name!r} the class {label!r}, a file: put the image into "
                "the first column and its class into the second"
            )
        if label:
            labels_of[_key(name)].add(label)
    found = {file: set().union(*(labels_of.get(key, ()) for key in keys[file])) for file in files}
    if two := [file for file, labels in found.items() if len(labels) > 1]:
        raise UserError(
            f"{plain(table)} gives more than one class to {few(file.name for file in two)} (the "
            f"first is both {' and '.join(sorted(found[two[0]]))}): keep one row for each"
        )
    classes = {file: labels.pop() for file, labels in found.items() if labels}
    if not classes:
        raise UserError(
            f"no row of {plain(table)} gives an image in {plain(table.parent)} a class: the first "
            "column is the file's name, the second the class"
        )
    return Labels(classes, [name for name, *_ in rows if _key(name) not in known])


def _rows(table: Path) -> list[list[str]]:
    """Return the table's rows that are not empty, each of at least two cells."""
    try:
        lines = table.read_text("utf-8-sig").splitlines()
        full = [line for line in lines if line.strip(" ,;\t")]
        mark = max(",;\t", key=lambda mark: sum(mark in line for line in full))
        cells = list(csv.reader(lines, delimiter=mark, skipinitialspace=True, strict=True))
    except (ValueError, OSError, csv.Error) as error:
        raise UserError(
            f"{plain(table)} is not a table ({' '.join(str(error).split())}): save it as CSV in "
            "UTF-8"
        ) from error
    rows = []
    for number, row in enumerate(cells, start=1):
        row = [plain(cell.strip()) for cell in row]
        while row and not row[-1]:
            row.pop()
        if not row:
            continue
        if not row[0]:
            raise UserError(f"{plain(table)} names no image in its row {number}: complete it")
        rows.append([*row, ""] if len(row) == 1 else row)
        if len(row) > max(2, len(rows[0])):
            raise UserError(
                f"{plain(table)} has more cells in its row {number} than in its first: put cells "
                "that hold a separator into double quotes"
            )
    if not any(label for _, label, *_ in rows):
        raise UserError(f"{plain(table)} needs two columns: the image, then its class")
    return rows


def _is_data(cell: str, known: set[str]) -> bool:
    return _key(cell) in known or cell.isdecimal() or cell.lower().endswith(SUFFIXES)


def _key(name: str) -> str:
    """Return what a table and a file must share: the name, or its number (7 is 007)."""
    name = plain(name.strip())
    return name.lstrip("0") or "0" if name.isdecimal() else name


def few(names: Iterable[str], count: int = 10) -> str:
    """Return the first names in one line, and how many there are beyond."""
    names = [plain(name) for name in names]
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" * (len(names) > count))
