"""What a notebook's source says: the parameters that it declares, the outputs that it promises."""

import ast
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from topgap_nb.errors import UserError
from topgap_nb.store.fingerprint import parse
from topgap_nb.store.layout import notebooks_root

NUMBERED = "[0-9][0-9]_*.ipynb"
# What a number of a unit of the parameter table can be; 0 of a count where its row explains one.
RANGES = {
    "share": (0, 1),
    "share of the map": (0, 1),
    "/255": (0, 255),
    "1 to 5": (1, 5),
    **dict.fromkeys(("images", "steps", "queries", "positions", "pixels", "folds"), (1, math.inf)),
}


def all_notebooks() -> list[Path]:
    """Return the numbered notebooks in reading order."""
    return sorted(notebooks_root().glob(NUMBERED))


def chosen_notebooks(only: tuple[str, ...]) -> list[Path]:
    """Return the notebooks whose names start with one of ``only``; all when it is empty.

    Raises:
        UserError: a name fits no notebook.
    """
    paths = all_notebooks()
    for wanted in only:
        if not any(path.stem.startswith(wanted) for path in paths):
            raise UserError(
                f"no notebook starts with {wanted!r}: there are "
                f"{', '.join(path.stem for path in paths)}"
            )
    return [p for p in paths if not only or any(p.stem.startswith(w) for w in only)]


def declared_parameters(book: Mapping) -> dict:
    """Return the names and default values of the cell tagged ``parameters``.

    Raises:
        UserError: there is no such cell, or it holds anything but literals.
    """
    for cell in book["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            break
    else:
        raise UserError("the notebook has no cell tagged `parameters`")
    found = {}
    for node in parse(cell["source"]).body:
        try:
            (target,) = node.targets
            found[target.id] = ast.literal_eval(node.value)
        except (AttributeError, ValueError) as error:
            raise UserError(
                f"line {node.lineno} of the parameters cell is not `NAME = literal`"
            ) from error
    return found


def check_parameters(book: Mapping, given: dict, where: str) -> dict:
    """Return parameters in the types of their defaults: for a share, 1 is 1.0.

    Args:
        book: the notebook.
        given: {name: value}.
        where: what the notebook is called in an error.

    Raises:
        UserError: a parameter that the notebook does not declare or does not read, of another type
            than its default, or outside the range of its unit in the table of parameters.
    """
    try:
        declared = declared_parameters(book)
        read = {
            node.id
            for cell in book["cells"]
            if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", [])
            for node in ast.walk(parse(cell["source"]))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
    except (UserError, SyntaxError) as error:
        raise UserError(f"{where}: {error}") from error
    ranges = declared_ranges(book)
    for name, value in given.items():
        if name not in declared:
            raise UserError(
                f"{where}: parameter {name!r} is unknown; it declares {', '.join(declared)}"
            )
        if not _same_type(value, declared[name]):
            raise UserError(
                f"{where}: {name} = {value!r} is {type(value).__name__}, its default "
                f"{declared[name]!r} is {type(declared[name]).__name__}"
            )
        _check_range(name, value, ranges.get(name), where)
    for name in declared:
        if name not in read:
            raise UserError(f"{where}: parameter {name} is declared and never read")
    return {name: _in_type_of(declared[name], value) for name, value in given.items()}


def check_given(notebook: str, names: dict) -> None:
    """Check the parameters of a notebook that runs by itself, and put them into their types.

    ``topgap run`` has done so before it starts one; papermill and a hand have not.

    Args:
        notebook: its file name without the suffix.
        names: the notebook's ``globals()``, where the parameters are changed in place.

    Raises:
        UserError: as in ``check_parameters``.

    Example:
        >>> names = {"PROFILE": "smoke", "RESULTS": ""}
        >>> check_given("90_scoreboard", names)
    """
    (path,) = chosen_notebooks((notebook,))
    # In a kernel that waits for its first cell: nbformat takes longer to import than all of this.
    book = json.loads(path.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        cell["source"] = "".join(cell["source"])
    given = {name: names[name] for name in declared_parameters(book) if name in names}
    names.update(check_parameters(book, given, path.name))


def declared_ranges(book: Mapping) -> dict[str, tuple[float, float]]:
    """Return {parameter: (lowest, highest)}, from the units in the table of parameters."""
    found = {}
    for cell in book["cells"]:
        if cell["cell_type"] != "markdown" or "| Parameter |" not in cell["source"]:
            continue
        for row in re.findall(r"^\| `.*\|$", cell["source"], re.MULTILINE):
            names, _, unit, *_ = (part.strip() for part in row.strip("|").split("|"))
            if unit in RANGES:
                low, high = RANGES[unit]
                low = 0 if re.search(r"\b0(:| is)", row) else low
                found |= dict.fromkeys(re.findall(r"`(\w+)`", names), (low, high))
    return found


def _check_range(name: str, value, limits: tuple[float, float] | None, where: str) -> None:
    if limits is None:
        return
    if isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            _check_range(name, part, limits, where)
    elif isinstance(value, int | float) and not limits[0] <= value <= limits[1]:
        upper = " or more" if limits[1] == math.inf else f" to {limits[1]}"
        raise UserError(f"{where}: {name} = {value} is out of range: give {limits[0]}{upper}")


def _in_type_of(default, value):
    if isinstance(default, float):
        return float(value)
    if isinstance(default, list) and default:
        return [_in_type_of(default[0], part) for part in value]
    return value


def _same_type(value, default) -> bool:
    if type(value) is not type(default):
        return type(value) is int and type(default) is float
    if isinstance(value, list) and value and default:
        return all(_same_type(item, default[0]) for item in value)
    return True


def promised_outputs(book: Mapping, always: bool = False) -> list[str]:
    """Return the file names in the ``Outputs`` row of the at-a-glance table.

    Args:
        book: the notebook.
        always: leave out those after the words "with masks", which some data sets do not have.
    """
    for cell in book["cells"]:
        row = re.search(r"^\|\s*Outputs\s*\|(.*)\|\s*$", cell["source"], re.MULTILINE)
        if cell["cell_type"] == "markdown" and row:
            names = row[1].partition("with masks")[0] if always else row[1]
            return re.findall(r"`([\w.]+\.(?:csv|png|html))`", names)
    return []
