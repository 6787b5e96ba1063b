"""``planted``: objects of known shape, size and position on backgrounds that may give them away.

Every image is drawn from (seed, split, index) alone, so any item can be made by itself, and
changing one control leaves the other draws as they were: the same object appears at the same
place on another background. The class is the object's shape. The background's texture tells nothing
of it (the fair world, by default), or agrees with the class with a chosen probability, which makes
it a shortcut of known strength.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache

import numpy as np
import torch

from topgap_nb.data.image_set import SPLITS, ImageSet
from topgap_nb.data.registry import DataSet
from topgap_nb.errors import UserError

IMAGES = {"train": 2000, "val": 400, "test": 800}
# Share of the image area that one ellipse covers.
CLUTTER_AREA = 0.006
MAX_CLUTTER = 32
# Of a texture at full contrast, as a share of the way between an image's dark and its light colour.
AMPLITUDE = 0.22


def _star(x, y):
    angle = np.arctan2(x, y)
    return np.hypot(x, y) < 0.45 + 0.4 * np.cos(5 * angle) ** 2 * (np.cos(5 * angle) > 0)


# Each predicate says which points (x, y) of [-1, 1]^2 belong to the shape, before it is scaled.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disk": lambda x, y: x**2 + y**2 < 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.7,
    "triangle": lambda x, y: (y > -0.5) & (y < 1 - np.sqrt(3) * abs(x)),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.25) & (np.maximum(abs(x), abs(y)) < 0.9),
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.75) < 0.22,
    "star": _star,
    "bar": lambda x, y: (abs(x) < 0.3) & (abs(y) < 0.9),
    "crescent": lambda x, y: (np.hypot(x, y) < 0.95) & (np.hypot(x - 0.5, y) > 0.8),
    "angle": lambda x, y: (np.maximum(abs(x), abs(y)) < 0.7) & (np.minimum(x, y) < -0.2),
    "hourglass": lambda x, y: (abs(x) < abs(y) + 0.08) & (abs(y) < 0.8),
}
# A background gets coordinates in [0, 1], a phase in [0, 2 pi) and noise; it returns about [-1, 1].
TEXTURES: dict[str, Callable[..., np.ndarray]] = {
    "rows": lambda x, y, phase, noise: np.sin(38 * y + phase),
    "columns": lambda x, y, phase, noise: np.sin(38 * x + phase),
    "slope": lambda x, y, phase, noise: np.sin(27 * (x + y) + phase),
    "checks": lambda x, y, phase, noise: np.sign(np.sin(25 * x + phase) * np.sin(25 * y + phase)),
    "rings": lambda x, y, phase, noise: np.sin(45 * np.hypot(x - 0.5, y - 0.5) + phase),
    "dots": lambda x, y, phase, noise: np.sin(30 * x + phase) + np.sin(30 * y - phase) - 0.5,
    "waves": lambda x, y, phase, noise: np.sin(30 * y + 2.5 * np.sin(14 * x + phase)),
    "grain": lambda x, y, phase, noise: 1.2 * noise,
    "fan": lambda x, y, phase, noise: np.sin(14 * np.arctan2(y - 0.5, x - 0.5) + phase),
    "back_slope": lambda x, y, phase, noise: np.sin(27 * (x - y) + phase),
}


def _open(
    split: str,
    image_size: int,
    images: int | Mapping[str, int] | None,
    classes: int,
    object_size: float | Sequence[float],
    jitter: float,
    agreement: float | None,
    texture_contrast: float,
    clutter: int,
    seed: int,
) -> ImageSet:
    """Return a split of planted objects with exact masks.

    Args:
        split: ``train``, ``val`` or ``test``; they share no draw.
        image_size: pixels per side.
        images: how many, for this split or as {split: number}; by default 2,000, 400 and 800.
            Item i is the same for any number.
        classes: 2..10 shapes, in the order of ``SHAPES``.
        object_size: share of the image area that the object covers: one number, two numbers (drawn
            uniformly between them), or one number per class.
        jitter: 0 puts the object in the centre, 1 anywhere it fits whole.
        agreement: probability that the background is the one that goes with the class; otherwise it
            is one of the others. None is 1 / classes: it is independent of the class. Group 0: it
            agrees; group 1: it does not.
        texture_contrast: of the backgrounds, in [0, 1]. Below about 0.3 the texture is fainter than
            the noise on each pixel, and must be averaged over many to be told from another.
        clutter: how many small ellipses lie about, in every class alike.
        seed: another seed draws another world.

    Raises:
        UserError: a control is out of range, or the object does not fit the image.
    """
    if images is None or isinstance(images, Mapping):
        if unknown := set(images or {}) - set(SPLITS):
            raise UserError(f"images = {images}: {', '.join(sorted(unknown))} is no split")
        images = {**IMAGES, **(images or {})}[split]
    if not 2 <= classes <= len(SHAPES):
        raise UserError(f"planted has 2 to {len(SHAPES)} classes, not {classes}")
    agreement = 1 / classes if agreement is None else agreement
    for name, value in (
        ("agreement", agreement), ("jitter", jitter), ("texture_contrast", texture_contrast),
    ):  # fmt: skip
        if not 0 <= value <= 1:
            raise UserError(f"{name} = {value} must lie in [0, 1]")
    if images < 1 or seed < 0 or not 0 <= clutter <= MAX_CLUTTER:
        raise UserError(
            f"images = {images} must be at least 1, seed = {seed} at least 0, and "
            f"clutter = {clutter} in 0..{MAX_CLUTTER}"
        )
    sizes = _size_ranges(object_size, classes)
    painter = (image_size, sizes, jitter, agreement, texture_contrast, clutter)
    return _drawn(split, images, seed, painter)


@lru_cache(maxsize=16)
def _drawn(split: str, images: int, seed: int, painter: tuple) -> ImageSet:
    draw = _Painter(*painter)
    image_size, sizes = painter[:2]
    pixels = np.empty((images, 3, image_size, image_size), dtype=np.uint8)
    masks = np.empty((images, image_size, image_size), dtype=bool)
    agrees = np.empty(images, dtype=bool)
    classes = len(sizes)
    for index in range(images):
        entropy = [seed, SPLITS.index(split), index]
        pixels[index], masks[index], agrees[index] = draw(index % classes, entropy)
    return ImageSet(
        name="planted",
        pixels=torch.from_numpy(pixels),
        labels=torch.arange(images) % classes,
        class_names=tuple(SHAPES)[:classes],
        ids=tuple(f"{split}-{seed}-{index}" for index in range(images)),
        masks=torch.from_numpy(masks),
        group=torch.from_numpy((~agrees).astype(np.int64)),
        group_names=("background agrees", "background disagrees"),
    )


def _size_ranges(object_size, classes: int) -> tuple[tuple[float, float], ...]:
    """Return (smallest, largest) area share per class, checked against what fits."""
    if isinstance(object_size, int | float):
        ranges = [(object_size, object_size)] * classes
    elif len(object_size) == 2 and classes != 2:
        ranges = [tuple(object_size)] * classes
    elif len(object_size) == classes:
        ranges = [(size, size) for size in object_size]
    else:
        raise UserError(
            f"object_size = {object_size}: give one share, two (a range), or {classes} (per class)"
        )
    for name, (low, high) in zip(SHAPES, ranges, strict=False):
        area, reach = _extent(name)
        if not 0 < low <= high or reach * np.sqrt(high / area) > 0.5:
            most = area * (0.5 / reach) ** 2
            raise UserError(
                f"object_size = {object_size}: a {name} fits the image whole up to {most:.2f} of "
                f"its area, and a share must be above 0"
            )
    return tuple(ranges)


@cache
def _extent(shape: str) -> tuple[float, float]:
    """Return a shape's area and its reach (largest distance from its centre), unscaled."""
    axis = np.linspace(-1, 1, 1024)
    x, y = np.meshgrid(axis, axis)
    inside = SHAPES[shape](x, y)
    return float(4 * inside.mean()), float(np.hypot(x, y)[inside].max())


