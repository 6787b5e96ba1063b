"""The student edition: the same notebooks with the solutions left out."""

import copy
import io
import subprocess
import zipfile
from pathlib import Path

import nbformat

from topgap_nb.errors import UserError
from topgap_nb.files import ROOT, write_atomic
from topgap_nb.workbook.exercises import TAGS, blanked
from topgap_nb.workbook.runner import all_notebooks

STUDENT = ROOT / "student"
HANDOUT = ROOT / "handout.zip"
# Tests hold answers, right and wrong, and fail where the solutions are blank.
KEPT_BACK = ("tests/", ".ci/")


def tag_of(cell: nbformat.NotebookNode) -> str | None:
    """Return which part of an exercise a cell is, or None."""
    tags = [tag for tag in cell.metadata.get("tags", []) if tag in TAGS]
    return tags[0] if tags else None


def student_edition(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy of a notebook whose solutions are stubs; every other cell is as it was.

    Outputs go, too: a notebook that was run shows what its solutions found.

    Raises:
        UserError: a solution without a check right after it.
    """
    book = copy.deepcopy(book)
    book.metadata.pop("widgets", None)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            # When each cell ran, where that is recorded.
            cell.metadata.pop("execution", None)
    for cell, following in zip(book.cells, [*book.cells[1:], None], strict=True):
        if tag_of(cell) == "solution":
            if following is None or tag_of(following) != "check":
                raise UserError(f"no check follows the solution {cell.source.splitlines()[0]!r}")
            cell.source = blanked(cell.source, following.source)
    return book


def write_student_edition(folder: Path = STUDENT) -> list[Path]:
    """Write the student edition of every notebook into ``folder``; return the files.

    A file that a student may have written into is never replaced: start from an empty folder.

    Raises:
        UserError: ``folder`` already holds notebooks, or see ``student_edition``.
    """
    if found := sorted(folder.glob("*.ipynb")):
        raise UserError(
            f"{folder} already holds {found[0].name}, perhaps with somebody's answers: move the "
            f"folder away, then run this again"
        )
    written = []
    for path in all_notebooks():
        edition = student_edition(nbformat.read(path, as_version=4))
        target = folder / path.name
        write_atomic(target, nbformat.writes(edition) + "\n")
        written.append(target)
    return written


def write_handout(target: Path = HANDOUT) -> Path:
    """Write the workbook for a class, its notebooks without solutions, as one ZIP file.

    It holds what git tracks, without the tests, in one folder from which `make lab` works.

    Raises:
        UserError: this is no git checkout, so what belongs to the workbook is not known.
    """
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True)
    if listed.returncode:
        raise UserError(f"a handout needs a git checkout: {listed.stderr.decode().strip()}")
    notebooks, content = all_notebooks(), io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(listed.stdout.decode().split("\0")):
            path = ROOT / name
            if name.startswith(KEPT_BACK) or not path.is_file():
                continue
            data = path.read_bytes()
            if path in notebooks:
                edition = student_edition(nbformat.reads(data.decode(), as_version=4))
                data = f"{nbformat.writes(edition)}\n".encode()
            entry = zipfile.ZipInfo.from_file(path, f"topgap/{name}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    write_atomic(target, content.getvalue())
    return target
