"""Exercises and the student edition; notebooks run every solution against its check."""

import ast
import itertools
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import pytest
import torch
from papermill.exceptions import PapermillExecutionError

import topgap_nb
from topgap_nb import UserError, check_answer, top_k_pool
from topgap_nb.data.image_set import ImageSet
from topgap_nb.errors import NotYet
from topgap_nb.store.layout import PROJECT
from topgap_nb.workbook.exercises import UNANSWERED, strip_solution
from topgap_nb.workbook.notebooks import all_notebooks
from topgap_nb.workbook.student import (
    exercise_part,
    grading_edition,
    student_edition,
    write_handout,
    write_student_edition,
)

BOOKS = {path.stem: nbformat.read(path, as_version=4) for path in all_notebooks()}
PARTS = {
    f"{name[:2]}.{cell.id.split('-')[-1]}": (cell.source, following.source)
    for name, book in BOOKS.items()
    for cell, following in zip(book.cells, book.cells[1:], strict=False)
    if exercise_part(cell) == "solution"
}


def test_an_answer_is_accepted_or_its_fault_is_named(capsys):
    tests = {"too small": lambda a: a > 3, "odd": lambda a: a % 2 == 0}
    check_answer(4, tests)
    assert capsys.readouterr().out == "Right.\n"
    for answer, message in (
        (2, "too small"),
        (5, "odd"),
        (..., UNANSWERED),
        ((4, ...), UNANSWERED),
    ):
        with pytest.raises(NotYet) as caught:
            check_answer(answer, tests)
        assert str(caught.value) == message
        assert caught.value._render_traceback_() == [f"Not yet: {message}"]


def test_an_error_in_a_check_is_named_without_its_traceback():
    with pytest.raises(NotYet) as caught:
        check_answer("word", {"a number": lambda a: a > 3})
    assert str(caught.value).startswith("a number (your answer led to TypeError: ")
    assert caught.value.__suppress_context__


def test_a_stub_keeps_what_the_check_reads_and_no_content():
    solution = '''secret = 7
first, second = secret, 3


def double(value, by=2):
    """Twice the value."""
    return value * by'''
    stub = strip_solution(solution, "check_answer(double, {}); check_answer((first, second), {})")
    assert stub == (
        "first = ...\nsecond = ...\n"
        'def double(value, by=2):\n    """Twice the value."""\n    raise NotImplementedError'
    )
    with pytest.raises(UserError, match="reads nothing"):
        strip_solution(solution, "check_answer(third, {})")


def test_every_notebook_has_two_to_four_exercises():
    for name, book in BOOKS.items():
        tags = [exercise_part(cell) for cell in book.cells]
        count = tags.count("solution")
        assert count == tags.count("hint") == tags.count("check")
        assert 2 <= count <= 4, name
        # The text above says that the code of a check is folded away.
        folded = {"source_hidden": True}
        assert all(
            c.metadata.get("jupyter") == folded for c in book.cells if exercise_part(c) == "check"
        )


@pytest.mark.parametrize("exercise", PARTS)
def test_a_stub_fails_its_check_with_one_line(exercise):
    solution, checked = PARTS[exercise]
    stub = strip_solution(solution, checked)
    compile(stub, exercise, "exec")
    space = {"check_answer": check_answer}
    exec(stub, space)
    calls = [node for node in ast.walk(ast.parse(checked)) if isinstance(node, ast.Call)]
    (call,) = (node for node in calls if getattr(node.func, "id", "") == "check_answer")
    with pytest.raises(NotYet, match=UNANSWERED):
        eval(compile(ast.Expression(call), exercise, "eval"), space)


def _simple_effect(results, part):
    """The effect of a part alone, where that of all combinations is asked for."""
    alone = tuple(place == part for place in range(3))
    return results[alone] - results[False, False, False]


def _by_the_largest(images, labels):
    """Stamps whose grey depends on the largest label around."""
    out = images.clone()
    out[:, :, :6, :6] = (labels / (labels.max() + 1))[:, None, None, None]
    return out


def distances(field, place):
    """Return each pixel's distance from a place, in image sides."""
    sides = zip(field.shape, place, strict=True)
    rows, columns = ((torch.arange(n) + 0.5) / n - at for n, at in sides)
    return torch.hypot(rows[:, None], columns)


