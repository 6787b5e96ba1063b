"""Data sets that are not embedded: where they lie, where they come from, what must be there."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from topgap_nb.errors import UserError
from topgap_nb.files import data_root


@dataclass(frozen=True)
class Archive:
    """One file of the publisher's.

    Attributes:
        url: where it is.
        hash: ``md5:...`` or ``sha256:...`` as published, or None where nothing is.
        size: bytes.
        into: the folder, under the data root, that its content belongs in.
    """

    url: str
    hash: str | None
    size: int
    into: str = ""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and the folder that it lies in.

    Attributes:
        name: as in ``open_dataset``.
        folder: under the data root, in the publisher's layout.
        needs: what must be in that folder; ``a|b`` is either.
        counts: the publisher's number of images per split, or ``all``; ``select`` counts to
            ``train`` unless the publisher has one.
        archives: what ``prepare`` downloads; empty where the publisher does not allow it.
        unpacked: bytes on disk.
        instruction: one line, where there is nothing to download.
        also: further folders that it may lie in: parts of the set for trial runs.
        second: another way to fill the folder, should the publisher not answer.
        finish: what turns archives that a person has put there into the layout.
        sized: files are told apart by size also, not by name alone; too slow for a million.
    """

    name: str
    folder: str
    needs: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict, hash=False)
    archives: tuple[Archive, ...] = ()
    unpacked: int = 0
    instruction: str = ""
    also: tuple[str, ...] = ()
    second: Callable[[Path], None] | None = None
    finish: Callable[[Path], bool] | None = None
    sized: bool = True

    def where(self) -> Path | None:
        """Return the folder that the data set lies in, or None."""
        for folder in (self.folder, *self.also):
            path = data_root() / folder
            if path.is_dir() and not self._lacking(path):
                return path
        return None

    def _lacking(self, path: Path) -> list[str]:
        return [
            need for need in self.needs if not any((path / n).exists() for n in need.split("|"))
        ]

    def home(self) -> Path:
        """Return the folder that the data set lies in.

        Raises:
            UserError: it is not there, or not whole; the message says what to do.
        """
        if (path := self.where()) is not None:
            return path
        path = data_root() / self.folder
        todo = self.instruction or f"run `topgap data prepare {self.name}`"
        if not path.exists():
            raise UserError(f"data set {self.name!r} is not in {data_root()}: {todo}")
        lacking = ", ".join(self._lacking(path)).replace("|", " or ")
        raise UserError(f"data set {self.name!r}: {path} lacks {lacking}: {todo}")

    def identity(self) -> str:
        """Return a hash that tells this copy from a part of it or from another version."""
        path = self.where()
        return "absent" if path is None else folder_identity(path, self.sized)


@cache
def folder_identity(folder: Path, sized: bool = True) -> str:
    """Return a hash of the names, and sizes, of all files under a folder."""
    digest = hashlib.sha256()
    for place, folders, files in os.walk(folder):
        folders.sort()
        digest.update(os.path.relpath(place, folder).encode())
        for name in sorted(files):
            size = os.path.getsize(os.path.join(place, name)) if sized else ""
            digest.update(f"/{name}:{size}".encode())
    return digest.hexdigest()[:16]
