import io
import os
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import layouts
from helpers.layouts import open_split
from PIL import Image

from topgap_nb import UserError
from topgap_nb.data.image_file import read_image
from topgap_nb.data.masks import MaskFile, Outline
from topgap_nb.data.reading import Manifest, decoded


def jpeg_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [jpeg_bytes()[:-1500], jpeg_bytes()[:100], b"no image at all\n", b""],
    ids=["half a picture", "half a header", "text", "nothing"],
)
def test_an_unreadable_image_is_named(tmp_path, content):
    path = tmp_path / "scan 7.jpeg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"scan 7\.jpeg is not a readable image") as refused:
        read_image(path, 32)
    assert str(path) in str(refused.value)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png is not a readable image"):
        read_image(tmp_path / "gone.png", 32)


def test_a_photograph_is_resized_as_pillow_does_it(tmp_path):
    path = tmp_path / "whole.jpeg"
    path.write_bytes(jpeg_bytes())
    with Image.open(path) as image:
        colour = image.convert("RGB").resize((48, 48), Image.Resampling.BILINEAR)
    assert (read_image(path, 48) == np.asarray(colour)).all()
    assert read_image(path, 16).shape == (16, 16, 3)
    assert read_image(path, 16, "L").shape == (16, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_turned_photograph_is_righted(tmp_path, orientation, suffix):
    """The picture is dark at the top and light at its left edge, whichever way it was stored."""
    upright = np.full((32, 48), 100, np.uint8)
    upright[:16], upright[:, :16] = 0, 250
    stored = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.T,
        6: lambda x: np.rot90(x),
        7: lambda x: x[::-1, ::-1].T,
        8: lambda x: np.rot90(x, -1),
    }[orientation](upright)
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(
        tmp_path / f"turned.{suffix}", exif=exif, **({"quality": 100} if suffix == "jpg" else {})
    )
    pixels = read_image(tmp_path / f"turned.{suffix}", 24, "L").astype(int)
    assert (abs(pixels[2:10, 10:] - 0) < 4).all()
    assert (abs(pixels[14:, 10:] - 100) < 4).all()
    assert (abs(pixels[:, :7] - 250) < 4).all()


@pytest.mark.parametrize(("value", "wanted"), [(0, 0), (0x0FFF, 15), (0x8000, 128), (0xFFFF, 255)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, value, wanted, suffix):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.full((16, 16), value, np.uint16)).save(path)
    assert (read_image(path, 16) == wanted).all()


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused_by_name(tmp_path, kind):
    Image.fromarray(np.ones((16, 16), kind)).save(tmp_path / "scan.tif")
    with pytest.raises(UserError, match=r"scan\.tif has 32-bit pixels of unknown range"):
        read_image(tmp_path / "scan.tif", 16)


def test_twelve_bits_are_scaled_by_their_own_range(tmp_path):
    """TIFF packs 12 bits; 0xFFF is its white, and 0x800 the middle."""
    rows = np.array([0xFFF, 0x800] * 8, np.uint16)
    packed = bytes(
        byte
        for one, two in rows.reshape(-1, 2).tolist()
        for byte in (one >> 4, (one & 15) << 4 | two >> 8, two & 255)
    )
    tags = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: 16}
    tags[279] = len(packed) * 16
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    (tmp_path / "deep.tif").write_bytes(head + entries + bytes(4) + packed * 16)
    assert read_image(tmp_path / "deep.tif", 16, "L")[3].tolist() == [255, 128] * 8


def test_a_stack_of_pages_is_refused_by_name(tmp_path):
    pages = [Image.new("L", (16, 16), grey) for grey in (10, 20, 30)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"stack\.tif holds 3 pages: save each as a file of its"):
        read_image(tmp_path / "stack.tif", 16)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white(tmp_path, mode):
    image = Image.new("RGBA", (16, 16), (10, 10, 10, 255))
    image.paste((200, 200, 200, 0), (0, 0, 8, 16))
    image.convert(mode).save(tmp_path / "cut.png")
    pixels = read_image(tmp_path / "cut.png", 16)
    assert (pixels[:, :8] == 255).all()
    assert (pixels[:, 8:] == 10).all()


def test_the_middle_is_cut_out(tmp_path):
    image = np.zeros((256, 356, 3), np.uint8)
    image[16:240, 66:290] = 255
    path = layouts.labels_image(tmp_path / "wide.png", image)
    assert (read_image(path, 224, crop=True) == 255).all()


def box(x, y, width, height, image_size=(16, 16)):
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    return Outline([corners], image_size)


# Manifest


def manifest(folder, count=3, **fields):
    files = [folder / f"{index}.png" for index in range(count)]
    for index, file in enumerate(files):
        if not file.exists():
            layouts.picture(file, (index, 50, 100))
    return Manifest(
        **{
            "name": "own",
            "files": tuple(files),
            "labels": np.arange(count) % 2,
            "class_names": ("no", "yes"),
            "ids": tuple(file.stem for file in files),
            "splits": np.array(["train", "test", "train", "test"][:count], object),
            **fields,
        }
    )


