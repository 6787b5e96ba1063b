"""Explorers without a browser: what they draw from, and what a move of a control does."""

import io
import threading
from dataclasses import replace

import ipywidgets
import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image

from topgap_nb import (
    attack_explorer,
    build_model,
    erf_map,
    field_explorer,
    k_explorer,
    open_dataset,
    planted_explorer,
    top_k_pool,
)
from topgap_nb.workbook.explorers import as_png


@pytest.fixture(scope="module")
def few():
    return open_dataset("planted", 64, images=3).test.subset(range(3))


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    found = {
        head: build_model(head, "resnet18", 8, k).eval()
        for head, k in (("topgap", 20), ("standard", 1.0))
    }
    torch.nn.init.normal_(found["topgap"].head.classifier.weight, std=0.05)
    return found


@pytest.fixture(scope="module")
def explorers(networks, few):
    return {
        "k": k_explorer(networks["topgap"], few),
        "row": field_explorer(networks, few),
        "epsilon": attack_explorer(networks, few),
        "clutter": planted_explorer(networks, 64),
    }


@pytest.mark.parametrize("name", ["k", "row", "epsilon", "clutter"])
def test_a_move_changes_the_picture_and_back(explorers, name):
    explorer = explorers[name]
    before = threading.active_count(), plt.get_fignums()
    widget = explorer.widget
    control = widget.children[0].children[list(explorer.controls()).index(name)]
    picture, start = widget.children[1], control.value
    first = picture.value
    control.value = control.max
    assert picture.value != first
    control.value = start
    assert picture.value == first
    # A second view has controls of its own.
    other = explorer.widget
    control.value = control.max
    assert other.children[1].value == first
    assert (threading.active_count(), plt.get_fignums()) == before


def test_an_explorer_is_a_widget_and_a_still_at_once(explorers):
    data, metadata = explorers["k"]._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= set(data)
    assert metadata["image/png"]["alt"] == data["text/plain"]
    assert isinstance(explorers["k"].widget, ipywidgets.VBox)


@pytest.fixture
def shell(monkeypatch):
    shell = Shell()
    monkeypatch.setattr("topgap_nb.workbook.explorers.get_ipython", lambda: shell)
    monkeypatch.setattr("topgap_nb.workbook.explorers._shown", {})
    return shell


class Shell:
    """A kernel that runs cells: each run is a message that names its cell."""

    def __init__(self):
        self.message = {}

    def get_parent(self):
        return self.message

    def run(self, cell, *explorers):
        number = self.message.get("header", {}).get("msg_id", 0) + 1
        self.message = {"header": {"msg_id": number}, "metadata": {"cellId": cell} if cell else {}}
        for explorer in explorers:
            explorer._repr_mimebundle_()


@pytest.mark.parametrize("cell", ["a1", None], ids=["cell", "no cell"])
@pytest.mark.parametrize("name", ["k", "row"])
def test_what_is_shown_again_leaves_no_widget_behind(explorers, shell, name, cell):
    living = ipywidgets.widgets.widget._instances
    before = set(living)
    shell.run(cell, explorers[name])
    once = len(living) - len(before)
    assert once > 10
    for _ in range(3):
        shell.run(cell, explorers[name])
        assert len(set(living) - before) == once


def test_what_other_cells_and_the_same_run_have_shown_stays(explorers, shell):
    living = ipywidgets.widgets.widget._instances
    sizes = []
    for cell, shown in (("b1", "k"), ("b2", "k"), ("b3", "k")):
        shell.run(cell, explorers[shown])
        sizes.append(len(living))
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 10
    # Two in one cell; then one, in their place.
    shell.run("b3", explorers["k"], explorers["k"])
    assert len(living) == sizes[2] + sizes[2] - sizes[1]
    shell.run("b3", explorers["k"])
    assert len(living) == sizes[2]