WRONG = {
    # The true class over the absent ones, instead of the other way round.
    "00.1": ("ratio", torch.tensor([4.0]), "not the ratio that is asked for"),
    "01.1": ("score, slope", (4, 1 / 3), "three largest"),
    "01.3": ("fold", lambda w, k, b: (torch.einsum("cm,mdij->cdij", w, k), b[:2]), "bias is not"),
    "01.4": ("ranked_pool", top_k_pool, "worked by hand"),
    # Not divided by the field's sum.
    "03.3": ("radius", lambda field, place: (field * distances(field, place)).sum(), "0.2 image"),
    "04.1": ("pixels", [0.1, 0.6, 0.9], "step outwards"),
    "04.3": ("noise", lambda images, epsilon: images + epsilon, "as many pixels"),
    "06.1": ("iou_by_hand, iou_of_everything", (8 / 30, 0.1), "in either"),
    "06.3": (
        "fair_thresholds",
        lambda cams, area: (1 - area) * cams.amax((1, 2)),
        "power of three",
    ),
    "07.2": ("main_effect", _simple_effect, "only beside another"),
    "07.3": ("concentration", lambda maps: maps.abs().mean(), "a spike"),
    "10.1": ("chance, shortcut_suspected", (1 / 3, False), "commonest"),
    "10.2": ("stamped", _by_the_largest, "others are in the batch"),
    "90.2": ("luck", lambda count: count / 40, "twice"),
}


@pytest.mark.parametrize("exercise", WRONG)
def test_a_plausible_wrong_answer_is_refused_with_the_reason(exercise):
    names, answer, message = WRONG[exercise]
    space = {name: getattr(topgap_nb, name) for name in topgap_nb.__all__}
    space |= {"torch": torch, "F": torch.nn.functional}
    space["class_map"] = torch.tensor([[[[4.0, 1.0], [3.0, 0.0]]]])
    space["explorer"] = SimpleNamespace(maps=torch.tensor([[[[4.0, 0.0]], [[1.0, 1.0]]]]))
    space["few"] = ImageSet("few", torch.zeros(1, 3, 2, 2).byte(), [0], ("a", "b"), ("1",))
    space["topgap_spec"] = SimpleNamespace(image_size=96)
    space["parts"] = list(itertools.product((False, True), repeat=3))
    parts = answer if "," in names else (answer,)
    space |= dict(zip(names.split(", "), parts, strict=True))
    with pytest.raises(NotYet, match=message):
        exec(PARTS[exercise][1], space)


def test_nothing_but_the_solutions_differs(tmp_path):
    paths = write_student_edition(tmp_path / "student")
    assert [path.stem for path in paths] == list(BOOKS)
    for path in paths:
        ours, theirs = BOOKS[path.stem], nbformat.read(path, as_version=4)
        nbformat.validate(theirs)
        assert theirs.metadata == ours.metadata
        for cell, student in zip(ours.cells, theirs.cells, strict=True):
            if exercise_part(cell) == "solution":
                assert student.source != cell.source
                student.source = cell.source
            assert student == cell
    paths[0].write_text("an answer")
    with pytest.raises(UserError, match="somebody's answers"):
        write_student_edition(tmp_path / "student")
    assert paths[0].read_text() == "an answer"


def test_a_notebook_that_was_run_gives_nothing_away():
    book = nbformat.v4.new_notebook(metadata={"widgets": {"state": "the answer"}})
    check_cell = nbformat.v4.new_code_cell(
        "check_answer(a, {})",
        execution_count=7,
        metadata={"tags": ["check"], "execution": {"t": "1"}},
    )
    check_cell.outputs = [nbformat.v4.new_output("stream", text="Right.\n0.53\n")]
    solution = nbformat.v4.new_code_cell("a = 1", metadata={"tags": ["solution"]})
    book.cells = [solution, check_cell]
    edition = student_edition(book)
    assert edition.metadata == {}
    assert edition.cells[1].outputs == []
    assert edition.cells[1].execution_count is None
    assert edition.cells[1].metadata == {"tags": ["check"]}
    # The teacher's own copy keeps what it had.
    assert check_cell.outputs
    assert check_cell.execution_count == 7


def test_the_handout_is_the_workbook_without_answers(tmp_path):
    if subprocess.run(["git", "-C", str(PROJECT), "rev-parse"], capture_output=True).returncode:
        pytest.skip("not a git checkout")
    first, again = (write_handout(tmp_path / name) for name in ("first.zip", "again.zip"))
    assert first.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(first) as handout:
        names = handout.namelist()
        # What installing, reading and running need, and nothing that tests the answers.
        needed = ("Makefile", "requirements.lock", "README.md", "notebooks/profiles/demo.yaml")
        assert {f"topgap/{name}" for name in needed} < set(names)
        assert not any(name.startswith(("topgap/tests/", "topgap/.ci/")) for name in names)
        assert "topgap/notebooks/README.md" in names
        assert "topgap/notebooks/teacher.md" not in names
        for name, book in BOOKS.items():
            content = handout.read(f"topgap/notebooks/{name}.ipynb").decode()
            given = nbformat.reads(content, as_version=4)
            assert given == student_edition(book)
            assert given != book
        assert handout.getinfo("topgap/postBuild").external_attr >> 16 & 0o100


