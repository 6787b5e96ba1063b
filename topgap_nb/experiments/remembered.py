"""Measurements made once: the same call on the same network and images is read back from disk.

Attacks are the dear part of a notebook that is run again. What is read back was measured by this
code, on this machine, of exactly these weights and pixels: each of them is part of its name.
"""

import dataclasses
import hashlib
import inspect
import json
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from topgap_nb.data.decode import LazyImages
from topgap_nb.data.images import ImageSet
from topgap_nb.errors import UserError
from topgap_nb.experiments.records import hardware, versions
from topgap_nb.files import code_hash, runs_root, write_atomic
from topgap_nb.measures.attacks import AttackDistance, Attacked
from topgap_nb.measures.masking import MaskingReport

MEASURES = "topgap_nb.measures"
# Nothing else is ever made of what a file says.
OUTCOMES = {kind.__name__: kind for kind in (Attacked, AttackDistance, MaskingReport)}
# Arguments that change what is shown, not what is measured.
SILENT = ("progress",)


def remembered(measure: Callable, *given, part: str | None = None, **options):
    """Return ``measure(*given, **options)``, read back where the same call was made before.

    Args:
        measure: a function of ``topgap_nb.measures`` that returns a tensor, several, or what an
            attack or the masking report returns.
        given, options: its arguments: networks, data sets in memory, tensors, numbers, strings,
            booleans or None.
        part: the one field of the outcome that is kept and returned, where the whole is large.

    Raises:
        UserError: a function from elsewhere, whose changes would go unseen; an argument or an
            outcome of another kind, which cannot be told from its like.

    Example:
        >>> from topgap_nb import TopGapNet, predict
        >>> net = TopGapNet("test_resnet", num_classes=2, k=4)
        >>> remembered(predict, net, torch.zeros(3, 3, 32, 32)).shape
        torch.Size([3, 2])
    """
    if not measure.__module__.startswith(MEASURES):
        raise UserError(
            f"{measure.__name__} is not of {MEASURES}: a change of it would go unseen; call the "
            f"function itself"
        )
    # By name, so that a default that is spelt out is the same call.
    call = inspect.signature(measure).bind(*given, **options)
    call.apply_defaults()
    content = {n: _identity(n, v) for n, v in call.arguments.items() if n not in SILENT}
    content |= {"measure": f"{measure.__module__}.{measure.__qualname__}", "part": part}
    content |= {"code": _code(), "hardware": hardware(), "versions": versions()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    file = runs_root() / "measured" / f"{measure.__name__}-{digest}.safetensors"
    if file.exists():
        try:
            return _read(file)
        except (SafetensorError, KeyError, ValueError) as error:
            warnings.warn(f"{file} is damaged ({error}) and is measured again", stacklevel=2)
    outcome = measure(*given, **options)
    outcome = outcome if part is None else getattr(outcome, part)
    tensors: dict[str, Tensor] = {}
    about = json.dumps(_packed(outcome, tensors))
    write_atomic(file, save(tensors, metadata={"outcome": about}))
    return outcome


@cache
def _code() -> str:
    """Return a hash of the modules that decide what is measured of a network."""
    root = Path(find_spec("topgap_nb").origin).parent
    return code_hash([*sorted(root.glob("method/*.py")), *sorted(root.glob("measures/*.py"))])


def _identity(name: str, value):
    """Return what tells an argument from every other, as JSON."""
    if isinstance(value, Tensor):
        return _hash({name: value})
    if isinstance(value, ImageSet | LazyImages):
        return {key: _identity(key, getattr(value, key)) for key in ("pixels", "labels", "masks")}
    if isinstance(value, nn.Module):
        weights = {**dict(value.named_parameters()), **dict(value.named_buffers())}
        return [type(value).__qualname__, repr(value), _settings(value), _hash(weights)]
    if isinstance(value, dict):
        return {key: _identity(key, entry) for key, entry in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        # JSON has one kind of number; k = 1 and k = 1.0 are two constraints.
        return [type(value).__name__, value]
    raise UserError(
        f"{name} is a {type(value).__name__}: a measurement is remembered by networks, data "
        f"sets in memory, tensors, numbers, strings, booleans and None; call the function itself"
    )


def _settings(network: nn.Module) -> list:
    """Return the plain attributes of all layers: not every layer shows its own, as k, in words."""
    return [
        [path, name, type(value).__name__, value]
        for path, layer in network.named_modules()
        for name, value in vars(layer).items()
        if name != "training" and isinstance(value, bool | int | float | str | tuple)
    ]


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _packed(value, tensors: dict[str, Tensor]):
    """Return an outcome as JSON; its tensors are put into ``tensors`` and named there."""
    if isinstance(value, Tensor):
        name = f"{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if type(value) in OUTCOMES.values():
        fields = value._asdict() if isinstance(value, tuple) else _fields(value)
        packed = {key: _packed(entry, tensors) for key, entry in fields.items()}
        return {"outcome": type(value).__name__, "fields": packed}
    if isinstance(value, list | tuple):
        packed = [_packed(entry, tensors) for entry in value]
        return packed if isinstance(value, list) else {"tuple": packed}
    if isinstance(value, dict):
        return {"fields": {key: _packed(entry, tensors) for key, entry in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"an outcome of type {type(value).__name__} cannot be remembered")


def _fields(value) -> dict:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _read(file: Path):
    with safe_open(file, "pt") as content:
        return _unpacked(json.loads(content.metadata()["outcome"]), content.get_tensor)


def _unpacked(value, tensor: Callable[[str], Tensor]):
    if isinstance(value, list):
        return [_unpacked(entry, tensor) for entry in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_unpacked(value["tuple"], tensor))
    if "tensor" in value:
        return tensor(value["tensor"])
    fields = {key: _unpacked(entry, tensor) for key, entry in value["fields"].items()}
    return OUTCOMES[value["outcome"]](**fields) if "outcome" in value else fields
