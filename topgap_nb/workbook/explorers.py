"""Explorers: pictures that answer to sliders in JupyterLab, and stand still everywhere else.

An explorer shown in a notebook has two faces in one output: live controls where a kernel answers
them, and a still picture where none does (papermill, the book, a copy on the web). It starts no
thread; running its cell again makes a new one in the place of the old, whose widgets are closed.
"""

import base64
import io
import weakref

import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
import torch
from ipyevents import Event
from IPython import get_ipython
from matplotlib.figure import Figure
from torch import Tensor

from topgap_nb.data.image_set import ImageSet
from topgap_nb.data.registry import open_dataset
from topgap_nb.errors import UserError
from topgap_nb.method.model import MapClassifier, TopGapNet, explanation_map, frozen
from topgap_nb.method.pooling import pixel_constraint
from topgap_nb.metrics.attacks import pgd
from topgap_nb.metrics.erf import erf_map, output_maps
from topgap_nb.results.figures import MAP_COLOURS, PALETTE, show_image, show_map, show_outline

DPI = 100
# What is shown: {cell, or explorer: (which run of the cell, its boxes)}.
_shown: dict = {}
REGIONS = ("whole image", "object", "background")


class Explorer:
    """Controls over a picture. A kind of explorer says which controls, and how to draw."""

    about = "explorer"

    def controls(self) -> dict[str, w.Widget]:
        """Return new controls by name, each at its starting value."""
        raise UserError(f"{type(self).__name__} has no controls")

    def draw(self, **values) -> Figure:
        """Return the picture for one value per control."""
        raise UserError(f"{type(self).__name__} draws nothing")

    def clicked(self, figure: Figure, x: float, y: float) -> dict[str, int]:
        """Return what a click on the picture sets: {control: value}; most explorers take none.

        Args:
            figure: the picture as it was drawn last.
            x, y: shares of its width and height, from the upper left corner.
        """
        return {}

    def still(self, **changes) -> Figure:
        """Return the picture at the starting values but for ``changes``."""
        return self.draw(**{name: c.value for name, c in self.controls().items()} | changes)

    @property
    def widget(self) -> w.VBox:
        """New controls over a new picture, which each change of a control draws again."""
        controls = self.controls()
        # At its own size where there is room: stretched, it would be blurred.
        picture = w.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
        shown = {}

        def redraw(change=None):
            shown["figure"] = self.draw(**{name: c.value for name, c in controls.items()})
            picture.value = as_png(shown["figure"])

        def click(event):
            width, height = shown["figure"].get_size_inches() * DPI
            place = event["dataX"] / width, event["dataY"] / height
            for name, value in self.clicked(shown["figure"], *place).items():
                controls[name].value = value

        for control in controls.values():
            control.observe(redraw, "value")
        redraw()
        row = w.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
        box = w.VBox([row, picture])
        if type(self).clicked is not Explorer.clicked:
            box.clicks = Event(source=picture, watched_events=["click"])
            box.clicks.on_dom_event(click)
        return box

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        widget = self.widget
        _replace(widget, self)
        still = base64.b64encode(widget.children[1].value).decode()
        text = f"{self.about} (open the notebook in JupyterLab to move its controls)"
        data = {**widget._repr_mimebundle_(), "image/png": still, "text/plain": text}
        return data, {"image/png": {"alt": text}}


def _replace(box: w.VBox, explorer: Explorer) -> None:
    """Note a box as shown, and close those that the last run of its cell showed.

    ipywidgets keeps every widget until it is closed. Where the front end does not say which cell
    runs, an explorer that is shown again replaces what it showed before.
    """
    shell = get_ipython()
    message = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell = message.get("metadata", {}).get("cellId")
    run = message["header"]["msg_id"] if cell else None
    key = cell or weakref.ref(explorer)
    before, boxes = _shown.get(key, (None, []))
    if run is None or run != before:
        for old in boxes:
            close(old)
        boxes = []
    _shown[key] = (run, [*boxes, box])


