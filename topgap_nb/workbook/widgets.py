"""Explorers: pictures that answer to a slider in JupyterLab, and stand still under papermill."""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from topgap_nb.data.images import ImageSet
from topgap_nb.measures.frozen import frozen
from topgap_nb.method.model import TopGapNet, explanation_map
from topgap_nb.method.pooling import pixel_constraint
from topgap_nb.workbook.figures import MAP_COLOURS, show_image, show_map


def k_figure(image: Tensor, maps: Tensor, label: int, names: tuple[str, ...], k: int) -> plt.Figure:
    """Draw one image, its class map, the k positions that count, the CAM, and the scores.

    Args:
        image: (3, H, W) in [0, 1].
        maps: (C, h, w) class maps.
        label: the class to show.
        names: class names.
        k: pixel constraint.
    """
    classes, height, width = maps.shape
    count = pixel_constraint(k, height * width)
    best = maps.flatten(1).topk(count).indices
    scores = maps.flatten(1).gather(1, best).mean(1)
    counted = torch.zeros(height * width)
    counted[best[label]] = 1.0
    fig, axes = plt.subplots(1, 5, figsize=(12.5, 2.7), width_ratios=(1, 1.15, 1, 1, 1.3))
    show_image(axes[0], image, f"image: {names[label]}")
    drawn = axes[1].imshow(maps[label].numpy(), cmap=MAP_COLOURS)
    fig.colorbar(drawn, ax=axes[1], shrink=0.8)
    axes[1].set_title(f"class map, {height} × {width}", fontsize=9)
    axes[1].axis("off")
    size = image.shape[-2:]
    positions = torch.nn.functional.interpolate(counted.view(1, 1, height, width), size)[0, 0]
    show_map(axes[2], image, positions, f"the {count} positions that count")
    show_map(axes[3], image, explanation_map(maps[label][None], size)[0], "CAM")
    colours = ["#D55E00" if index == label else "#999999" for index in range(classes)]
    axes[4].barh(range(classes), scores.numpy(), color=colours)
    axes[4].set_yticks(range(classes), names)
    axes[4].invert_yaxis()
    axes[4].set_title(f"scores at k = {count} of {height * width}", fontsize=9)
    axes[4].set_xlabel("logit")
    return fig


class KExplorer:
    """A slider for k over a trained network: only the pooling is computed again.

    Show it with ``display(explorer.widget)``; ``explorer.still(k)`` draws the same picture once.
    """

    def __init__(self, model: TopGapNet, images: ImageSet):
        self.images = images
        with frozen(model), torch.no_grad():
            self.maps = model.class_maps(images.images).cpu()
        self.positions = self.maps.shape[-2] * self.maps.shape[-1]
        self.k = pixel_constraint(model.pool.k, self.positions)

    def still(self, k: int | None = None, index: int = 0, label: int | None = None) -> plt.Figure:
        """Draw one setting as a figure."""
        item = self.images[index]
        label = item["label"] if label is None else label
        names = self.images.class_names
        return k_figure(item["image"], self.maps[index], label, names, k or self.k)

    @property
    def widget(self):
        """Three controls and a picture; making it again replaces nothing and leaves nothing."""
        from io import BytesIO

        import ipywidgets as w

        names = self.images.class_names
        k = w.IntSlider(self.k, 1, self.positions, description="k", continuous_update=False)
        index = w.IntSlider(
            0, 0, len(self.images) - 1, description="image", continuous_update=False
        )
        label = w.Dropdown(
            options=[(name, i) for i, name in enumerate(names)], description="class",
            value=int(self.images.labels[0]),
        )  # fmt: skip
        picture = w.Image(format="png", layout={"max_width": "100%"})

        def redraw(change=None):
            if change is not None and change["owner"] is index:
                own = int(self.images.labels[index.value])
                if label.value != own:
                    label.value = own  # draws by itself
                    return
            fig = self.still(k.value, index.value, label.value)
            buffer = BytesIO()
            fig.savefig(buffer, format="png", dpi=100)
            plt.close(fig)
            picture.value = buffer.getvalue()

        for control in (k, index, label):
            control.observe(redraw, "value")
        redraw()
        return w.VBox([w.HBox([k, index, label]), picture])


def k_explorer(model: TopGapNet, images: ImageSet) -> KExplorer:
    """Return the k explorer of a trained Top-GAP network over a few images."""
    return KExplorer(model, images)
