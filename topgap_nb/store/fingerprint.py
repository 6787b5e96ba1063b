"""Keys: from code, data and settings to a hash that changes when, and only when, they do.

Code is hashed without comments and docstrings, module by module, together with the package modules
that it imports, directly or through others. Tensors and files count by content, networks by their
weights and by every attribute of their layers.
"""

import ast
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from topgap_nb.errors import NoFingerprint
from topgap_nb.store.layout import PACKAGE

# What is kept, and what is refused, decide no number.
NOT_CODE = ("topgap_nb.store", "topgap_nb.errors")
# Packages whose code is fixed by their version: their classes are identified by name.
INSTALLED = {"torch", "torchvision", "timm", "topgap_nb"}
# Python 3.11 counts the depth of a syntax tree for all threads together, and raises a SystemError
# where one takes over while another builds its tree.
_parsing = threading.Lock()
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fingerprint(value) -> str:
    """Return 16 hexadecimal digits that tell a value from every other; see ``content``."""
    return digest(content(value))


def digest(told) -> str:
    """Return the ``fingerprint`` of a value whose ``content`` is known."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def content(value):
    """Return what a value is told from every other by, as JSON.

    Args:
        value: None, a boolean, number or string; a list, tuple, mapping or dataclass of values; a
            tensor or array; a network; a path, which stands for the content of a file, or for the
            names, sizes and times of change of all files under a folder; or an object that has a
            ``__fingerprint__`` method.

    Raises:
        NoFingerprint: something else, or a network whose outputs its weights do not decide alone: a
            class that is not an installed package's, a hook, a replaced method.
    """
    if isinstance(value, np.generic):
        return content(value.item())
    if value is None or isinstance(value, bool | int | float | str):
        # JSON has one kind of number, but k = 1 and k = 1.0 are two constraints.
        return value if value is None or isinstance(value, str) else [type(value).__name__, value]
    if hasattr(value, "__fingerprint__"):
        return [type(value).__qualname__, value.__fingerprint__()]
    if isinstance(value, Tensor | np.ndarray):
        return _of_array(value)
    if isinstance(value, nn.Module):
        return _of_network(value)
    if isinstance(value, Mapping):
        return {str(key): content(entry) for key, entry in value.items()}
    if is_dataclass(value):
        return {field.name: content(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [content(entry) for entry in value]
    if isinstance(value, Path):
        return _of_files(value)
    raise NoFingerprint(f"a {type(value).__name__} cannot be told from its like by a hash")


def _of_array(array: Tensor | np.ndarray) -> str:
    # Arrays that are read backwards, and tensors that are views of others, as they look.
    array = np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array
    # Of a view that repeats one element, `contiguous` keeps the stride of 0.
    values = torch.as_tensor(array).detach().cpu().clone(memory_format=torch.contiguous_format)
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _of_network(network: nn.Module) -> list:
    layers = {}
    for path, layer in network.named_modules():
        if not _is_installed(type(layer)) or "forward" in vars(layer):
            raise NoFingerprint(f"the code of {type(layer).__qualname__} is not a package's")
        if any(vars(layer).get(name) for name in HOOKS):
            raise NoFingerprint(f"{path or type(layer).__qualname__} has a hook")
        layers[path] = [type(layer).__qualname__, _attributes(layer)]
    weights = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    ours = {type(layer).__module__ for layer in network.modules()}
    return [
        layers,
        code_fingerprint(*(name for name in ours if name.startswith("topgap_nb."))),
        {name: _of_array(tensor) for name, tensor in weights.items()},
    ]


def _attributes(thing) -> dict:
    """Return the attributes of a layer, or of an object of its package, as JSON."""
    found = {}
    for name, value in vars(thing).items():
        # Weights and inner layers are hashed elsewhere; evaluation sets the mode.
        if name in ("_parameters", "_buffers", "_modules", "training", *HOOKS):
            continue
        found[name] = _attribute(value)
    return found


def _attribute(value):
    if isinstance(value, Mapping):
        return {str(key): _attribute(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        parts = [_attribute(entry) for entry in value]
        return parts if isinstance(value, list | tuple) else sorted(map(str, parts))
    if isinstance(value, nn.Module):
        raise NoFingerprint(f"a {type(value).__qualname__} is kept outside the network's layers")
    if isinstance(value, partial):
        return [_attribute(value.func), _attribute(value.args), _attribute(value.keywords)]
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        if not _is_installed(value):
            raise NoFingerprint(f"{value!r} is not a package's")
        return value.__qualname__
    try:
        return content(value)
    except NoFingerprint:
        if isinstance(value, torch.dtype | torch.device):
            return str(value)
        if not _is_installed(type(value)) or not hasattr(value, "__dict__"):
            raise
        return [type(value).__qualname__, _attributes(value)]


def _is_installed(thing) -> bool:
    module = getattr(thing, "__module__", None) or ""
    return module.partition(".")[0] in INSTALLED | sys.stdlib_module_names | {"builtins"}


def _of_files(path: Path) -> list | str | None:
    """Return a file's content as a hash; of a folder every file's name, size and time of change."""
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    digest = hashlib.sha256()
    for place, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            about = os.stat(os.path.join(place, name))
            line = f"{os.path.relpath(place, path)}/{name} {about.st_size} {about.st_mtime_ns}\n"
            digest.update(line.encode())
    return digest.hexdigest()


def code_fingerprint(*modules: str, without: Iterable[str] = ()) -> str:
    """Return a hash of package modules and of all package modules behind them.

    Args:
        modules: names such as ``topgap_nb.metrics.erf``; others are passed over, since the versions
            of installed packages are keyed as such.
        without: modules that decide nothing beyond the values that are keyed anyway.
    """
    return _code(tuple(sorted(modules_behind(modules) - {*without})))


@cache
def _code(modules: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in modules:
        digest.update(f"{name} {source_hash(_file(name).read_text())}\n".encode())
    return digest.hexdigest()[:16]


def modules_behind(modules: Iterable[str]) -> set[str]:
    """Return these package modules and all that they import, directly or through others."""
    found, waiting = set(), list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found and not name.startswith(NOT_CODE) and _file(name):
            found.add(name)
            waiting += imported_modules(_file(name).read_text())
    return found


@cache
def imported_modules(source: str) -> tuple[str, ...]:
    """Return the package modules that a source imports, also inside functions.

    ``from topgap_nb import attack`` counts as the module that ``attack`` is defined in.
    """
    found = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("topgap_nb.")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("topgap_nb"):
            if node.module == "topgap_nb":
                found += [public_names()[a.name] for a in node.names if a.name in public_names()]
                continue
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(name for name in found if _file(name))


@cache
def public_names() -> dict[str, str]:
    """Return {public name: the module that defines it}, from the package's stub."""
    stub = parse((PACKAGE / "__init__.pyi").read_text())
    return {
        alias.name: f"topgap_nb.{node.module}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }


@cache
def _file(module: str) -> Path | None:
    path = PACKAGE.parent / Path(*module.split("."))
    file = path.with_suffix(".py")
    return file if module.startswith("topgap_nb.") and file.exists() else None


def parse(source: str) -> ast.Module:
    """Return the syntax tree of Python source; threads take turns.

    Raises:
        SyntaxError: it is not Python.
    """
    with _parsing:
        return ast.parse(source)


def source_hash(source: str) -> str:
    """Return a hash of Python source, blind to comments and docstrings.

    The same under every version of Python, so that a network trained under one is found under
    another.
    """
    tree = parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body.pop(0)
    return hashlib.sha256(json.dumps(_as_lists(tree)).encode()).hexdigest()


def _as_lists(node):
    # Without empty fields: newer versions of Python have more of them.
    if isinstance(node, ast.AST):
        given = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *([name, _as_lists(value)] for name, value in given)]
    return [_as_lists(part) for part in node] if isinstance(node, list) else repr(node)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
