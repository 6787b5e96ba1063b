"""One image file: opened with a clear line where it cannot be, and read as pixels."""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from topgap_nb.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# The usual 224 of 256 pixels, as the share of the short side that is cut off at each end.
CROP_MARGIN = (1 - 224 / 256) / 2
ORIENTATION, BITS = 0x0112, 258
# How a picture that was stored with an orientation is set upright.
TURNS = dict(zip(range(2, 9), (
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
), strict=True))  # fmt: skip


def is_image(path: Path) -> bool:
    """Return whether a file's name is that of an image that can be read."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted."""
    return sorted(filter(is_image, folder.iterdir()))


def plain(name: object) -> str:
    """Return a name such that one name is one text, in one line.

    Composed, as macOS stores names decomposed; what cannot be printed becomes a question mark.
    """
    text = unicodedata.normalize("NFC", str(name))
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Yield an image file; what goes wrong with it becomes one line that names it.

    Raises:
        UserError: the file is not a readable image.
    """
    try:
        with Image.open(path) as image:
            yield image
    except UserError:
        raise
    # Damaged files make decoders raise nearly anything.
    except Exception as error:
        words = " ".join(str(error).split())
        raise UserError(
            f"{plain(path)} is not a readable image ({words}): remove or replace it"
        ) from error


class Shape(NamedTuple):
    """How an image file lies: (width, height) as stored and upright, and the turn between them."""

    stored: tuple[int, int]
    upright: tuple[int, int]
    turn: Image.Transpose | None


def shape_of(path: Path) -> Shape:
    """Return how an image file lies.

    Raises:
        UserError: the file is not a readable image.
    """
    with opened(path) as image:
        orientation, size = image.getexif().get(ORIENTATION), image.size
    # Orientations 5 to 8 lie on their side.
    return Shape(size, size[::-1] if orientation in range(5, 9) else size, TURNS.get(orientation))


def state(path: Path) -> list:
    """Return what tells a file from its former self: path, size and time of change."""
    try:
        found = path.stat()
    except OSError:
        return [str(path), None]
    return [str(path), found.st_size, found.st_mtime_ns]


def read_image(path: Path, size: int, mode: str = "RGB", crop: bool = False) -> np.ndarray:
    """Return an image file as uint8, (size, size, 3) or, with mode ``L``, grey (size, size).

    Upright as its EXIF orientation says; of 16 bits the upper 8; what is transparent shows white.

    Args:
        path: the file.
        size: pixels per side.
        mode: ``RGB`` or ``L``.
        crop: cut out the middle, as is usual on ImageNet; otherwise the sides are stretched, so
            that objects at the border stay in.

    Raises:
        UserError: the file is not a readable image, holds several pages, or has 32-bit pixels,
            whose range is unknown.
    """
    with opened(path) as image:
        if image.format == "TIFF" and image.n_frames > 1:
            raise UserError(
                f"{plain(path)} holds {image.n_frames} pages: save each as a file of its own"
            )
        if not crop:
            # A JPEG decodes faster at the power of two just above the size that is wanted.
            image.draft(mode, (size, size))
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16"):
            # ``convert`` would clip at 255 instead of scaling; TIFF also packs 12 bits.
            bits = max(getattr(image, "tag_v2", {}).get(BITS, (16,)))
            image = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise UserError(
                f"{plain(path)} has 32-bit pixels of unknown range: save it with 8 or 16 bits"
            )
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(mode)
        if crop:
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR, CROP_MARGIN)
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
