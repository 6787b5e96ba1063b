"""``wood``: microscopy of fibrous material, nine hardwood species, one folder per species.

The wood identification set of Nieradzik et al. (2023): folders of images, no masks and no split.
A fifth of each species is the test split, and an eighth of the rest ``val``; for the paper's
five-fold numbers give a run its ``fold``.
"""

from dataclasses import replace

from topgap_nb.data.fetch.sources import Source
from topgap_nb.data.image_set import ImageSet
from topgap_nb.data.reading import class_folders, decoded
from topgap_nb.data.registry import DataSet
from topgap_nb.data.splits import stratified_split

SOURCE = Source(
    name="wood",
    folder="wood",
    needs=(),
    instruction=(
        "ask its authors for it (Nieradzik et al. 2023, reference 32 of the paper) and put it into "
        "the folder `wood` there, one folder of images per species"
    ),
)


def _open(split: str, image_size: int, min_samples: int) -> ImageSet:
    manifest = class_folders("wood", SOURCE.home())
    splits = stratified_split(manifest.splits, manifest.labels, 1 / 5, "test")
    splits = stratified_split(splits, manifest.labels, 1 / 8)
    manifest = replace(manifest, splits=splits).with_min_samples(min_samples)
    return decoded(manifest.only(split), image_size)


WOOD = DataSet(
    "wood", "microscopy of nine hardwood species, without masks", _open, {"min_samples": 1}, SOURCE
)
