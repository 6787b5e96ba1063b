"""``wbc``: 300 stained white blood cells of five types, each with its outline: small microscopy.

Zheng et al. (2018), data set 1, with the folders ``images`` and ``masks`` and ``labels.csv``
(``image ID,class label``). A stand-in for ``wood``, which has no public copy. The mask is the whole
cell: cytoplasm (grey) and nucleus (white). A third of each type is the test split, an eighth of the
rest ``val``. The authors warn that some labels are their own, not experts'.
"""

import numpy as np

from topgap_nb.data.fetch.sources import Source
from topgap_nb.data.image_set import ImageSet
from topgap_nb.data.masks import MaskFile
from topgap_nb.data.reading import Manifest, decoded
from topgap_nb.data.registry import DataSet
from topgap_nb.data.splits import stratified_split
from topgap_nb.errors import UserError

SOURCE = Source(
    name="wbc",
    folder="wbc-microscopy",
    needs=("images", "labels.csv"),
    counts={"all": 300},
    instruction=(
        "get `Dataset 1` and its class labels from github.com/zxaoyou/segmentation_WBC and put "
        "them into the folder `wbc-microscopy` as images/001.png, masks/001.png, labels.csv"
    ),
)
TYPES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")


def _open(split: str, image_size: int, min_samples: int) -> ImageSet:
    root = SOURCE.home()
    try:
        table = np.loadtxt(root / "labels.csv", np.int64, delimiter=",", skiprows=1, ndmin=2)
        numbers, labels = table.T
    except ValueError as error:
        raise UserError(f"{root / 'labels.csv'} is not `image ID,class label` rows") from error
    names, labels = [f"{number:03d}" for number in numbers], labels - 1
    splits = stratified_split(np.full(len(names), "train", object), labels, 1 / 3, "test")
    files = tuple(root / "images" / f"{name}.png" for name in names)
    manifest = Manifest(
        name="wbc",
        files=files,
        labels=labels,
        class_names=TYPES,
        ids=tuple(names),
        splits=stratified_split(splits, labels, 1 / 8),
        # Of the levels 0, 128 and 255 the latter two: cytoplasm and nucleus.
        masks=tuple(MaskFile(root / "masks" / f.name, above=63, image=f) for f in files),
    )
    return decoded(manifest.with_min_samples(min_samples).only(split), image_size)


WBC = DataSet("wbc", "300 stained white blood cells, with masks", _open, {"min_samples": 1}, SOURCE)
