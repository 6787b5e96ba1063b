"""The student edition: notebooks with the solutions left out, by hand or by nbgrader."""

import copy
import io
import subprocess
import zipfile
from pathlib import Path

import nbformat

from topgap_nb.errors import UserError
from topgap_nb.store.layout import PROJECT
from topgap_nb.store.store import write_atomic
from topgap_nb.workbook.exercises import HEADING, TAGS, strip_solution
from topgap_nb.workbook.notebooks import all_notebooks

STUDENT = PROJECT / "student"
HANDOUT = PROJECT / "handout.zip"
GRADING = PROJECT / "source" / "topgap"
# nbgrader's marks.
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
# Tests and the teacher's page hold answers; tests fail where the solutions are stubs.
NOT_HANDED_OUT = ("tests/", ".ci/", "notebooks/teacher.md")


def exercise_part(cell: nbformat.NotebookNode) -> str | None:
    """Return which part of an exercise a cell is, one of ``TAGS``, or None."""
    return next((tag for tag in cell.metadata.get("tags", []) if tag in TAGS), None)


def student_edition(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy of a notebook with stubs for solutions; every other cell keeps its source.

    Outputs are removed as well: those of a notebook that was run show what its solutions computed.

    Raises:
        UserError: a solution without a check right after it.
    """
    book = copy.deepcopy(book)
    book.metadata.pop("widgets", None)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            # When each cell ran, where JupyterLab records it.
            cell.metadata.pop("execution", None)
    for cell, following in zip(book.cells, [*book.cells[1:], None], strict=True):
        if exercise_part(cell) == "solution":
            if following is None or exercise_part(following) != "check":
                raise UserError(f"no check follows the solution {cell.source.splitlines()[0]!r}")
            cell.source = strip_solution(cell.source, following.source)
    return book


def grading_edition(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy of a notebook as nbgrader's ``source``: solutions marked, checks with points.

    `nbgrader generate_assignment` replaces what stands between the marks. A check gives one point
    where the exercise is a prediction and two where something is to be made.

    Raises:
        UserError: see ``student_edition``.
    """
    stubs, book = student_edition(book), copy.deepcopy(book)
    number = kind = ""
    for cell, stub in zip(book.cells, stubs.cells, strict=True):
        if found := HEADING.match(cell.source):
            number, _, kind, _ = found.groups()
        part = exercise_part(cell)
        if part not in ("solution", "check"):
            continue
        is_check = part == "check"
        if not is_check:
            cell.source = f"{stub.source}\n{BEGIN}\n{cell.source}\n{END}"
        cell.metadata["nbgrader"] = {
            "grade_id": f"{part}-{number.replace('.', '-')}", "grade": is_check, "task": False,
            "solution": not is_check, "locked": is_check, "schema_version": 3,
        }  # fmt: skip
        if is_check:
            cell.metadata["nbgrader"]["points"] = 1 if kind.startswith("Predict") else 2
    return book


def write_student_edition(folder: Path = STUDENT, nbgrader: bool = False) -> list[Path]:
    """Write the student edition of every notebook into ``folder``; return the files.

    A file that a student may have written into is never replaced.

    Args:
        folder: for the notebooks.
        nbgrader: write what nbgrader makes that edition from, with the solutions.

    Raises:
        UserError: ``folder`` already holds notebooks, or see ``student_edition``.
    """
    if existing := sorted(folder.glob("*.ipynb")):
        raise UserError(
            f"{folder} already holds {existing[0].name}, perhaps with somebody's answers: move the "
            f"folder away, then run this again"
        )
    written, edit = [], grading_edition if nbgrader else student_edition
    for path in all_notebooks():
        edition = edit(nbformat.read(path, as_version=4))
        write_atomic(folder / path.name, nbformat.writes(edition) + "\n")
        written.append(folder / path.name)
    return written


def write_handout(target: Path = HANDOUT, project: Path = PROJECT) -> Path:
    """Write the workbook for a class, its notebooks without solutions, as one ZIP file.

    It holds what git tracks, without the tests, in one folder from which `make lab` works.

    Args:
        target: the ZIP file.
        project: the checkout that is handed out.

    Raises:
        UserError: ``project`` is not a git checkout, so which files belong to it is not known.
    """
    listed = subprocess.run(["git", "-C", str(project), "ls-files", "-z"], capture_output=True)
    if listed.returncode:
        raise UserError(f"a handout needs a git checkout: {listed.stderr.decode().strip()}")
    notebooks, content = all_notebooks(), io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(listed.stdout.decode().split("\0")):
            path = project / name
            if name.startswith(NOT_HANDED_OUT) or not path.is_file():
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
