"""``folder``: a folder of your own images, one folder per class, with or without masks."""

from collections.abc import Mapping
from pathlib import Path

from topgap_nb.data.folder.open import open_folder
from topgap_nb.data.registry import DataSet


def _paths(options: Mapping) -> list[Path]:
    return [Path(options["path"]).expanduser()] if options["path"] else []


OPTIONS = {
    "path": "", "masks": "", "mask_values": (), "labels": "", "subject_pattern": "", "seed": 0,
}  # fmt: skip
FOLDER = DataSet("folder", "a folder of your own images", open_folder, OPTIONS, paths=_paths)
