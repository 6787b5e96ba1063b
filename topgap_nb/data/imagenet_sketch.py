"""``imagenet-sketch``: 50,889 sketches of the ImageNet classes, for testing only; it stays on disk.

Wang et al. (2019), folder ``sketch/<wnid>/``, about 50 images per class. See ``imagenet``.
"""

from topgap_nb.data.decode import LazyImages
from topgap_nb.data.imagenet import listing_of_test
from topgap_nb.data.sources import Source

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
    sized=False,
)


def open_imagenet_sketch(split: str = "test", image_size: int = 224) -> LazyImages:
    """Return the sketches, read from disk image by image."""
    listing = listing_of_test(SOURCE.home() / "sketch", "imagenet-sketch", split)
    return LazyImages(listing, image_size)
