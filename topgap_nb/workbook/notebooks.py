"""What a notebook's source says: the parameters that it declares, the outputs that it promises."""

import ast
import re
from pathlib import Path

import nbformat

from topgap_nb.errors import UserError
from topgap_nb.store.fingerprint import parse
from topgap_nb.store.layout import notebooks_root

NUMBERED = "[0-9][0-9]_*.ipynb"


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


def declared_parameters(book: nbformat.NotebookNode) -> dict:
    """Return the names and default values of the cell tagged ``parameters``.

    Raises:
        UserError: there is no such cell, or it holds anything but literals.
    """
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", []):
            break
    else:
        raise UserError("the notebook has no cell tagged `parameters`")
    found = {}
    for node in parse(cell.source).body:
        try:
            (target,) = node.targets
            found[target.id] = ast.literal_eval(node.value)
        except (AttributeError, ValueError) as error:
            raise UserError(
                f"line {node.lineno} of the parameters cell is not `NAME = literal`"
            ) from error
    return found


def check_parameters(book: nbformat.NotebookNode, given: dict, where: str) -> None:
    """Refuse parameters that the notebook does not declare, does not read, or types otherwise.

    Raises:
        UserError: with the name, and what would be right.
    """
    try:
        declared = declared_parameters(book)
        read = {
            node.id
            for cell in book.cells
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
            for node in ast.walk(parse(cell.source))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
    except (UserError, SyntaxError) as error:
        raise UserError(f"{where}: {error}") from error
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
    for name in declared:
        if name not in read:
            raise UserError(f"{where}: parameter {name} is declared and never read")


def _same_type(value, default) -> bool:
    if type(value) is not type(default):
        return type(value) is int and type(default) is float
    if isinstance(value, list) and value and default:
        return all(_same_type(item, default[0]) for item in value)
    return True


def promised_outputs(book: nbformat.NotebookNode, always: bool = False) -> list[str]:
    """Return the file names in the ``Outputs`` row of the at-a-glance table.

    Args:
        book: the notebook.
        always: leave out those after the words "with masks", which some data sets do not have.
    """
    for cell in book.cells:
        row = re.search(r"^\|\s*Outputs\s*\|(.*)\|\s*$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and row:
            names = row[1].partition("with masks")[0] if always else row[1]
            return re.findall(r"`([\w.]+\.(?:csv|png|html))`", names)
    return []
