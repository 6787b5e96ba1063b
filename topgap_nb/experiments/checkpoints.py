"""Checkpoints and finished runs on disk: atomic, checked by hash, nothing unpickled."""

import hashlib
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from topgap_nb.experiments.spec import RunSpec
from topgap_nb.files import runs_root, write_atomic

KEPT = 2


def run_folder(spec: RunSpec, runs: Path | str | None = None) -> Path:
    """Return the folder of one run."""
    return Path(runs or runs_root() / "models") / f"{spec.dataset}-{spec.digest}"


def write(
    folder: Path, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer, history: list
) -> None:
    """Write the checkpoint of an epoch, and drop all but the latest few."""
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": t for name, t in state.items()}
    content = save({name: t.contiguous() for name, t in tensors.items()})
    write_atomic(folder / f"epoch_{epoch:04d}.safetensors", content)
    about = {"epoch": epoch, "sha256": hashlib.sha256(content).hexdigest(), "history": history}
    # The note is written last: a checkpoint without it does not exist.
    write_atomic(folder / f"epoch_{epoch:04d}.json", json.dumps(about))
    for note in _notes(folder)[:-KEPT]:
        note.unlink()
        note.with_suffix(".safetensors").unlink(missing_ok=True)


def resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict]]:
    """Restore the latest good checkpoint; return (epochs done, history), (0, []) without one."""
    for note in reversed(_notes(folder)):
        file = note.with_suffix(".safetensors")
        try:
            about = json.loads(note.read_text())
            content = file.read_bytes()
            if hashlib.sha256(content).hexdigest() != about["sha256"]:
                raise ValueError("its content does not match its hash")
            tensors = load(content)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            _set_aside(file, note, error)
            continue
        _restore(tensors, model, optimizer)
        return about["epoch"], about["history"]
    return 0, []


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


def _set_aside(file: Path, note: Path, error: Exception) -> None:
    warnings.warn(
        f"checkpoint {file} is damaged ({error}); it is set aside as {file.name}.damaged and "
        f"training goes on from the one before",
        stacklevel=3,
    )
    if file.exists():
        file.replace(file.with_name(f"{file.name}.damaged"))
    note.unlink(missing_ok=True)


def _notes(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch_*.json"))


def latest(folder: Path) -> Path | None:
    """Return the latest checkpoint of an unfinished run."""
    notes = _notes(folder)
    return notes[-1].with_suffix(".safetensors") if notes else None


def finish(folder: Path, spec: RunSpec, model: nn.Module, history: list, classes: int) -> None:
    """Write the finished run, then drop its checkpoints."""
    content = save({name: t.contiguous() for name, t in model.state_dict().items()})
    write_atomic(folder / "model.safetensors", content)
    about = {
        "spec": {**asdict(spec), "options": dict(spec.options)},
        "classes": classes,
        "history": history,
        "sha256": hashlib.sha256(content).hexdigest(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "dtype": (folder / "dtype").read_text(),
        "torch": torch.__version__,
    }
    write_atomic(folder / "spec.json", json.dumps(about, indent=1))
    for note in _notes(folder):
        note.unlink()
        note.with_suffix(".safetensors").unlink(missing_ok=True)


def read_finished(folder: Path) -> tuple[dict[str, Tensor], list[dict], int] | None:
    """Return (weights, history, classes) of a finished run, or None when it is not finished."""
    about, file = folder / "spec.json", folder / "model.safetensors"
    if not about.exists():
        return None
    try:
        content = json.loads(about.read_text())
        if hashlib.sha256(file.read_bytes()).hexdigest() != content["sha256"]:
            raise ValueError("its content does not match its hash")
        return load_file(file), content["history"], content["classes"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        _set_aside(file, about, error)
        return None