@pytest.mark.parametrize("k", ["learnt", "auto", 0.1])
def test_any_pool_can_be_explored(few, k):
    net = build_model("topgap", "test_efficientnet", 8, k).eval()
    explorer = k_explorer(net, few)
    start = {"learnt": explorer.positions}.get(k, round(0.1 * explorer.positions))
    assert explorer.controls()["k"].value == start
    assert len(explorer.still().axes) == 5
    assert len(attack_explorer({"net": net}, few).still().axes) == 5


def test_the_k_explorer_shows_the_scores_of_the_pooling(explorers, networks, few):
    figure = explorers["k"].still(k=7, index=1)
    widths = [bar.get_width() for bar in figure.axes[4].patches]
    with torch.no_grad():
        maps = networks["topgap"].class_maps(few.images[1:2])
    assert widths == pytest.approx(top_k_pool(maps, 7)[0].tolist(), abs=1e-5)


def test_the_scores_of_every_k_are_drawn_to_one_scale(explorers):
    limits = {explorers["k"].still(k=k, index=1).axes[4].get_xlim() for k in (1, 20, 256)}
    assert len(limits) == 1
    lowest, highest = limits.pop()
    for k in (1, 256):
        bars = explorers["k"].still(k=k, index=1).axes[4].patches
        assert all(lowest <= bar.get_width() <= highest for bar in bars)


def test_the_field_is_that_of_the_cell_which_covers_the_position(explorers, networks, few):
    rows, columns = explorers["row"].fine
    assert (rows, columns) == (16, 16)
    figure = explorers["row"].still(row=16, column=1, index=2)
    # The standard network's last map has 2 x 2 positions: row 16 of 16 lies in its second row.
    shown = figure.axes[2].images[0].get_array()
    expected = erf_map(networks["standard"], few.images[2:], [(1, 0)])[0, 0]
    torch.testing.assert_close(torch.from_numpy(shown.data), expected)


@pytest.mark.parametrize("panel", [0, 1, 2])
def test_a_click_chooses_the_position_under_it(explorers, panel):
    explorer = explorers["row"]
    widget = explorer.widget
    sliders = dict(zip(explorer.controls(), widget.children[0].children, strict=True))
    figure = explorer.still()
    picture = Image.open(io.BytesIO(as_png(figure)))
    # The middle of the cell in row 4, column 13 of 16: a cell has 4 pixels of the image.
    place = figure.axes[panel].transData.transform((12.5 * 4 - 0.5, 3.5 * 4 - 0.5))
    share = place / figure.bbox.size
    x, y = share[0] * picture.width, (1 - share[1]) * picture.height
    widget.clicks._handle_custom_msg({"dataX": x, "dataY": y}, [])
    assert (sliders["row"].value, sliders["column"].value) == (4, 13)
    expected = explorer.still(row=4, column=13)
    assert widget.children[1].value == as_png(expected)
    # Beside the pictures there is nothing to choose.
    assert explorer.clicked(figure, 0.001, 0.5) == explorer.clicked(figure, 0.5, 0.001) == {}
    assert not hasattr(explorers["k"].widget, "clicks")


@pytest.mark.parametrize("region", ["object", "background"])
def test_an_attack_stays_in_its_region(explorers, few, region):
    figure = explorers["epsilon"].still(region=region, epsilon=2.0, steps=2)
    change = torch.from_numpy(figure.axes[1].images[0].get_array().data.copy()) - 0.5
    mask = few.masks[0] if region == "object" else ~few.masks[0]
    assert change[~mask].abs().max() == 0
    assert 0.2 < change[mask].abs().max() <= 0.5 + 1e-5


def test_without_masks_only_the_whole_image_can_be_attacked(networks, few):
    explorer = attack_explorer(networks, replace(few, masks=None))
    assert explorer.controls()["region"].options == ("whole image",)


def test_agreement_moves_the_backgrounds_and_nothing_else(explorers):
    all_agree, none = (explorers["clutter"].still(agreement=a) for a in (1.0, 0.0))
    titles = [[t.get_text() for t in f.axes[0].texts] for f in (all_agree, none)]
    assert [f"{name}*" for name in titles[0]] == titles[1]
