"""Sheets of pictures about one data set and the networks trained on it."""

from collections.abc import Mapping

import matplotlib.pyplot as plt

from topgap_nb.data.image_set import ImageSet
from topgap_nb.method.model import MapClassifier
from topgap_nb.metrics.cam import grad_cam, own_cam
from topgap_nb.metrics.erf import corner_and_centre, erf_map, output_maps
from topgap_nb.metrics.scores import predict
from topgap_nb.metrics.shortcuts import occluded
from topgap_nb.results.figures import map_grid, show_image, show_outline

Networks = Mapping[str, MapClassifier]


def image_sheet(images: ImageSet, rows: int = 6, columns: int = 8) -> plt.Figure:
    """Return a row of images per class, for the first ``rows`` classes; masks are outlined."""
    rows = min(rows, len(images.class_names))
    fig, axes = plt.subplots(rows, columns, figsize=(9, 1.15 * rows), squeeze=False)
    for label, line in enumerate(axes):
        chosen = (images.labels == label).nonzero()[:, 0].tolist()
        for axis in line[len(chosen) :]:
            axis.axis("off")
        for axis, index in zip(line, chosen, strict=False):
            item = images[index]
            show_image(axis, item["image"])
            if "mask" in item:
                show_outline(axis, item["mask"])
        name = _short(images.class_names[label], 22)
        style = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 9}
        line[0].set_ylabel(name, parse_math=False, **style)
    return fig


def decision_sheet(images: ImageSet, networks: Networks) -> plt.Figure:
    """Return images under their class, and per network where it looks for what it says they are.

    Standard networks are explained by Grad-CAM, Top-GAP networks by their own map.
    """
    rows, titles = [], [images.labels.tolist()]
    for name, model in networks.items():
        words, explain = ("own map", own_cam) if hasattr(model, "head") else ("Grad-CAM", grad_cam)
        rows.append((f"{name}\n{words}", explain(model, images.images)))
        titles.append(predict(model, images).argmax(1).tolist())
    fig = map_grid(images.images, rows, images.masks if images.has_masks else None)
    for row, labels in enumerate(titles):
        for axis, label in zip(fig.axes[row * len(images) :], labels, strict=False):
            name = _short(images.class_names[label], 14)
            axis.set_title(f"says {name}" if row else name, fontsize=8, parse_math=False)
    return fig


def erf_sheet(images: ImageSet, networks: Networks) -> plt.Figure:
    """Return the mean effective receptive field of a corner and of the centre of each network."""
    fig, axes = plt.subplots(1, 2 * len(networks), figsize=(4.5 * len(networks), 2.6))
    for pair, (name, model) in zip(axes.reshape(-1, 2), networks.items(), strict=True):
        size = output_maps(model, images.images[:1]).shape[-2:]
        fields = erf_map(model, images.images, corner_and_centre(*size)).mean(1)
        for axis, field, where in zip(pair, fields, ("corner", "centre"), strict=True):
            axis.imshow(field, cmap="magma", vmin=0, vmax=fields.quantile(0.995))
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{name}: {where} of\nits {size[0]} × {size[1]} map", fontsize=9)
    return fig


def occluded_sheet(images: ImageSet, parts: tuple[str, str], count: int = 4) -> plt.Figure:
    """Return ``count`` images with one part occluded, then with the other."""
    fig, axes = plt.subplots(1, 2 * count, figsize=(9, 1.5))
    for half, part in zip(axes.reshape(2, count), parts, strict=True):
        for axis, picture in zip(half, occluded(images.sample(count), part), strict=False):
            show_image(axis, picture)
        half[0].set_title(f"{part} occluded", fontsize=9, loc="left")
    return fig


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
