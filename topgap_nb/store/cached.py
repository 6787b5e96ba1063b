"""``@cached``: a metric that is made once for a network, its images and its settings.

A call whose arguments cannot be hashed (a network with a hook, a class of the reader's own) is
simply computed: a wrong number is never read back for want of a better key.
"""

import inspect
import json
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import wraps
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from topgap_nb.errors import NoFingerprint, UserError
from topgap_nb.store.fingerprint import code_fingerprint, content
from topgap_nb.store.machine import hardware, versions
from topgap_nb.store.store import Kind, get_or_make

FILE = "outcome.safetensors"
# A metric that calls another is kept as a whole, not part by part.
_computing: ContextVar[bool] = ContextVar("computing", default=False)


def cached(function: Callable | None = None, *, outcome: type | None = None, silent=("progress",)):
    """Return the function with its results kept under ``runs/measurements``.

    The key holds the arguments (networks by weights, images by pixels), the code of the function's
    module and of those that it imports, the machine, its number of threads, and the versions of the
    packages that decide numbers.

    Args:
        function: returns a tensor, numbers or strings, a tuple, list or dictionary of them, or an
            ``outcome``.
        outcome: the named tuple or dataclass that the function returns, if it returns one; nothing
            else is ever made of what a file says.
        silent: arguments that change what is shown, not what is measured.

    Example:
        >>> @cached
        ... def twice(x):
        ...     return 2 * x
        >>> twice(torch.ones(2))
        tensor([2., 2.])
    """
    if function is None:
        return lambda function: cached(function, outcome=outcome, silent=silent)
    if not function.__module__.startswith("topgap_nb."):
        raise UserError(f"{function.__name__} is not the package's: its code could not be keyed")
    signature = inspect.signature(function)
    kinds = {parameter.kind: name for name, parameter in signature.parameters.items()}
    rest = kinds.get(inspect.Parameter.VAR_KEYWORD)
    kind = Kind("measurements", _write, lambda folder: _read(folder, outcome))

    @wraps(function)
    def look_up_or_compute(*args, **options):
        if _computing.get():
            return function(*args, **options)
        token = _computing.set(True)
        try:
            # By name, so that a default that is spelt out is the same call.
            call = signature.bind(*args, **options)
            call.apply_defaults()
            named = {**call.arguments, **call.arguments.get(rest, {})}
            named = {n: v for n, v in named.items() if n not in (rest, *silent)}
            try:
                key = {
                    "function": f"{function.__module__}.{function.__qualname__}",
                    "arguments": content(named),
                    "code": code_fingerprint(function.__module__),
                    "machine": hardware(),
                    "threads": torch.get_num_threads(),
                    "versions": versions(),
                }
            except NoFingerprint:
                return function(*args, **options)
            return get_or_make(kind, function.__name__, key, lambda _: function(*args, **options))
        finally:
            _computing.reset(token)

    return look_up_or_compute


def _write(value, folder: Path) -> None:
    tensors: dict[str, Tensor] = {}
    words = json.dumps(_packed(value, tensors))
    save_file(tensors, folder / FILE, metadata={"outcome": words})


def _packed(value, tensors: dict[str, Tensor]):
    """Return an outcome as JSON; its tensors are put into ``tensors`` and named there."""
    if isinstance(value, Tensor):
        # A copy: the format refuses tensors that share memory.
        tensors[f"{len(tensors)}"] = value.detach().cpu().contiguous().clone()
        return {"tensor": f"{len(tensors) - 1}"}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    elif is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"fields": {key: _packed(entry, tensors) for key, entry in value.items()}}
    if isinstance(value, list | tuple):
        packed = [_packed(entry, tensors) for entry in value]
        return packed if isinstance(value, list) else {"tuple": packed}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a cached function returned a {type(value).__name__}, which cannot be kept")


def _read(folder: Path, outcome: type | None):
    with safe_open(folder / FILE, "pt") as stored:
        value = _unpacked(json.loads(stored.metadata()["outcome"]), stored.get_tensor)
    return value if outcome is None else outcome(**value)


def _unpacked(value, tensor: Callable[[str], Tensor]):
    if isinstance(value, list):
        return [_unpacked(entry, tensor) for entry in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_unpacked(value["tuple"], tensor))
    if "tensor" in value:
        # A copy: the library maps the file into memory.
        return tensor(value["tensor"]).clone()
    return {key: _unpacked(entry, tensor) for key, entry in value["fields"].items()}