def close(widget: w.Widget) -> None:
    """Close a widget and all that it is made of."""
    for value in widget.trait_values().values():
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, w.Widget):
                close(part)
    if clicks := getattr(widget, "clicks", None):
        clicks.close()
    widget.close()


def as_png(figure: Figure) -> bytes:
    """Return a figure as PNG. Its layout is fixed, so that drawing it once is enough."""
    buffer = io.BytesIO()
    with plt.rc_context({"savefig.bbox": "standard"}):
        figure.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def _panels(count: int, width: float = 2.5, last: float = 1.0):
    """Return a figure with a row of ``count`` panels, the last ``last`` times as wide."""
    bars = last > 1
    figure = Figure(figsize=(width * (count - 1 + last), width + 0.35 * bars), layout="none")
    axes = figure.subplots(1, count, width_ratios=[1.0] * (count - 1) + [last])
    figure.subplots_adjust(left=0.01, right=0.98, top=0.86, bottom=0.02 + 0.1 * bars, wspace=0.12)
    return figure, axes


def _slider(kind, value, low, high, name: str, width: int = 290, **options):
    # Drawing at every pixel of a drag would leave a queue of pictures behind.
    wide = {"width": f"{width}px"}
    return kind(
        value, min=low, max=high, description=name, continuous_update=False, layout=wide, **options
    )


def _choice(options, name: str) -> w.Dropdown:
    return w.Dropdown(options=options, description=name, layout={"width": "260px"})


def _bars(axis, values: Tensor, names, label: int, title: str, unit: str, low=None) -> None:
    """Draw one bar per class; ``low`` are bars of the same classes to compare with, in grey."""
    places = np.arange(len(names))
    colours = [PALETTE["topgap"] if index == label else "#999999" for index in places]
    if low is not None:
        axis.barh(places - 0.2, low.numpy(), height=0.35, color="#CCCCCC", label="before")
    axis.barh(places + (0.2 if low is not None else 0), values.numpy(), color=colours,
              height=0.35 if low is not None else 0.8, label="after")  # fmt: skip
    axis.set_yticks(places, names)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(unit, fontsize=8, labelpad=1)
    axis.tick_params(labelsize=8)
    box = axis.get_position()
    # Class names stand to the left of the bars and need their room.
    axis.set_position([box.x0 + 0.06, box.y0 + 0.04, box.width - 0.06, box.height - 0.04])


def _explained(model: MapClassifier, images: Tensor, label: int | None = None):
    """Return (logits, the network's own CAM of ``label`` or of the class it says), in one pass."""
    with frozen(model), torch.no_grad():
        maps = model.class_maps(images.contiguous(memory_format=torch.channels_last))
        logits = model.pool(maps)
    chosen = logits.argmax(1) if label is None else torch.full((len(maps),), label)
    return logits, explanation_map(maps[torch.arange(len(maps)), chosen], images.shape[-2:])


