"""Where the object is: masks from image files, from polygons and from run lengths.

Each kind has ``read(size)``: bool (size, size), True on the object, upright as its image is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from topgap_nb.data.image_file import Shape, opened, plain, shape_of, state
from topgap_nb.errors import UserError

# Formats in which no level is exact.
LOSSY = ("JPEG", "WEBP")


@dataclass(frozen=True)
class MaskFile:
    """A mask that is read from an image file.

    Attributes:
        path: the file; where there is none, the image has no mask.
        values: the grey levels, or palette numbers, that mean the object.
        above: where no values are given, all greater levels mean it; by default all above 0, or
            127 in a JPEG. A palette of black and white counts by its colours, and what is
            transparent is background.
        resample: how the mask is resized; a pixel is True from half of it on.
        image: the image file that the mask must be as large as; None where it is not checked. If
            it is ``path`` itself, its alpha channel is the mask.
    """

    path: Path
    values: tuple[int, ...] = ()
    above: int | None = None
    resample: Image.Resampling = Image.Resampling.BOX
    image: Path | None = None

    def read(self, size: int) -> np.ndarray | None:
        """Return the mask, bool (size, size), True on the object; None where there is no file.

        Raises:
            UserError: the file is not a readable image, not as large as the image, or does not
                tell the object from the background.
        """
        if not self.path.exists():
            return None
        with opened(self.path) as mask:
            ImageOps.exif_transpose(mask, in_place=True)
            inside = Image.fromarray(self._inside(mask).astype(np.uint8) * 255)
        if self.image is not None:
            inside = self._upright(inside)
        return _shrunk(inside, size, self.resample)

    def _inside(self, mask: Image.Image) -> np.ndarray:
        if self.path == self.image:
            return np.asarray(mask.convert("RGBA").getchannel("A")) > 127
        lossy = mask.format in LOSSY
        if not self.values:
            return _levels(mask, self.path) > (127 * lossy if self.above is None else self.above)
        if lossy:
            raise UserError(
                f"the mask {plain(self.path)} is a {mask.format}, whose levels are not exact: save "
                "it as PNG, or give no mask_values"
            )
        return np.isin(_numbers(mask), self.values)

    def _upright(self, mask: Image.Image) -> Image.Image:
        """Return the mask turned as its image is, if it was drawn on the image as it is stored."""
        shape = shape_of(self.image)
        if mask.size == shape.upright:
            return mask
        if mask.size == shape.stored:
            return mask.transpose(shape.turn)
        raise UserError(
            f"the mask {plain(self.path)} ({mask.width} x {mask.height}) is of another size than "
            f"{plain(self.image.name)} ({shape.upright[0]} x {shape.upright[1]}): make them equal"
        )

    def __fingerprint__(self) -> list:
        """Return what the mask depends on."""
        return [state(self.path), self.values, self.above, self.resample, self.path == self.image]


def values_in(path: Path) -> list[int]:
    """Return the grey levels, or palette numbers, that a mask file holds, in ascending order."""
    with opened(path) as mask:
        return np.unique(_numbers(mask)).tolist()


def _numbers(mask: Image.Image) -> np.ndarray:
    is_numbered = mask.mode in ("1", "L", "P", "I", "F") or mask.mode.startswith("I;16")
    return np.asarray(mask if is_numbered else mask.convert("L"))


def _levels(mask: Image.Image, path: Path) -> np.ndarray:
    """Return how bright each pixel is; 0 where it is transparent."""
    clear = mask.has_transparency_data
    if not clear and (mask.mode in ("L", "I", "F") or mask.mode.startswith("I;16")):
        return np.asarray(mask)
    colours = np.asarray(mask.convert("RGBA"))
    levels, shown = colours[..., :3].max(2), colours[..., 3] > 127
    if not shown.all():
        one_colour = len(np.unique(levels[shown])) == 1
        return np.where(shown, 255 if one_colour else levels, 0)
    if mask.mode == "P" and not (
        _black_and_white(colours) or np.array_equal(np.asarray(mask) > 0, levels > 0)
    ):
        raise UserError(
            f"the palette of the mask {plain(path)} does not tell the object from the background: "
            f"say with mask_values which of the numbers {_listed(np.unique(mask))} are the object"
        )
    return levels


def _black_and_white(colours: np.ndarray) -> bool:
    """Return whether a picture is of black and white alone, or of greys from black to white."""
    level = colours[..., 0]
    is_grey = (colours[..., :3] == level[..., None]).all()
    ends = (level == 0) | (level >= 250)
    return bool(is_grey and (ends.all() or (level.min() == 0 and level.max() >= 250)))


def _listed(numbers: np.ndarray) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")


@dataclass(frozen=True)
class Outline:
    """A mask that is drawn: the inside of polygons.

    Attributes:
        polygons: per polygon its points (x, y) in pixels of the image.
        image_size: (width, height) that the points count in; None: of the image as it is stored.
        image: the image file; None where the points count in the upright image.
    """

    polygons: Sequence
    image_size: tuple[int, int] | None = None
    image: Path | None = None

    def read(self, size: int) -> np.ndarray:
        """Return the mask, bool (size, size), True inside."""
        (width, height), turn = _frame(self.image_size, self.image)
        canvas = Image.new("L", (4 * size, 4 * size))
        for points in self.polygons:
            scaled = [(x * 4 * size / width - 0.5, y * 4 * size / height - 0.5) for x, y in points]
            ImageDraw.Draw(canvas).polygon(scaled, fill=255)
        return _shrunk(canvas if turn is None else canvas.transpose(turn), size)

    def __fingerprint__(self) -> list:
        """Return what the mask depends on; a change of the image file is noticed as such."""
        return [self.polygons, self.image_size, self.image is None]


@dataclass(frozen=True)
class RunLengths:
    """A mask as COCO writes it where an object has no polygons: lengths of runs, column by column.

    Source: the compressed form is that of github.com/cocodataset/cocoapi, ``common/maskApi.c``.

    Attributes:
        counts: pixels outside, inside, outside, ...; or the same as COCO's compressed text.
        image_size: (width, height).
        image: the image file; None where the mask is upright.
    """

    counts: str | Sequence[int]
    image_size: tuple[int, int]
    image: Path | None = None

    def read(self, size: int) -> np.ndarray:
        """Return the mask, bool (size, size), True inside.

        Raises:
            UserError: the lengths do not add up to the image.
        """
        (width, height), turn = _frame(self.image_size, self.image)
        try:
            runs = _run_lengths(self.counts) if isinstance(self.counts, str) else self.counts
            if sum(runs) != width * height:
                raise ValueError(sum(runs))
            flat = np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height)
        except (ValueError, TypeError, StopIteration) as error:
            raise UserError(
                f"the run lengths of {plain(self.image or 'a mask')} do not add up to "
                f"{width} x {height} pixels: export the annotations again"
            ) from error
        mask = Image.fromarray((flat.T * 255).astype(np.uint8))
        return _shrunk(mask if turn is None else mask.transpose(turn), size)

    def __fingerprint__(self) -> list:
        """Return what the mask depends on; a change of the image file is noticed as such."""
        return [self.counts, self.image_size, self.image is None]


def _frame(
    size: tuple[int, int] | None, image: Path | None
) -> tuple[tuple[int, int], Image.Transpose | None]:
    """Return the (width, height) a mask is given in, and the turn that sets it upright."""
    shape = Shape(size, size, None) if image is None else shape_of(image)
    # A size that fits both ways, as of a square, is taken for the upright one.
    turned = size is None or (size == shape.stored and size != shape.upright)
    return size or shape.stored, shape.turn if turned else None


def _run_lengths(text: str) -> list[int]:
    """Return the lengths in COCO's compressed text: numbers of 5 bits a letter, lowest first.

    From the fourth on, each is the difference to the one before the last.
    """
    runs, letters = [], iter(text)
    for letter in letters:
        value = shift = 0
        bits = ord(letter) - 48
        while bits & 32:
            value, shift = value | (bits & 31) << shift, shift + 5
            bits = ord(next(letters)) - 48
        value |= (bits & 31) << shift
        if bits & 16:
            value -= 1 << (shift + 5)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def _shrunk(
    mask: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BOX
) -> np.ndarray:
    return np.asarray(mask.resize((size, size), resample)) > 127