class _Painter:
    """Draws one image from a label and an entropy list; holds what all images share."""

    def __init__(self, image_size, sizes, jitter, agreement, texture_contrast, clutter):
        axis = ((np.arange(image_size) + 0.5) / image_size).astype(np.float32)
        self.x, self.y = np.meshgrid(axis, axis)
        self.sizes, self.jitter, self.agreement, self.clutter = sizes, jitter, agreement, clutter
        self.amplitude = AMPLITUDE * texture_contrast
        self.shapes = list(SHAPES.items())[: len(sizes)]
        self.textures = list(TEXTURES.values())[: len(sizes)]

    def __call__(self, label: int, entropy: list[int]) -> tuple[np.ndarray, np.ndarray, bool]:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
        # Drawn in one fixed order, whether used or not, so that no control shifts another's draws.
        size, angle, dx, dy, agree, other, phase = rng.random(7)
        dark, light, fill = rng.uniform(0.15, 0.85, (3, 3)).astype(np.float32)
        noise = rng.standard_normal((2, *self.x.shape), dtype=np.float32)
        ellipses = rng.random((MAX_CLUTTER, 6))[: self.clutter]

        agrees = bool(agree < self.agreement)
        texture = label
        if not agrees:
            texture = (label + 1 + int(other * (len(self.textures) - 1))) % len(self.textures)
        pattern = self.textures[texture](self.x, self.y, 2 * np.pi * phase, noise[0])
        weight = (0.5 + self.amplitude * pattern).clip(0, 1)
        image = dark[:, None, None] * (1 - weight) + light[:, None, None] * weight
        for cx, cy, turn, stretch, *tint in ellipses:
            spot = self._ellipse(cx, cy, np.pi * turn, 1 + 2 * stretch)
            image[:, spot] = np.array([tint[0], tint[1], 1 - tint[0]])[:, None]
        mask = self._object(label, size, 2 * np.pi * angle, dx, dy)
        image[:, mask] = fill[:, None] + 0.12 * noise[1][mask]
        image += 0.03 * noise[0]
        return (image.clip(0, 1) * 255).round().astype(np.uint8), mask, agrees

    def _object(self, label, size, angle, dx, dy) -> np.ndarray:
        name, inside = self.shapes[label]
        low, high = self.sizes[label]
        area, reach = _extent(name)
        scale = np.sqrt((low + (high - low) * size) / area)
        room = self.jitter * (0.5 - reach * scale)
        x, y = self.x - 0.5 - room * (2 * dx - 1), self.y - 0.5 - room * (2 * dy - 1)
        cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
        return inside(cosine * x + sine * y, cosine * y - sine * x)

    def _ellipse(self, cx, cy, angle, stretch) -> np.ndarray:
        radius = np.sqrt(CLUTTER_AREA / np.pi)
        x, y = (self.x - cx) / radius, (self.y - cy) / radius
        along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        return along**2 / stretch + across**2 * stretch < 1


OPTIONS = {
    "images": None, "classes": 8, "object_size": 0.1, "jitter": 1.0, "agreement": None,
    "texture_contrast": 1.0, "clutter": 4, "seed": 0,
}  # fmt: skip
PLANTED = DataSet("planted", "shapes of known place and size on textures", _open, OPTIONS)
