"""Masks: which pixels are the object, whatever file or annotation says so."""

import numpy as np
import pytest
import torch
from helpers import layouts
from PIL import Image

from topgap_nb import UserError
from topgap_nb.data.masks import MaskFile, Outline, RunLengths, values_in

LEFT = np.repeat([[1] * 8 + [0] * 8], 16, 0).astype(bool)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def palette_file(path, numbers, colours):
    mask = Image.fromarray(np.asarray(numbers, np.uint8), "P")
    mask.putpalette([value for colour in colours for value in colour])
    mask.save(path)
    return path


def test_a_mask_is_true_where_half_of_a_pixel_is_marked(tmp_path):
    numbers = np.zeros((32, 32), np.uint8)
    numbers[:, :9], numbers[:, 20:] = 1, 3
    path = layouts.labels_image(tmp_path / "mask.png", numbers)
    columns = torch.arange(16)
    inside = MaskFile(path).read(16)
    assert (inside == ((columns <= 4) | (columns >= 10)).numpy()).all()
    assert (MaskFile(path, values=(3,)).read(16) == (columns >= 10).numpy()).all()
    assert (MaskFile(path, above=2).read(16) == (columns >= 10).numpy()).all()
    assert MaskFile(tmp_path / "none.png").read(16) is None


@pytest.mark.parametrize("suffix", ["png", "gif", "tif"])
@pytest.mark.parametrize("colours", [(WHITE, BLACK), (BLACK, WHITE)])
def test_a_palette_of_black_and_white_counts_by_its_colours(tmp_path, suffix, colours):
    white = colours.index(WHITE)
    path = palette_file(tmp_path / f"m.{suffix}", np.where(LEFT, white, 1 - white), colours)
    assert (MaskFile(path).read(16) == LEFT).all()


def test_an_empty_and_a_full_palette_mask_are_empty_and_full(tmp_path):
    ones = np.ones((16, 16))
    assert not MaskFile(palette_file(tmp_path / "e.png", ones, (WHITE, BLACK))).read(16).any()
    assert MaskFile(palette_file(tmp_path / "f.png", ones * 0, (WHITE, BLACK))).read(16).all()


def test_a_grey_palette_in_any_order_is_read_by_its_greys(tmp_path):
    numbers = np.where(LEFT, 0, 2)
    numbers[:, 7] = 1
    path = palette_file(tmp_path / "soft.png", numbers, (WHITE, (90, 90, 90), BLACK))
    assert (MaskFile(path).read(16) == LEFT).all()


def test_coloured_labels_on_black_are_objects(tmp_path):
    numbers = np.where(LEFT, 5, 0)
    colours = [BLACK, *[(0, 0, 20 * index) for index in range(1, 6)]]
    assert (MaskFile(palette_file(tmp_path / "m.png", numbers, colours)).read(16) == LEFT).all()


@pytest.mark.parametrize("colours", [((68, 1, 84), (253, 231, 37)), (WHITE, (200, 0, 0))])
def test_a_palette_that_does_not_tell_the_object_asks_for_values(tmp_path, colours):
    path = palette_file(tmp_path / "map.png", LEFT, colours)
    with pytest.raises(UserError, match=r"map\.png does not tell .* mask_values .* 0, 1 are the"):
        MaskFile(path).read(16)
    assert (MaskFile(path, values=(1,)).read(16) == LEFT).all()
    assert (MaskFile(path, values=(0,)).read(16) == ~LEFT).all()


def test_one_bit_and_coloured_masks_are_read_by_brightness(tmp_path):
    Image.fromarray(LEFT).save(tmp_path / "bit.png")
    assert (MaskFile(tmp_path / "bit.png", above=127).read(16) == LEFT).all()
    red = np.zeros((16, 16, 3), np.uint8)
    red[LEFT] = (200, 0, 0)
    Image.fromarray(red).save(tmp_path / "red.jpg", quality=95, subsampling=0)
    assert (MaskFile(tmp_path / "red.jpg").read(16) == LEFT).all()


@pytest.mark.parametrize("name", ["mask.jpg", "mask.png"])
def test_what_compression_adds_to_a_jpeg_is_no_object(tmp_path, name):
    """By its content: a JPEG may be called .png."""
    noisy = np.where(LEFT, 250, 9).astype(np.uint8)
    with (tmp_path / name).open("wb") as file:
        Image.fromarray(noisy).save(file, "JPEG")
    assert (MaskFile(tmp_path / name).read(16) == LEFT).all()
    with pytest.raises(UserError, match="is a JPEG, whose levels are not exact: save it as PNG"):
        MaskFile(tmp_path / name, values=(250,)).read(16)


