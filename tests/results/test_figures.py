"""Figures: described, small, the same each time; and what they show of an image."""

import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from topgap_nb import build_model, draw_architecture, map_grid, open_dataset, show_image, show_map
from topgap_nb.results import figures
from topgap_nb.results.figures import save_figure, set_style
from topgap_nb.results.sheets import image_sheet


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        set_style()
        yield
        plt.close("all")


@pytest.fixture(scope="module")
def few():
    return open_dataset("planted", 64, images=24, classes=4).test.subset(range(3))


def line():
    fig, axis = plt.subplots(figsize=(3, 2))
    axis.plot([0, 1], [0, 1])
    return fig


def test_a_drawing_is_a_png_and_a_pdf_with_its_description(tmp_path):
    save_figure(line(), tmp_path / "new" / "figure", "A line from 0 to 1, ε = 8/255.")
    with Image.open(tmp_path / "new" / "figure.png") as picture:
        assert picture.info["Description"] == "A line from 0 to 1, ε = 8/255."
        assert picture.width > 300
    pdf = (tmp_path / "new" / "figure.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/Subject" in pdf


def test_a_picture_has_no_pdf(tmp_path, few):
    fig, axis = plt.subplots()
    show_map(axis, few.images[0], torch.rand(64, 64))
    save_figure(fig, tmp_path / "figure", "a map")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_the_same_drawing_is_the_same_bytes(tmp_path):
    for name in ("first", "second"):
        save_figure(line(), tmp_path / name, "a line")
    for suffix in (".png", ".pdf"):
        first, second = ((tmp_path / f"{n}{suffix}").read_bytes() for n in ("first", "second"))
        assert first == second


def test_a_grid_has_the_images_and_a_row_per_method(few):
    maps = torch.zeros(3, 64, 64)
    fig = map_grid(few.images, [("own map", maps), ("Grad-CAM", maps + 1)], few.masks)
    assert len(fig.axes) == 9
    assert [fig.axes[row * 3].get_ylabel() for row in range(3)] == ["image", "own map", "Grad-CAM"]
    shown = fig.axes[1].images[0].get_array()
    np.testing.assert_allclose(shown, few.images[1].permute(1, 2, 0))
    # The outline of the object stands on the maps, and not on the images.
    outlined = [bool(axis.collections) for axis in fig.axes]
    assert outlined == [False] * 3 + [True] * 6


def test_a_sheet_of_images_has_a_row_per_class(few):
    fig = image_sheet(few, rows=2, columns=3)
    assert len(fig.axes) == 6
    assert [axis.get_ylabel() for axis in fig.axes[::3]] == list(few.class_names[:2])
    for label in (0, 1):
        shown = sum(bool(axis.images) for axis in fig.axes[3 * label : 3 * label + 3])
        assert shown == (few.labels == label).sum()


NAMES = ("a$b$c", "50 $", "<b>bold</b>", r"$\frac{1", "x_{2}^$$", r"back\\slash\$")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_classes_are_shown_as_they_are(tmp_path, few, name):
    named = replace(few, class_names=(name, name, *few.class_names[2:]))
    fig = image_sheet(named, rows=2, columns=2)
    show_image(fig.axes[1], few.images[0], name)
    assert [fig.axes[0].get_ylabel(), fig.axes[1].get_title()] == [name, name]
    save_figure(fig, tmp_path / "sheet", "a sheet")
    save_figure(map_grid(few.images, [(name, torch.zeros(3, 64, 64))]), tmp_path / "grid", "a grid")


@pytest.mark.parametrize("letters", [chr(0xF0000), chr(0xF0001) + chr(0xF0002)])
def test_letters_that_no_font_has_are_said_once(tmp_path, letters):
    fig = line()
    fig.axes[0].set_title(f"{letters} and {letters}")
    with pytest.warns(match=f"^leaves shows boxes for {letters}, which no installed") as caught:
        save_figure(fig, tmp_path / "leaves", "leaves")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(line(), tmp_path / "plain", "Größe, naïve, λ")


def test_installed_fonts_with_more_letters_are_used(monkeypatch):
    monkeypatch.setattr(figures, "MORE_LETTERS", ("No Such Font", "DejaVu Serif"))
    set_style()
    assert plt.rcParams["font.family"] == ["sans-serif", "DejaVu Serif"]


def test_tables_show_names_as_they_are():
    page = pd.DataFrame({"class": ["<b>$x$</b>"]}).style.hide().to_html()
    assert "&lt;b&gt;$x$&lt;/b&gt;" in page
    assert "tex2jax_ignore" in page


def test_the_architecture_is_drawn_with_the_shapes_of_the_network():
    model = build_model("topgap", "resnet18", 5, 7).eval()
    images = torch.rand(1, 3, 64, 64)
    words = " ".join(text.get_text() for text in draw_architecture(model, images).axes[0].texts)
    for feature in model.features(images):
        assert " × ".join(map(str, feature.shape[1:])) in words
    assert "5 × 16 × 16" in words
    assert "k = 7" in words