def test_a_handout_needs_to_know_what_belongs_to_the_workbook(tmp_path):
    with pytest.raises(UserError, match="needs a git checkout"):
        write_handout(tmp_path / "handout.zip", project=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_solution_without_a_check_is_refused():
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell("a = 1", metadata={"tags": ["solution"]})]
    with pytest.raises(UserError, match="no check follows"):
        student_edition(book)


@pytest.mark.slow
def test_an_unanswered_exercise_ends_in_one_line(tmp_path):
    book = nbformat.v4.new_notebook()
    book.cells = [
        nbformat.v4.new_code_cell("from topgap_nb import check_answer"),
        nbformat.v4.new_code_cell("a = 1", metadata={"tags": ["solution"]}),
        nbformat.v4.new_code_cell("check_answer(a, {})", metadata={"tags": ["check"]}),
    ]
    source, executed = tmp_path / "source.ipynb", tmp_path / "executed.ipynb"
    nbformat.write(student_edition(book), source)
    with pytest.raises(PapermillExecutionError) as caught:
        papermill.execute_notebook(
            str(source), str(executed), kernel_name="python3", progress_bar=False
        )
    assert (caught.value.ename, caught.value.evalue) == ("NotYet", UNANSWERED)
    last = nbformat.read(executed, as_version=4).cells[-1]
    assert last.outputs[0].traceback == [f"Not yet: {UNANSWERED}"]


@pytest.fixture
def course(tmp_path, monkeypatch):
    """nbgrader's course of one notebook with one exercise; returns its API and its folder."""
    apps = pytest.importorskip("nbgrader.apps")
    from traitlets.config import Config

    # nbgrader calls a program that is installed beside it.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    cells = [
        nbformat.v4.new_code_cell("from topgap_nb import check_answer"),
        nbformat.v4.new_markdown_cell(
            "### Exercise 04.2 · Twice\n\n*Program the method. Practises: doubling.*\n\nWrite it.",
            metadata={"tags": ["exercise"]},
        ),
        nbformat.v4.new_code_cell(
            'def twice(x):\n    """Return 2 x."""\n    return 2 * x',
            metadata={"tags": ["solution"]},
        ),
        nbformat.v4.new_code_cell(
            "check_answer(twice, {'twice 3 is 6': lambda f: f(3) == 6})",
            metadata={"tags": ["check"]},
        ),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    (tmp_path / "source" / "topgap").mkdir(parents=True)
    nbformat.write(grading_edition(book), tmp_path / "source" / "topgap" / "04.ipynb")
    config = Config()
    config.CourseDirectory.root = str(tmp_path)
    config.CourseDirectory.db_url = f"sqlite:///{tmp_path / 'gradebook.db'}"
    return apps.NbGraderAPI(config=config), tmp_path


@pytest.mark.slow
def test_nbgrader_releases_without_answers_and_grades_what_comes_back(course):
    api, root = course
    assert api.generate_assignment("topgap")["success"]
    released = nbformat.read(root / "release" / "topgap" / "04.ipynb", as_version=4)
    (stub,) = (cell for cell in released.cells if exercise_part(cell) == "solution")
    assert "2 * x" not in stub.source
    assert stub.source.startswith('def twice(x):\n    """Return 2 x."""\n    raise')
    for student, answer in (("ada", "lambda x: x + x"), ("bob", "lambda x: x"), ("eve", "...")):
        stub.source = f"twice = {answer}"
        folder = root / "submitted" / student / "topgap"
        folder.mkdir(parents=True)
        nbformat.write(released, folder / "04.ipynb")
        assert api.autograde("topgap", student)["success"]
    with api.gradebook as gradebook:
        found = {s: gradebook.find_submission("topgap", s) for s in ("ada", "bob", "eve")}
        assert {s: (one.score, one.max_score) for s, one in found.items()} == {
            "ada": (2, 2), "bob": (0, 2), "eve": (0, 2),
        }  # fmt: skip


def test_every_exercise_can_be_graded_and_has_a_name_of_its_own():
    names = []
    for book in BOOKS.values():
        for cell in grading_edition(book).cells:
            part, about = exercise_part(cell), cell.metadata.get("nbgrader")
            assert bool(about) == (part in ("solution", "check"))
            if about:
                names.append(about["grade_id"])
                assert about["solution"] == (not about["grade"]) == (part == "solution")
                assert ("points" in about) == about["grade"]
    assert len(names) == len(set(names)) == 2 * len(PARTS)
    assert "check-00-1" in names
