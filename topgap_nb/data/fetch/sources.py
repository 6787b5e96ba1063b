"""Data sets that are not embedded: where they lie, where they come from, what must be there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from topgap_nb.errors import UserError
from topgap_nb.store.layout import data_root


@dataclass(frozen=True)
class Archive:
    """One file of the publisher's.

    Attributes:
        url: where it is.
        hash: ``md5:...`` or ``sha256:...`` as published, or None where nothing is.
        size: bytes.
        subdir: the folder, under the data root, that its content belongs in.
    """

    url: str
    hash: str | None
    size: int
    subdir: str = ""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and the folder that it lies in.

    Attributes:
        name: as in ``open_dataset``.
        folder: under the data root, in the publisher's layout.
        needs: what must be in that folder; ``a|b`` is either.
        counts: the publisher's number of images per split, or ``all``; ``val`` counts to
            ``train`` unless the publisher has one.
        archives: what ``prepare`` downloads; empty where the publisher does not allow it.
        unpacked: bytes on disk.
        instruction: one line, where there is nothing to download.
        alt_folders: further folders that it may lie in, such as a part of the set for trial runs.
        mirror: another way to fill the folder, should the publisher not answer.
        post_process: makes the layout of archives that a person has put into the folder; False
            where they are not there.
    """

    name: str
    folder: str
    needs: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict, hash=False)
    archives: tuple[Archive, ...] = ()
    unpacked: int = 0
    instruction: str = ""
    alt_folders: tuple[str, ...] = ()
    mirror: Callable[[Path], None] | None = None
    post_process: Callable[[Path], bool] | None = None

    def where(self) -> Path | None:
        """Return the folder that the data set lies in, or None."""
        for folder in (self.folder, *self.alt_folders):
            path = data_root() / folder
            if path.is_dir() and not self._missing(path):
                return path
        return None

    def _missing(self, path: Path) -> list[str]:
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
        missing = ", ".join(self._missing(path)).replace("|", " or ")
        raise UserError(f"data set {self.name!r}: {path} lacks {missing}: {todo}")
