"""Checkpoints of a training: atomic, checked by hash, nothing unpickled."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from topgap_nb.store.store import MISSING, read_folder, write_folder

MAX_CHECKPOINTS = 2


def save_checkpoint(
    folder: Path, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer, history: list
) -> None:
    """Write the checkpoint of an epoch, and drop all but the latest few."""
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": t for name, t in state.items()}

    def write(place: Path) -> None:
        save_file(
            {name: t.contiguous() for name, t in tensors.items()}, place / "state.safetensors"
        )
        (place / "history.json").write_text(json.dumps(history))

    write_folder(folder / f"epoch_{epoch:04d}", write, {"epoch": epoch})
    for old in checkpoints_in(folder)[:-MAX_CHECKPOINTS]:
        shutil.rmtree(old)


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a training that is not finished, the latest last."""
    return sorted(path for path in folder.glob("epoch_*") if path.name[6:].isdigit())


def resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict]]:
    """Restore the latest good checkpoint; return (epochs done, history), (0, []) without one.

    A damaged checkpoint is set aside with a warning, and the one before is taken.
    """
    for path in reversed(checkpoints_in(folder)):
        stored = read_folder(path, _read)
        if stored is not MISSING:
            tensors, history = stored
            _restore(tensors, model, optimizer)
            return len(history), history
    return 0, []


def _read(folder: Path) -> tuple[dict[str, Tensor], list[dict]]:
    history = json.loads((folder / "history.json").read_text())
    return load_file(folder / "state.safetensors"), history


def _restore(tensors: dict[str, Tensor], model: nn.Module, optimizer) -> None:
    weights, moments = {}, {}
    for name, tensor in tensors.items():
        kind, rest = name.split(".", 1)
        if kind == "model":
            weights[rest] = tensor
        else:
            index, key = rest.split(".", 1)
            moments.setdefault(int(index), {})[key] = tensor
    model.load_state_dict(weights)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