class KExplorer(Explorer):
    """A slider for k over a trained network: only the pooling is computed again."""

    about = "k explorer: an image, its class map, the k positions that count, the CAM, the scores"

    def __init__(self, model: TopGapNet, images: ImageSet):
        self.images = images
        with frozen(model), torch.no_grad():
            self.maps = model.class_maps(images.images).cpu()
        self.positions = self.maps.shape[-2] * self.maps.shape[-1]
        # A k for each class, or none, is no place to start from: the whole map is.
        k = getattr(model.pool, "k", 1.0)
        self.k = pixel_constraint(k if isinstance(k, int | float) else 1.0, self.positions)

    def controls(self) -> dict[str, w.Widget]:
        names = [("its own class", -1), *((n, i) for i, n in enumerate(self.images.class_names))]
        return {
            # Long enough to reach every count with the mouse.
            "k": _slider(w.IntSlider, self.k, 1, self.positions, "k", width=760),
            "index": _slider(w.IntSlider, 0, 0, len(self.images) - 1, "image"),
            "label": _choice(names, "class"),
        }

    def draw(self, k: int, index: int, label: int) -> Figure:
        """Draw one image, (class map, positions, CAM) of a class, and all scores."""
        item, maps = self.images[index], self.maps[index]
        names = self.images.class_names
        shown = item["label"] if label < 0 else label
        count = pixel_constraint(k, self.positions)
        best = maps.flatten(1).topk(count).indices
        scores = maps.flatten(1).gather(1, best).mean(1)
        counted = torch.zeros(self.positions)
        counted[best[shown]] = 1.0
        height, width = maps.shape[-2:]
        size = item["image"].shape[-2:]
        positions = torch.nn.functional.interpolate(counted.view(1, 1, height, width), size)[0, 0]
        figure, axes = _panels(5, last=1.5)
        show_image(axes[0], item["image"], f"image: {names[item['label']]}")
        low, high = maps[shown].min(), maps[shown].max()
        axes[1].imshow(maps[shown].numpy(), cmap=MAP_COLOURS)
        axes[1].set_title(f"class map of {names[shown]}\n{low:.2f} to {high:.2f}", fontsize=9)
        axes[1].axis("off")
        words = (
            f"the {count} positions\nthat count" if count > 1 else "the one position\nthat counts"
        )
        show_map(axes[2], item["image"], positions, words)
        show_map(axes[3], item["image"], explanation_map(maps[shown][None], size)[0], "CAM")
        title = f"scores at k = {count} of {self.positions}"
        _bars(axes[4], scores, names, shown, title, "logit")
        # One axis for every k, from the means of the maps to their largest values: scores fall as
        # k grows, and bars that fill their panel would hide it.
        flat = maps.flatten(1)
        low, high = flat.mean(1).min().item(), flat.amax(1).max().item()
        axes[4].set_xlim(min(0.0, 1.05 * low), max(1e-6, 1.05 * high))
        return figure


