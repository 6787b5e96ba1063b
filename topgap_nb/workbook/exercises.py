"""Exercises: what a check cell says, and how a solution is blanked.

An exercise is four cells at a notebook's end: its text (tagged ``exercise``), a hint (``hint``),
the solution (``solution``) and a check (``check``). The solution is the source; the student
edition is made from it by ``blanked``.
"""

import ast
import types
from collections.abc import Callable

from topgap_nb.errors import UserError

TAGS = ("exercise", "hint", "solution", "check")
UNANSWERED = "fill in the cell above, run it, and run this cell again"


class NotYet(AssertionError):
    """An answer that its check does not accept; a notebook shows one line and no traceback."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks an exception for its own traceback before it makes one.
        return [f"Not yet: {self}"]


def check(answer, tests: dict[str, Callable[[object], object]]) -> None:
    """Print that an answer is right, or say what is wrong with it.

    Args:
        answer: what the solution cell defines: a value or a function.
        tests: {what to say when it fails: predicate of the answer}, tried in order. A predicate
            may raise: its error becomes part of the message.

    Raises:
        NotYet: the answer is blank, or a predicate is false.

    Example:
        >>> check(4, {"it is even": lambda answer: answer % 2 == 0})
        Right.
    """
    if is_blank(answer):
        raise NotYet(UNANSWERED)
    for says, holds in tests.items():
        try:
            good = bool(holds(answer))
        except NotImplementedError:
            raise NotYet(UNANSWERED) from None
        except Exception as error:
            reason = f"{says} (your answer led to {type(error).__name__}: {error})"
            raise NotYet(reason) from None
        if not good:
            raise NotYet(says)
    print("Right.")


def is_blank(answer) -> bool:
    """Return whether an answer, or part of it, is what ``blanked`` leaves."""
    if isinstance(answer, tuple):
        return any(is_blank(part) for part in answer)
    if isinstance(answer, types.FunctionType):
        return answer.__code__.co_names == ("NotImplementedError",)
    return answer is ...


def blanked(solution: str, checked: str) -> str:
    """Return a solution's stub: only the names that its check reads, without their content.

    Args:
        solution: source of the solution cell.
        checked: source of the check cell.

    Raises:
        UserError: the check reads nothing that the solution defines.

    Example:
        >>> print(blanked("half = 2\\nanswer = half * 2", "check(answer, {})"))
        answer = ...
    """
    read = {node.id for node in ast.walk(ast.parse(checked)) if isinstance(node, ast.Name)}
    stubs = []
    for node in ast.parse(solution).body:
        if isinstance(node, ast.FunctionDef) and node.name in read:
            stubs.append(_stub(node, solution))
        elif isinstance(node, ast.Assign):
            names = [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            stubs += [f"{name} = ..." for name in names if name in read]
    if not stubs:
        raise UserError(f"a check reads nothing that its solution defines: {checked!r}")
    return "\n".join(stubs)


def _stub(node: ast.FunctionDef, source: str) -> str:
    """Return a function's signature and docstring over a body that raises."""
    lines = source.splitlines()
    documented = ast.get_docstring(node) is not None
    first = node.body[0]
    end = first.end_lineno if documented else first.lineno - 1
    kept = lines[node.lineno - 1 : end]
    return "\n".join([*kept, "    raise NotImplementedError"])