@pytest.mark.parametrize(
    ("seen", "hidden"), [(WHITE, WHITE), (BLACK, WHITE), (BLACK, BLACK), ((9, 200, 9), (1, 1, 1))]
)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_in_a_mask_is_background(tmp_path, seen, hidden, mode):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[LEFT], pixels[~LEFT] = (*seen, 255), (*hidden, 0)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "mask.png")
    assert (MaskFile(tmp_path / "mask.png").read(16) == LEFT).all()


def test_an_opaque_mask_with_an_alpha_channel_is_read_by_its_colours(tmp_path):
    grey = Image.fromarray(LEFT.astype(np.uint8) * 255).convert("RGBA")
    grey.save(tmp_path / "mask.png")
    assert (MaskFile(tmp_path / "mask.png").read(16) == LEFT).all()


def test_the_alpha_channel_of_an_image_can_be_its_mask(tmp_path):
    pixels = np.full((16, 16, 4), 30, np.uint8)
    pixels[..., 3] = np.where(LEFT, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    assert (MaskFile(tmp_path / "cut.png", image=tmp_path / "cut.png").read(16) == LEFT).all()


def test_the_values_of_a_mask_are_listed(tmp_path):
    path = layouts.labels_image(tmp_path / "mask.png", layouts.trimap())
    assert values_in(path) == [1, 2, 3]


def turned(path, orientation, size=(40, 20)):
    image = Image.new("RGB", size)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path):
    image = layouts.picture(tmp_path / "image.png", size=(40, 20))
    mask = layouts.labels_image(tmp_path / "mask.png", np.ones((40, 20)))
    with pytest.raises(UserError, match=r"mask\.png \(20 x 40\) is of another size than image"):
        MaskFile(mask, image=image).read(16)
    assert MaskFile(mask, image=turned(image, 6)).read(16).all()


@pytest.mark.parametrize(
    ("orientation", "where"), [(5, "left"), (6, "right"), (7, "right"), (8, "left")]
)
def test_masks_drawn_on_the_stored_picture_turn_with_it(tmp_path, orientation, where):
    """The object is the upper half as stored, 40 x 20; upright it is at one side."""
    image = turned(tmp_path / "image.png", orientation)
    upper = np.repeat([1, 0], 10)[:, None] * np.ones((1, 40))
    layouts.labels_image(tmp_path / "mask.png", upper)
    polygon = [[(0, 0), (40, 0), (40, 10), (0, 10)]]
    masks = [
        MaskFile(tmp_path / "mask.png", image=image),
        Outline(polygon, (40, 20), image),
        Outline(polygon, image=image),
        RunLengths([0, *[10] * 80], (40, 20), image),
    ]
    wanted = (np.arange(16) < 8) == (where == "left")
    for mask in masks:
        assert (mask.read(16) == wanted).all(), mask


def test_points_that_count_in_the_upright_picture_stay(tmp_path):
    image = turned(tmp_path / "image.png", 6)
    left = Outline([[(0, 0), (10, 0), (10, 40), (0, 40)]], (20, 40), image).read(16)
    assert (left == (np.arange(16) < 8)).all()


def box(x, y, width, height, image_size):
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    return Outline([corners], image_size)


def test_an_outline_is_filled_in_image_pixels():
    triangle = Outline([[(0, 0), (400, 0), (0, 200)]], (400, 200))
    inside = triangle.read(64)
    rows, columns = np.mgrid[:64, :64] + 0.5
    clear = abs(rows + columns - 64) > 1
    assert (inside == (rows + columns < 64))[clear].all()
    two = box(0, 0, 100, 200, (400, 200)).polygons + box(300, 0, 100, 200, (400, 200)).polygons
    assert Outline(two, (400, 200)).read(16).sum() == 128
    middle = box(100, 50, 200, 100, (400, 200)).read(16)
    assert middle.sum() == 64
    assert middle[4:12, 4:12].all()


# By hand: 20 = 20 + 32 * 0 and 228 = 4 + 32 * 7 take two letters of 5 bits each, from "0" on and
# 32 more where another follows; from the fourth on the difference to the one before the last.
@pytest.mark.parametrize(
    ("counts", "text"),
    [([20, 8, 228], "d08T7"), ([20, 8, 8, 8, 212], "d0880\\6"), ([20, 9, 8, 8, 211], "d098O[6")],
)
def test_run_lengths_fill_column_by_column_compressed_or_not(counts, text):
    flat = np.concatenate([np.full(n, index % 2, bool) for index, n in enumerate(counts)])
    wanted = flat.reshape(16, 16).T
    assert (RunLengths(counts, (16, 16)).read(16) == wanted).all()
    assert (RunLengths(text, (16, 16)).read(16) == wanted).all()


@pytest.mark.parametrize("counts", [[20, 8], [300, -44], "d08", "d", "", ["a"], [1e99], [None]])
def test_run_lengths_that_do_not_add_up_are_refused(counts):
    with pytest.raises(UserError, match="do not add up to 16 x 16 pixels"):
        RunLengths(counts, (16, 16)).read(16)