class FieldExplorer(Explorer):
    """An output position, clicked or chosen, and its effective receptive field in two networks."""

    about = "receptive-field explorer: an output position and its field in both networks"

    def __init__(self, networks: dict[str, MapClassifier], images: ImageSet):
        self.networks, self.images = networks, images
        self.sizes = {
            name: tuple(output_maps(model, images.images[:1]).shape[-2:])
            for name, model in networks.items()
        }
        # Positions are counted on the finest map; coarser ones take the cell that covers it.
        self.fine = max(self.sizes.values())

    def controls(self) -> dict[str, w.Widget]:
        rows, columns = self.fine
        return {
            # Counted from 1, as in the paper.
            "row": _slider(w.IntSlider, rows // 2 + 1, 1, rows, "row"),
            "column": _slider(w.IntSlider, columns // 2 + 1, 1, columns, "column"),
            "index": _slider(w.IntSlider, 0, 0, len(self.images) - 1, "image"),
        }

    def clicked(self, figure: Figure, x: float, y: float) -> dict[str, int]:
        """Return the position whose cell was clicked on, on whichever of the pictures."""
        rows, columns = self.fine
        for axis in figure.axes:
            (left, low), (right, high) = axis.get_position().get_points()
            if left <= x < right and low < 1 - y <= high:
                across, down = (x - left) / (right - left), (high - 1 + y) / (high - low)
                return {"row": 1 + int(rows * down), "column": 1 + int(columns * across)}
        return {}

    def draw(self, row: int, column: int, index: int) -> Figure:
        """Draw the image, and per network the position's cell and its field."""
        item = self.images[index]
        image, mask = item["image"], item.get("mask")
        figure, axes = _panels(1 + len(self.networks))
        show_image(axes[0], image, f"image: {self.images.class_names[item['label']]}")
        for axis, (name, model) in zip(axes[1:], self.networks.items(), strict=True):
            cell = [
                (place - 1) * own // fine
                for place, own, fine in zip((row, column), self.sizes[name], self.fine, strict=True)
            ]
            field = erf_map(model, image[None], [tuple(cell)])[0, 0]
            axis.imshow(
                field.numpy(), cmap="magma", vmin=0, vmax=max(field.quantile(0.995).item(), 1e-12)
            )
            height, width = (
                pixels / own for pixels, own in zip(image.shape[-2:], self.sizes[name], strict=True)
            )
            corner = (cell[1] * width - 0.5, cell[0] * height - 0.5)
            axis.add_patch(
                plt.Rectangle(corner, width, height, fill=False, color="#56B4E9", linewidth=1.5)
            )
            title = f"{name}: position ({cell[0] + 1}, {cell[1] + 1}) of {self.sizes[name]}"
            if mask is not None:
                show_outline(axis, mask)
                share = (field * mask).sum() / field.sum()
                title += f"\n{share:.0%} on the object ({mask.float().mean():.0%} of the image)"
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.set_title(title, fontsize=9)
        return figure


class AttackExplorer(Explorer):
    """An attack by hand: budget, steps and region; what it changes, and what it does to the CAM."""

    about = "attack explorer: image, change, CAM before and after, probabilities before and after"

    def __init__(self, networks: dict[str, MapClassifier], images: ImageSet):
        self.networks, self.images = networks, images

    def controls(self) -> dict[str, w.Widget]:
        regions = REGIONS if self.images.has_masks else REGIONS[:1]
        return {
            "network": _choice(list(self.networks), "network"),
            "region": _choice(regions, "where"),
            "epsilon": _slider(w.FloatSlider, 1.0, 0.0, 8.0, "ε · 255", step=0.25),
            # Four steps of epsilon / 4 cross the budget, and are drawn within 200 ms.
            "steps": _slider(w.IntSlider, 1, 1, 4, "steps"),
            "index": _slider(w.IntSlider, 0, 0, len(self.images) - 1, "image"),
        }

    def draw(self, network: str, region: str, epsilon: float, steps: int, index: int) -> Figure:
        """Draw image, magnified change, CAM of the true class and probabilities; one step: FGSM."""
        model, item = self.networks[network], self.images[index]
        clean, label = item["image"][None], torch.tensor([item["label"]])
        mask = None
        if region != REGIONS[0]:
            mask = (item["mask"] if region == "object" else ~item["mask"])[None]
        step = {"step_size": epsilon / 255} if steps == 1 else {}
        attacked = pgd(
            model, clean, label, epsilon / 255, steps, mask=mask, random_start=False,
            early_stop=False, **step,
        ).images  # fmt: skip
        both = torch.cat([clean, attacked])
        logits, cams = _explained(model, both, item["label"])
        chances = logits.softmax(1)
        names = self.images.class_names
        said = [names[c] for c in chances.argmax(1)]
        figure, axes = _panels(5, last=1.5)
        show_image(axes[0], clean[0], f"{names[item['label']]}\nsaid: {said[0]}")
        change = (attacked - clean)[0] * 255 / max(epsilon, 0.25)
        show_image(axes[1], 0.5 + 0.5 * change, f"change, {255 / max(epsilon, 0.25) / 2:.0f} times")
        show_map(axes[2], clean[0], cams[0], "CAM before")
        show_map(axes[3], attacked[0], cams[1], f"CAM after\nsaid: {said[1]}")
        for axis in axes[2:4]:
            if mask is not None:
                show_outline(axis, item["mask"])
        title = "probability: grey before, colour after"
        _bars(axes[4], chances[1], names, item["label"], title, "probability", chances[0])
        axes[4].set_xlim(0, 1)
        return figure


class PlantedExplorer(Explorer):
    """A world by hand: object size, agreement and clutter; what networks say and where they look.

    Args:
        networks: {name: network}, trained on ``planted``.
        image_size: pixels per side that they were trained with.
        classes: how many classes they know; one image of each is shown.
    """

    about = "planted-world explorer: one image per class, and what each network says and highlights"

    def __init__(self, networks: dict[str, MapClassifier], image_size: int, classes: int = 8):
        self.networks, self.image_size, self.classes = networks, image_size, classes

    def controls(self) -> dict[str, w.Widget]:
        return {
            "object_size": _slider(w.FloatSlider, 0.1, 0.02, 0.16, "object size", step=0.01),
            "agreement": _slider(w.FloatSlider, 0.95, 0.0, 1.0, "agreement", step=0.05),
            "clutter": _slider(w.IntSlider, 4, 0, 32, "clutter"),
            "world": _slider(w.IntSlider, 0, 0, 20, "world"),
        }

    def draw(self, object_size: float, agreement: float, clutter: int, world: int) -> Figure:
        """Draw the images, and per network a row of maps of the class that it says."""
        images = open_dataset(
            "planted", self.image_size, images=self.classes, classes=self.classes,
            object_size=round(object_size, 2), agreement=round(agreement, 2), clutter=clutter,
            seed=1000 + world,
        ).test  # fmt: skip
        pixels, names = images.images, images.class_names
        rows = 1 + len(self.networks)
        figure = Figure(figsize=(1.35 * self.classes + 0.8, 1.65 * rows), layout="none")
        axes = figure.subplots(rows, 1)
        figure.subplots_adjust(left=0.075, right=0.995, top=0.95, bottom=0.01, hspace=0.2)
        titles = [
            (n if g == 0 else f"{n}*", "black") for n, g in zip(names, images.group, strict=True)
        ]
        self._row(axes[0], pixels, titles, "image\n(*: other\nbackground)")
        for axis, (name, model) in zip(axes[1:], self.networks.items(), strict=True):
            logits, cams = _explained(model, pixels)
            said = logits.argmax(1)
            heat = torch.from_numpy(plt.get_cmap("inferno")(cams.numpy())[..., :3])
            shown = 0.45 * pixels.mean(1, keepdim=True) + 0.55 * heat.permute(0, 3, 1, 2)
            right = said == images.labels
            titles = [
                (f"{'✓' if ok else '✗'} {names[c]}", "#0072B2" if ok else "#B34700")
                for ok, c in zip(right, said, strict=True)
            ]
            self._row(axis, shown, titles, f"{name}\n{int(right.sum())} of {len(said)} right")
        return figure

    def _row(self, axis, pictures: Tensor, titles, label: str) -> None:
        """Draw pictures side by side in one panel, which is faster than a panel each."""
        gap = torch.ones(*pictures.shape[:3], 4)
        tiled = torch.cat([pictures, gap], 3).permute(2, 0, 3, 1).flatten(1, 2)
        axis.imshow(tiled.numpy().clip(0, 1))
        step = pictures.shape[-1] + 4
        for place, (text, colour) in enumerate(titles):
            axis.text((place + 0.5) * step, -4, text, ha="center", va="bottom", fontsize=9,
                      color=colour)  # fmt: skip
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.set_ylabel(label, fontsize=9)
        for side in axis.spines.values():
            side.set_visible(False)


def k_explorer(model: TopGapNet, images: ImageSet) -> KExplorer:
    """Return the k explorer of a trained Top-GAP network over a few images."""
    return KExplorer(model, images)


def field_explorer(networks: dict[str, MapClassifier], images: ImageSet) -> FieldExplorer:
    """Return the receptive-field explorer of named networks over a few images."""
    return FieldExplorer(networks, images)


def attack_explorer(networks: dict[str, MapClassifier], images: ImageSet) -> AttackExplorer:
    """Return the attack explorer of named networks over a few images."""
    return AttackExplorer(networks, images)


def planted_explorer(
    networks: dict[str, MapClassifier], image_size: int, classes: int = 8
) -> PlantedExplorer:
    """Return the planted-world explorer of named networks trained on ``planted``."""
    return PlantedExplorer(networks, image_size, classes)
