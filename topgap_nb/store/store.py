"""The store: ``get_or_make(kind, name, key, make)``. What is there is read, what is not is made.

An entry is a folder that is written once, whole or not at all, and never changed. ``entry.json``
in it holds its key in words and a checksum of each of its files. An entry that no longer matches is
set aside with a warning and made again. Two processes that ask for the same entry make it once.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from tqdm.auto import tqdm

from topgap_nb.store.fingerprint import content, digest
from topgap_nb.store.layout import runs_root

ABOUT = "entry.json"
MISSING = object()


@dataclass(frozen=True)
class Kind:
    """A kind of thing that is kept: the folder under ``runs/``, and how a value becomes files.

    Attributes:
        folder: name of the folder under ``runs/``.
        write: puts a value into an empty folder.
        read: makes the value of that folder again.
    """

    folder: str
    write: Callable[[Any, Path], None]
    read: Callable[[Path], Any]


def get_or_make(kind: Kind, name: str, key: Mapping, make: Callable[[Path], Any]):
    """Return the value that is stored under a key, or make it and store it.

    Args:
        kind: what it is.
        name: the beginning of the entry's folder, for people.
        key: everything that the value depends on; see ``fingerprint.content``.
        make: makes the value. It gets the path of a folder, not made yet, for what it wants to find
            again after an interruption.

    Raises:
        NoFingerprint: a part of the key cannot be hashed.
    """
    told = content(key)
    entry = _entry(kind, name, told)
    if (value := look_up(kind, entry)) is not MISSING:
        return value
    with locked(entry):
        if (value := look_up(kind, entry)) is not MISSING:
            return value
        value = make(partial_of(entry))
        return _keep(kind, entry, told, value)


def entry_of(kind: Kind, name: str, key: Mapping) -> Path:
    """Return the folder of an entry, whether it is there or not."""
    return _entry(kind, name, content(key))


def _entry(kind: Kind, name: str, told) -> Path:
    return runs_root() / kind.folder / f"{name}-{digest(told)}"


def partial_of(entry: Path) -> Path:
    """Return the folder of what an entry's maker has done so far."""
    return entry.with_name(f"{entry.name}.partial")


def look_up(kind: Kind, entry: Path):
    """Return the value of an entry, or ``MISSING``; a damaged one is set aside with a warning."""
    return read_folder(entry, kind.read)


def keep(kind: Kind, entry: Path, key: Mapping, value):
    """Store a value; return it as it will be read. A full disk costs time later, and no more."""
    return _keep(kind, entry, content(key), value)


def _keep(kind: Kind, entry: Path, told, value):
    try:
        write_folder(entry, lambda folder: kind.write(value, folder), {"key": told})
    except (OSError, SafetensorError) as error:
        warnings.warn(f"{entry} cannot be kept ({error}): it will be made again", stacklevel=3)
        return value
    shutil.rmtree(partial_of(entry), ignore_errors=True)
    stored = look_up(kind, entry)
    return value if stored is MISSING else stored


@contextmanager
def locked(entry: Path) -> Iterator[None]:
    """Hold an entry; say so when another process holds it."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(entry.with_name(f".{entry.name}.lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        tqdm.write(f"{entry.name}: another process is making it; waiting for its result")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_folder(folder: Path, write: Callable[[Path], None], about: Mapping) -> None:
    """Write a folder of files with their checksums, whole or not at all.

    Args:
        folder: where it will stand.
        write: puts the files into an empty folder.
        about: further entries of its ``entry.json``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Not by tempfile, whose folders nobody else may read.
    draft = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    draft.mkdir()
    try:
        write(draft)
        files = {path.relative_to(draft).as_posix(): _sha256(path) for path in _files(draft)}
        # A line for each part: with an indent, json encodes the key of a large network in Python.
        parts = (f" {json.dumps(name)}: {json.dumps(part)}" for name, part in about.items())
        text = ",\n".join([*parts, f' "files": {json.dumps(files, indent=2)}'])
        write_atomic(draft / ABOUT, f"{{\n{text}\n}}\n")
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_folder(folder: Path, read: Callable[[Path], Any]):
    """Return what ``read`` makes of a folder of ``write_folder``, or ``MISSING``.

    A folder whose files are not those that were written is set aside, with a warning.
    """
    if not folder.exists():
        return MISSING
    try:
        about = json.loads((folder / ABOUT).read_text())
        for name, wanted in about["files"].items():
            if _sha256(folder / name) != wanted:
                raise ValueError(f"{name} does not match its checksum")
        return read(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        aside = folder.with_name(f"{folder.name}.damaged")
        warnings.warn(
            f"{folder} is damaged ({error}): set aside as {aside.name} and made again", stacklevel=4
        )
        shutil.rmtree(aside, ignore_errors=True)
        # Another process may have set it aside in the meantime.
        with suppress(FileNotFoundError):
            folder.rename(aside)
        return MISSING


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
