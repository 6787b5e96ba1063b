"""Where things lie on disk, and how they are written: whole, or not at all."""

import ast
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def runs_root() -> Path:
    """Return the folder of everything that is made and not committed: ``$TOPGAP_RUNS`` or runs/."""
    return Path(os.environ.get("TOPGAP_RUNS", ROOT / "runs"))


def data_root() -> Path:
    """Return the folder of the data sets that are not embedded: ``$TOPGAP_DATA`` or downloads."""
    return Path(os.environ.get("TOPGAP_DATA") or ROOT / "data" / "downloads").expanduser()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file or none of it: a reader never sees half, whatever interrupts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def code_hash(paths: Iterable[Path]) -> str:
    """Return a hash of Python files, blind to comments and docstrings.

    The same under every version of Python, so that what was trained on one machine is found on
    another.
    """
    digest = hashlib.sha256()
    for path in paths:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_docstring(body[0]):
                body.pop(0)
        digest.update(json.dumps(_content(tree)).encode())
    return digest.hexdigest()[:16]


def _content(node):
    """Return a syntax tree as lists. Without empty fields: newer versions of Python have more."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *([name, _content(value)] for name, value in fields)]
    return [_content(part) for part in node] if isinstance(node, list) else repr(node)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
