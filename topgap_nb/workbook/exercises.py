"""Exercises: the check of an answer, and the stub that a student edition has for a solution.

An exercise is four cells at a notebook's end: its text (tagged ``exercise``), a hint (``hint``),
the solution (``solution``) and a check (``check``). Only the solution is written by hand; its stub
is what ``strip_solution`` leaves of it.
"""

import ast
import re
import types
from collections.abc import Callable

from topgap_nb.errors import NotYet, UserError

TAGS = ("exercise", "hint", "solution", "check")
# How the text of an exercise begins: number, title, kind, what it practises.
HEADING = re.compile(r"### Exercise (\d\d\.\d) · (.+)\n\n\*(.+)\. Practises: (.+)\.\*")
UNANSWERED = "fill in the cell above, run it, and run this cell again"


def check_answer(answer, tests: dict[str, Callable[[object], object]]) -> None:
    """Print that an answer is right, or say what is wrong with it.

    Args:
        answer: what the solution cell defines: a value, a function, or a tuple of them.
        tests: {message when it fails: predicate of the answer}, tried in order. An error that a
            predicate raises becomes part of the message.

    Raises:
        NotYet: the answer is still a stub, or a predicate is false.

    Example:
        >>> check_answer(4, {"it is even": lambda answer: answer % 2 == 0})
        Right.
    """
    if is_stub(answer):
        raise NotYet(UNANSWERED)
    for message, predicate in tests.items():
        try:
            passed = bool(predicate(answer))
        except NotImplementedError:
            raise NotYet(UNANSWERED) from None
        except Exception as error:
            reason = f"{message} (your answer led to {type(error).__name__}: {error})"
            raise NotYet(reason) from None
        if not passed:
            raise NotYet(message)
    print("Right.")


def is_stub(answer) -> bool:
    """Return whether an answer, or a part of it, is what ``strip_solution`` leaves."""
    if isinstance(answer, tuple):
        return any(is_stub(part) for part in answer)
    if isinstance(answer, types.FunctionType):
        return answer.__code__.co_names == ("NotImplementedError",)
    return answer is ...


def strip_solution(solution: str, check: str) -> str:
    """Return a solution's stub: the names that its check reads, without their content.

    Args:
        solution: source of the solution cell.
        check: source of the check cell.

    Raises:
        UserError: the check reads nothing that the solution defines.

    Example:
        >>> print(strip_solution("half = 2\\nanswer = half * 2", "check_answer(answer, {})"))
        answer = ...
    """
    read = {node.id for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Name)}
    stubs = []
    for node in ast.parse(solution).body:
        if isinstance(node, ast.FunctionDef) and node.name in read:
            stubs.append(_signature(node, solution))
        elif isinstance(node, ast.Assign):
            names = [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            stubs += [f"{name} = ..." for name in names if name in read]
    if not stubs:
        raise UserError(f"a check reads nothing that its solution defines: {check!r}")
    return "\n".join(stubs)


def _signature(node: ast.FunctionDef, source: str) -> str:
    """Return a function's signature and docstring over a body that raises."""
    first = node.body[0]
    end = first.end_lineno if ast.get_docstring(node) is not None else first.lineno - 1
    head = source.splitlines()[node.lineno - 1 : end]
    return "\n".join([*head, "    raise NotImplementedError"])
