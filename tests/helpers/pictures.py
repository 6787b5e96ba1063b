"""Made-up pictures for the search for duplicates, and the ways in which copies are edited."""

import io
from functools import cache

import numpy as np
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

SIDE = 96
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def parts(rng):
    """A washer on a machined plate: a little off the middle, uneven, some scratched."""
    down, across = SIDE / 2 + rng.normal(0, 0.8, 2)
    radius = np.hypot(ROWS - down, COLUMNS - across)
    grey = 120 + 10 * np.sin(ROWS / 3) + 30 * COLUMNS / SIDE
    grey = np.where((radius < 30) & (radius > 14), 200, grey)
    grey += 16 * gaussian_filter(rng.normal(size=grey.shape), 2)
    if rng.random() < 0.25:
        angle = rng.uniform(0, np.pi)
        along = (ROWS - down) * np.cos(angle) + (COLUMNS - across) * np.sin(angle)
        grey -= 50 * (abs(along - rng.uniform(-20, 20)) < 1) * (radius < 30)
    return grey + rng.normal(0, 5, grey.shape)


def panels(rng):
    """The cell of a panel: fingers and three busbars, unevenly lit, dark spots here and there."""
    grey = 90 + 12 * np.cos(2 * np.pi * (ROWS + rng.uniform(-1, 1)) / 6)
    grey = np.where(abs((COLUMNS + rng.uniform(-1, 1)) % 32 - 16) < 2, 215, grey)
    grey += 90 * gaussian_filter(rng.normal(size=grey.shape), 9)
    for _ in range(rng.integers(0, 4)):
        down, across, width = *rng.uniform(8, SIDE - 8, 2), rng.uniform(1.5, 5)
        grey -= 40 * np.exp(-((ROWS - down) ** 2 + (COLUMNS - across) ** 2) / (2 * width**2))
    return grey + rng.normal(0, 4, grey.shape)


def gels(rng):
    """Six lanes of eight bands, each of its own strength."""
    grey, line = np.full((SIDE, SIDE), 225.0), np.arange(SIDE)
    for lane in range(6):
        across = np.exp(-(((line - (lane + 0.5) * 16 - rng.normal(0, 0.4)) / 5) ** 4))
        rows = np.linspace(11, SIDE - 11, 8) + rng.normal(0, 0.5, 8)
        bands = np.exp(-(((line - rows[:, None]) / 2) ** 2))
        grey -= np.outer(rng.uniform(50, 110, 8) @ bands, across)
    return grey + rng.normal(0, 3, grey.shape)


def wells(rng):
    """A tray of 4 x 4 wells, each a little lighter or darker."""
    radius = np.hypot(ROWS % 24 - 12, COLUMNS % 24 - 12)
    level = np.kron(150 + rng.normal(0, 12, (4, 4)), np.ones((24, 24)))
    grey = np.where(radius < 9, level, 50)
    return grey + rng.normal(0, 4, grey.shape)


def scenes(rng):
    """A smooth random picture: no two are alike."""
    small = rng.integers(0, 256, (6, 6), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)


@cache
def drawn(kind, count, seed=0):
    """``count`` pictures of one kind."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(kind(rng).clip(0, 255).astype(np.uint8)) for _ in range(count)]


def cropped(image, share, rng):
    """The picture without a share of its width and height, from any sides."""
    left, top = (round(share * x * SIDE) for x in rng.random(2))
    side = SIDE - round(share * SIDE)
    return image.crop((left, top, left + side, top + side)).resize(image.size)


def edited(image, how):
    """A copy as people make them."""
    width, height = image.size
    if how == "jpeg":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=40)
        return Image.open(buffer).convert(image.mode)
    return {
        "copy": lambda: image,
        "half": lambda: image.resize((width // 2, height // 2)),
        "bright": lambda: ImageEnhance.Brightness(image).enhance(1.15),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(0.8),
        "mirror": lambda: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }[how]()
