"""Figures in one style: seaborn, colour-blind safe, saved as PNG and PDF with a description."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from topgap_nb.store.store import write_atomic

PALETTE = {"standard": "#0072B2", "topgap": "#D55E00", "paper": "#777777", "other": "#009E73"}
MAP_COLOURS = "viridis"


def set_style() -> None:
    """Set the one style of all figures."""
    sns.set_theme(style="whitegrid", palette="colorblind", context="notebook")
    plt.rcParams.update(
        {
            "figure.dpi": 110, "savefig.dpi": 130, "savefig.bbox": "tight", "axes.grid": True,
            "grid.alpha": 0.4, "axes.titlesize": 11, "axes.labelsize": 10, "legend.fontsize": 9,
            "xtick.labelsize": 9, "ytick.labelsize": 9, "image.cmap": MAP_COLOURS,
            "figure.constrained_layout.use": True, "pdf.fonttype": 42,
        }
    )  # fmt: skip


def save_figure(fig: plt.Figure, path: Path, alt: str) -> None:
    """Write ``path``.png and, of a drawing without pictures in it, ``path``.pdf.

    Args:
        fig: the figure.
        path: without a suffix.
        alt: describes the picture to whoever cannot see it; kept in both files.
    """
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png")
    with Image.open(drawn) as picture:
        about, png = PngInfo(), io.BytesIO()
        about.add_itxt("Description", alt)
        # 256 colours serve maps and photographs of this size, at a third of the bytes.
        small = picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT)
        small.save(png, "PNG", optimize=True, dpi=picture.info["dpi"], pnginfo=about)
    write_atomic(path.with_name(f"{path.name}.png"), png.getvalue())
    if not any(axis.images for axis in fig.axes):
        pdf = io.BytesIO()
        about = {"Subject": alt, "CreationDate": None, "Producer": None, "Creator": None}
        fig.savefig(pdf, format="pdf", metadata=about)
        write_atomic(path.with_name(f"{path.name}.pdf"), pdf.getvalue())


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
    axis.set_title(title, fontsize=9)


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
        axes[row, 0].set_ylabel(label, fontsize=10)
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
    k = model.pool.k
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
