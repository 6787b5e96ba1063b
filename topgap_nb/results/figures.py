"""Figures in one style: seaborn, colour-blind safe, saved as PNG and PDF with a description."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from topgap_nb.store.store import write_atomic

PALETTE = {"standard": "#0072B2", "topgap": "#D55E00", "paper": "#777777", "other": "#009E73"}
MAP_COLOURS = "viridis"
# Fonts with Chinese, Japanese and Korean letters, of which those installed are used for names.
MORE_LETTERS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB",
    "Microsoft YaHei", "SimHei", "Arial Unicode MS", "Unifont",
)  # fmt: skip
MISSING = re.compile(r"Glyph (\d+) .*missing from")


def set_style() -> None:
    """Set the one style of all figures and tables; names stand in both as they are."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    # ``save_figure`` says in one line what this would say for each letter.
    warnings.filterwarnings("ignore", MISSING.pattern)
    pd.set_option("styler.format.escape", "html")
    pd.set_option("styler.html.mathjax", False)
    pd.set_option("display.html.use_mathjax", False)
    sns.set_theme(style="whitegrid", palette="colorblind", context="notebook")
    plt.rcParams.update(
        {
            "figure.dpi": 110, "savefig.dpi": 130, "savefig.bbox": "tight", "axes.grid": True,
            "grid.alpha": 0.4, "axes.titlesize": 11, "axes.labelsize": 10, "legend.fontsize": 9,
            "xtick.labelsize": 9, "ytick.labelsize": 9, "image.cmap": MAP_COLOURS,
            "figure.constrained_layout.use": True, "pdf.fonttype": 42,
            "font.family": ["sans-serif", *(name for name in MORE_LETTERS if name in installed)],
        }
    )  # fmt: skip


def save_figure(fig: plt.Figure, path: Path, alt: str) -> None:
    """Write ``path``.png and, of a drawing without pictures in it, ``path``.pdf.

    Args:
        fig: the figure.
        path: without a suffix.
        alt: describes the picture to whoever cannot see it; kept in both files.

    Warns where no installed font has a letter, which is then drawn as a box.
    """
    drawn, pdf = io.BytesIO(), io.BytesIO()
    with _letters_noted(path.name):
        fig.savefig(drawn, format="png")
        if not any(axis.images for axis in fig.axes):
            about = {"Subject": alt, "CreationDate": None, "Producer": None, "Creator": None}
            fig.savefig(pdf, format="pdf", metadata=about)
            write_atomic(path.with_name(f"{path.name}.pdf"), pdf.getvalue())
    write_atomic(path.with_name(f"{path.name}.png"), small_png(drawn, alt))


def small_png(drawn: io.BytesIO, alt: str) -> bytes:
    """Return a PNG file with its description, in 256 colours.

    These serve maps and photographs of this size, at a third of the bytes.
    """
    with Image.open(drawn) as picture:
        about, png = PngInfo(), io.BytesIO()
        about.add_itxt("Description", alt)
        small = picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT)
        small.save(png, "PNG", optimize=True, dpi=picture.info.get("dpi"), pnginfo=about)
    return png.getvalue()