def test_a_split_takes_every_field(tmp_path):
    masks = tuple(box(0, 0, 8 + i, 16) for i in range(3))
    groups = np.array([5, 6, 7])
    whole = manifest(tmp_path, masks=masks, group=groups, subject_ids=("a", "b", "c"))
    part = whole.only("train")
    assert part.ids == ("0", "2")
    assert part.masks == (masks[0], masks[2])
    assert part.group.tolist() == [5, 7]
    assert part.subject_ids == ("a", "c")
    images = decoded(part, 16)
    assert images.masks.sum((1, 2)).tolist() == [8 * 16, 10 * 16]
    assert images.pixels[:, 0, 0, 0].tolist() == [0, 2]
    with pytest.raises(UserError, match="'own' has no images in its split 'val'"):
        whole.only("val")


def test_grey_images_have_one_channel(tmp_path, runs):
    images = decoded(manifest(tmp_path, mode="L"), 16)
    assert images.pixels.shape == (3, 1, 16, 16)
    assert images[0]["image"].shape == (3, 16, 16)


def test_unreadable_files_are_named_together(tmp_path, runs):
    whole = manifest(tmp_path, 4)
    for index in (1, 3):
        whole.files[index].write_text("no picture")
    with pytest.raises(UserError) as refused:
        decoded(whole, 16)
    text = str(refused.value)
    assert "1.png is not a readable image" in text
    assert "3.png is not a readable image" in text
    assert "\n" not in text
    assert not list((runs / "images").glob("own-*"))


# Kept arrays


def unreadable(file):
    """Overwrite a file so that only its content changes: not its size, not its time."""
    state = file.stat()
    file.write_bytes(bytes(state.st_size))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_images_are_decoded_once_and_again_when_they_change(tmp_path, runs):
    whole = manifest(tmp_path)
    first = decoded(whole, 16)
    unreadable(whole.files[1])
    again = decoded(whole, 16)
    assert torch.equal(first.pixels, again.pixels)
    again.pixels.zero_()
    assert torch.equal(first.pixels, decoded(whole, 16).pixels)
    layouts.picture(whole.files[1], (0, 0, 255), (17, 16))
    assert not torch.equal(first.pixels, decoded(whole, 16).pixels)


@pytest.mark.parametrize(
    ("change", "decodes_again"),
    [
        ({"labels": np.array([1, 0, 1])}, False),
        ({"ids": ("x", "y", "z"), "class_names": ("a", "b")}, False),
        ({"mode": "L"}, True),
        ({"crop": True}, True),
        ({"masks": (box(0, 0, 8, 8), None, None)}, True),
    ],
)
def test_only_what_decides_pixels_and_masks_decodes_again(tmp_path, runs, change, decodes_again):
    whole = manifest(tmp_path)
    decoded(whole, 16)
    decoded(replace(whole, **change), 16)
    entries = [path for path in (runs / "images").glob("own-*") if path.is_dir()]
    assert len(entries) == 1 + decodes_again


def test_another_mask_file_or_value_decodes_again(tmp_path, runs):
    file = layouts.labels_image(tmp_path / "mask.png", layouts.trimap())
    columns = torch.arange(16).expand(16, 16)

    def mask(**fields):
        masks = (MaskFile(file, **fields), None, None)
        images = decoded(manifest(tmp_path, masks=masks), 16)
        assert images.masked.tolist() == [True, False, False]
        return images.masks[0]

    assert torch.equal(mask(values=(1, 3)), columns < 10)
    assert torch.equal(mask(values=(1,)), columns < 8)
    layouts.labels_image(file, np.full((16, 16), 1))
    assert mask(values=(1,)).all()


@pytest.mark.parametrize("damage", ["shorten", "change", "remove"])
def test_a_damaged_entry_is_set_aside_and_decoded_again(tmp_path, runs, damage):
    whole = manifest(tmp_path)
    pixels = decoded(whole, 16).pixels.clone()
    (file,) = (runs / "images").glob("own-*/pixels.npy")
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content[:-100] + (b"" if damage == "shorten" else bytes(99) + b"x"))
    with pytest.warns(UserWarning, match="damaged .*set aside"):
        again = decoded(whole, 16)
    assert torch.equal(again.pixels, pixels)
    assert file.read_bytes() == content
    assert torch.equal(decoded(whole, 16).pixels, pixels)


@pytest.mark.parametrize("share", [0.5, 0.0], ids=["truncated", "empty"])
def test_a_damaged_jpeg_is_named_and_nothing_is_kept(root, runs, share):
    home = layouts.pets(root)
    path = home / "images" / "beagle_2.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"beagle_2\.jpg is not a readable image") as refused:
        open_split("pets", "test", 16)
    assert "\n" not in str(refused.value)
    assert not [path for path in runs.glob("images/*") if path.is_dir()]
    layouts.picture(path)
    assert len(open_split("pets", "test", 16)) == 2


def test_a_file_that_a_set_lists_and_lacks_is_named(root):
    home = layouts.pets(root)
    (home / "images" / "beagle_2.jpg").unlink()
    with pytest.raises(UserError, match=r"beagle_2\.jpg is missing: put it back"):
        open_split("pets", "test", 16)
