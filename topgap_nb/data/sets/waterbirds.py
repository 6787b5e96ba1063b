"""``waterbirds``: 11,788 birds pasted on land and on water; the background misleads.

The published set (Sagawa et al. 2020): in ``train`` 95 % of waterbirds are on water and of
landbirds on land, in ``val`` (its ``val``) and ``test`` half. Group = 2 * kind of bird + place.
The masks are CUB's, which lie where they did; they need ``cub`` with its segmentations. For a set
made here from other objects and backgrounds see ``pasted``.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from topgap_nb.data.fetch.sources import Archive, Source
from topgap_nb.data.image_set import SPLITS, ImageSet
from topgap_nb.data.reading import Manifest, decoded
from topgap_nb.data.registry import DataSet
from topgap_nb.data.sets import cub
from topgap_nb.errors import UserError

SOURCE = Source(
    name="waterbirds",
    folder="waterbird_complete95_forest2water2",
    needs=("metadata.csv",),
    counts={"train": 4795, "val": 1199, "test": 5794},
    archives=(
        Archive(
            "https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz",
            None, 500_000_000,
        ),
    ),
    unpacked=510_000_000,
)  # fmt: skip
GROUPS = ("land bird on land", "land bird on water", "water bird on land", "water bird on water")


def _open(split: str, image_size: int, labels: str) -> ImageSet:
    import pandas as pd

    root = SOURCE.home()
    if labels not in ("kind", "species"):
        raise UserError(f"labels {labels!r}: use kind or species")
    try:
        table = pd.read_csv(root / "metadata.csv")
        names, birds = table.img_filename, table.y.to_numpy()
        groups = (2 * table.y + table.place).to_numpy(np.int64)
        splits = np.array(SPLITS, object)[table.split]
    except (AttributeError, ValueError, IndexError) as error:
        raise UserError(f"{root / 'metadata.csv'} is not Waterbirds' table: {error}") from error
    # A folder's number is its species' number in CUB.
    species = {int(name.split(".")[0]) - 1: name.split("/")[0] for name in names}
    if labels == "species":
        birds = np.array([int(name.split(".")[0]) - 1 for name in names])
        classes = tuple(species.get(label, "") for label in range(max(199, *species) + 1))
    else:
        classes = ("land bird", "water bird")
    manifest = Manifest(
        name="waterbirds",
        files=tuple(root / name for name in names),
        labels=birds,
        class_names=classes,
        ids=tuple(name.rpartition(".")[0] for name in names),
        splits=splits,
        masks=tuple(map(cub.segmentation_of, names)) if cub.SOURCE.where() else (),
        group=groups,
        group_names=GROUPS,
    )
    return decoded(manifest.only(split), image_size)


def _paths(options: Mapping) -> list[Path]:
    return [path for path in (SOURCE.where(), cub.SOURCE.where()) if path]


# labels: kind, land or water bird; or species, the 200 of CUB, on which the paper tests a network
# trained on ``cub``.
OPTIONS = {"labels": "kind"}
WATERBIRDS = DataSet(
    "waterbirds", "11,788 birds on misleading backgrounds", _open, OPTIONS, SOURCE, _paths
)
