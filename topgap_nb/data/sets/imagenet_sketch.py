"""``imagenet-sketch``: 50,889 sketches of the ImageNet classes, for testing only; it stays on disk.

Wang et al. (2019), folder ``sketch/<wnid>/``, about 50 images per class. See ``imagenet``.
"""

from topgap_nb.data.fetch.sources import Source
from topgap_nb.data.reading import LazyImages
from topgap_nb.data.registry import DataSet
from topgap_nb.data.sets.imagenet import manifest_for_testing

SOURCE = Source(
    name="imagenet-sketch",
    folder="imagenet-sketch",
    needs=("sketch",),
    counts={"test": 50_889},
    unpacked=8_000_000_000,
    instruction=(
        "get ImageNet-Sketch.zip by the link at github.com/HaohanWang/ImageNet-Sketch and unpack "
        "it into the folder `imagenet-sketch` there"
    ),
)


def _open(split: str, image_size: int) -> LazyImages:
    folder = SOURCE.home() / "sketch"
    return LazyImages(manifest_for_testing(folder, "imagenet-sketch", split), image_size)


IMAGENET_SKETCH = DataSet(
    "imagenet-sketch", "50,889 sketches of ImageNet's classes, only a test split", _open, {}, SOURCE
)