@contextmanager
def _letters_noted(figure: str) -> Iterator[None]:
    """Make one warning of those for each letter that no font has; let others through."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    letters = {}
    for warning in caught:
        if match := MISSING.match(str(warning.message)):
            letters[chr(int(match[1]))] = None
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if letters:
        warnings.warn(
            f"{figure} shows boxes for {''.join(letters)}, which no installed font has: install "
            f"one that does, such as {MORE_LETTERS[0]}",
            stacklevel=4,
        )


def show_image(axis: plt.Axes, image: Tensor, title: str = "") -> None:
    """Draw an image, (3, H, W) in [0, 1]."""
    axis.imshow(np.clip(image.permute(1, 2, 0).numpy(), 0, 1))
    _bare(axis, title)


def show_map(axis: plt.Axes, image: Tensor, cam: Tensor, title: str = "") -> None:
    """Draw an explanation map, (H, W) in [0, 1], over its image in grey."""
    axis.imshow(image.mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.imshow(cam.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.55)
    _bare(axis, title)


def show_outline(axis: plt.Axes, mask: Tensor) -> None:
    """Draw the outline of an object mask, (H, W)."""
    axis.contour(mask.numpy(), levels=[0.5], colors="white", linewidths=1.2)


def _bare(axis: plt.Axes, title: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    axis.set_title(title, fontsize=9, parse_math=False)


def map_grid(
    images: Tensor, rows: Sequence[tuple[str, Tensor]], masks: Tensor | None = None
) -> plt.Figure:
    """Return a grid: the images on top, then one row of explanation maps per method.

    Args:
        images: (N, 3, H, W) in [0, 1].
        rows: pairs of a row label and maps, (N, H, W) in [0, 1].
        masks: (N, H, W) object masks, outlined where given.
    """
    count = len(images)
    fig, axes = plt.subplots(
        len(rows) + 1, count, figsize=(1.45 * count + 0.6, 1.5 * (len(rows) + 1)), squeeze=False
    )
    for column in range(count):
        show_image(axes[0, column], images[column])
        for row, (_, cams) in enumerate(rows, start=1):
            show_map(axes[row, column], images[column], cams[column])
            if masks is not None:
                show_outline(axes[row, column], masks[column])
    for row, label in enumerate(["image", *(label for label, _ in rows)]):
        axes[row, 0].set_ylabel(label, fontsize=10, parse_math=False)
    return fig


def draw_architecture(model, images: Tensor) -> plt.Figure:
    """Draw a Top-GAP network from the object itself, with the shapes that ``images`` give (Fig. 2).

    Args:
        model: a ``TopGapNet``.
        images: (1, 3, H, W); only its size matters.
    """
    features = model.features(images)
    maps = model.class_maps(images)
    logits = model.pool(maps)
    fig, axis = plt.subplots(figsize=(10, 1.5 + 0.95 * len(features)))
    middle = (len(features) - 1) / 2

    def box(x, y, text, colour, width=1.5, height=0.62):
        axis.add_patch(
            plt.Rectangle((x, y - height / 2), width, height, facecolor=colour, edgecolor="#333333")
        )
        axis.text(x + width / 2, y, text, ha="center", va="center", fontsize=9)

    def arrow(start, end, style="-|>"):
        axis.annotate("", end, start, arrowprops={"arrowstyle": style, "color": "#333333"})

    box(0, middle, f"image\n{_shape(images)}", "#EEEEEE", 1.3)
    for index, (feature, conv) in enumerate(zip(features, model.head.laterals, strict=True)):
        y = len(features) - 1 - index
        box(2.0, y, f"F{index + 1}\n{_shape(feature)}", "#BFDDF0")
        size = conv.kernel_size[0]
        box(4.2, y, f"conv {size}×{size}\n{conv.out_channels} filters", "#F8D6B3")
        arrow((1.3, middle), (2.0, y))
        arrow((3.5, y), (4.2, y))
        arrow((5.7, y), (6.55, middle))
    axis.text(6.95, middle - 0.55, "upsample\nand add", ha="center", va="top", fontsize=8)
    axis.add_patch(plt.Circle((6.7, middle), 0.16, facecolor="white", edgecolor="#333333"))
    axis.text(6.7, middle, "+", ha="center", va="center")
    box(7.2, middle, f"conv 1×1\nclass maps\n{_shape(maps)}", "#F8D6B3", 1.6, 0.95)
    k = getattr(model.pool, "k", "learnt")
    box(9.2, middle, f"Top-GAP\nk = {k}", "#CDE8D5", 1.2)
    box(10.8, middle, f"scores\n{logits.shape[1]}", "#EEEEEE", 0.9)
    box(9.2, middle - 1.0, "upsample,\nscale to [0, 1]", "#E8DDF0", 1.2)
    axis.text(9.8, middle - 1.55, "CAM", ha="center", fontsize=9)
    arrow((6.86, middle), (7.2, middle))
    arrow((8.8, middle), (9.2, middle))
    arrow((10.4, middle), (10.8, middle))
    arrow((8.0, middle - 0.48), (9.2, middle - 1.0))
    axis.set(xlim=(-0.1, 11.8), ylim=(min(-0.6, middle - 1.8), len(features) - 0.4))
    axis.set_aspect("equal")
    axis.axis("off")
    return fig


def _shape(tensor: Tensor) -> str:
    _, channels, height, width = tensor.shape
    return f"{channels} × {height} × {width}"
