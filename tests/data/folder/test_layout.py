"""Every file of a folder is used or named; what contradicts itself is refused in one line."""

import io
import os
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from topgap_nb import UserError, folder_notes, open_dataset
from topgap_nb.data.folder.layout import find_images


def put(root, *names):
    """Write a small file by each name: pictures where they are pictures."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg", ".tif"):
            Image.new("L", (16, 16), len(name) * 7 % 256).save(path)
        else:
            path.write_text("words")
    return root


def numbered(label, count=3, suffix="png"):
    return [f"{label}/{index}.{suffix}" for index in range(count)]


def two_classes(root, *more):
    return put(root, *numbered("cat"), *numbered("dog"), *more)


def table_folder(root, text, names=("1.png", "2.png", "3.png", "4.png")):
    put(root, *names)
    (root / "labels.csv").write_text(text)
    return root


def classes(found):
    return {image.name: image.label for image in found.images}


# Tables


@pytest.mark.parametrize("label", ["None", "NA", "null", "nan", "", "N/A", "1e5", "007", "True"])
def test_classes_are_text_whatever_they_are_called(tmp_path, label):
    label = label or "-"
    text = f"image,class\n1.png,{label}\n2.png,oak\n3.png,{label}\n4.png,oak\n"
    found = find_images(str(table_folder(tmp_path, text)))
    assert classes(found) == {"1.png": label, "2.png": "oak", "3.png": label, "4.png": "oak"}
    assert found.notes == ()


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("head", ["", "file{}class\n", "image ID{}label{}\n"])
@pytest.mark.parametrize("names", ["{}.png", "{}", "00{}"])
def test_a_table_is_read_with_and_without_a_head(tmp_path, mark, head, names):
    rows = [f"{names.format(n)}{mark}{'elm' if n > 2 else 'white oak'}" for n in range(1, 5)]
    text = head.format(mark, mark) + "\n".join(rows)
    found = find_images(str(table_folder(tmp_path, text)))
    assert list(classes(found).values()) == ["white oak", "white oak", "elm", "elm"]


@pytest.mark.parametrize("rest", [",", ",,", ",x,", ", ,  "])
def test_trailing_commas_and_further_columns_change_nothing(tmp_path, rest):
    text = f"image,class{rest}\n" + "".join(f"{n}.png,{n % 2}{rest}\n\n" for n in range(1, 5))
    assert Counter(classes(find_images(str(table_folder(tmp_path, text)))).values()) == {
        "0": 2, "1": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1.png,a\n2.png,b\n1.png,b\n", r"more than one class to 1\.png \(the first is both a and"),
        ("1.png,a\n2,b\n02,a\n4,b\n1,b", r"more than one class to 1\.png, 2\.png \("),
        ("1.png,a\n2.png,b, white\n", "more cells in its row 2 than in its first"),
        ("1.png,a\n,b\n", "names no image in its row 2"),
        ("a,1.png\nb,2.png\n", "gives 'b' the class '2.png', a file"),
        ("1.png\n2.png\n", "needs two columns"),
        ("", "needs two columns"),
        ("x.png,a\ny.png,b\n", "no row of .*labels.csv gives an image"),
        ('1.png,"a\n2.png,b\n', "is not a table"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(tmp_path, text, words):
    with pytest.raises(UserError, match=words) as refused:
        find_images(str(table_folder(tmp_path, text)))
    assert "\n" not in str(refused.value)


def test_a_table_in_another_encoding_is_refused(tmp_path):
    table_folder(tmp_path, "")
    (tmp_path / "labels.csv").write_bytes("1.png,Bär\n2.png,Löwe\n".encode("latin-1"))
    with pytest.raises(UserError, match="save it as CSV in UTF-8"):
        find_images(str(tmp_path))


def test_rows_without_files_and_files_without_rows_are_named(tmp_path):
    text = "image,class\n1.png,a\n2.png,b\n9.png,a\nlost,b\n3.png,\n"
    found = find_images(str(table_folder(tmp_path, text)))
    assert classes(found) == {"1.png": "a", "2.png": "b"}
    assert found.notes == (
        "Images that labels.csv gives no class: 2 (3.png, 4.png).",
        "Rows of labels.csv of no image: 2 (9.png, lost).",
    )


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("name", ["Ahornblätter", "café crème", "각"])
def test_names_are_compared_as_they_read(tmp_path, forms, name):
    on_disk, written = (unicodedata.normalize(form, name) for form in forms)
    table = tmp_path / "table"
    put(table, f"{on_disk} 1.png", f"{on_disk} 2.png", f"masks/{written} 1.png")
    (table / "labels.csv").write_text(f"{written} 1.png,{on_disk}\n{written} 2,b\n")
    found = find_images(str(table))
    assert [image.label for image in found.images] == [unicodedata.normalize("NFC", name), "b"]
    assert [image.mask is not None for image in found.images] == [True, False]
    assert found.notes == ()
    folders = put(tmp_path / "folders", f"{on_disk}/1.png", f"{written}/2.png", "b/3.png")
    put(folders, f"masks/{written}/1.png")
    found = find_images(str(folders))
    assert Counter(image.label for image in found.images) == {
        unicodedata.normalize("NFC", name): 2, "b": 1,
    }  # fmt: skip
    assert sum(image.mask is not None for image in found.images) == 1


# Files that are not used


def test_what_the_layout_does_not_use_is_named(tmp_path):
    more = (
        "cat/deep/9.png",
        "beside.jpg",
        "cat/raw.heic",
        "readme.txt",
        ".DS_Store",
        "dog/._0.png",
    )
    two_classes(tmp_path, *more, "masks/cat/0.png", "masks/cat/77.png", "masks/about.txt")
    os.symlink(tmp_path / "nowhere", tmp_path / "dog" / "gone.png")
    found = find_images(str(tmp_path))
    assert len(found.images) == 6
    notes = " ".join(found.notes)
    for words in (
        "not used: 2 (beside.jpg, cat/deep/9.png)",
        "known type, not used: 3 (cat/raw.heic, masks/about.txt, readme.txt)",
        "Hidden files, not used: 2 (.DS_Store, dog/._0.png)",
        "Masks of no image: 1 (masks/cat/77.png)",
        "Links to nothing, not used: 1 (dog/gone.png)",
    ):
        assert words in notes


def test_folders_beside_images_and_many_files_are_counted(tmp_path):
    put(tmp_path, *(f"images/{name}" for name in numbered("a") + numbered("b")))
    put(tmp_path, *numbered("old", 14), "labels.csv")
    notes = " ".join(find_images(str(tmp_path)).notes)
    assert "beside it, not used: 14 (old/0.png, old/1.png" in notes
    assert "and 4 more)" in notes
    assert "1 (labels.csv)" in notes


def test_a_link_to_its_own_folder_ends(tmp_path):
    two_classes(tmp_path)
    os.symlink(tmp_path, tmp_path / "cat" / "again")
    assert len(find_images(str(tmp_path)).images) == 6


def test_a_linked_class_folder_is_a_class(tmp_path):
    put(tmp_path / "own", *numbered("cat"))
    put(tmp_path / "elsewhere", *numbered("dog"))
    os.symlink(tmp_path / "elsewhere" / "dog", tmp_path / "own" / "dog")
    assert Counter(i.label for i in find_images(str(tmp_path / "own")).images) == {
        "cat": 3, "dog": 3,
    }  # fmt: skip


# Masks


@pytest.mark.parametrize("name", ["Masks", "MASKS", "masks"])
def test_the_folder_of_masks_may_be_written_in_capitals(tmp_path, name):
    two_classes(tmp_path, f"{name}/cat/0.png", f"{name}/dog/2.tif")
    found = find_images(str(tmp_path))
    assert {image.label for image in found.images} == {"cat", "dog"}
    assert sum(image.mask is not None for image in found.images) == 2


@pytest.mark.parametrize("name", ["Silhouettes", "ground truth", "gt", "cat_masks"])
def test_a_class_that_looks_like_masks_is_refused(tmp_path, name):
    stems = [f"c{index}.png" for index in range(3)], [f"d{index}.png" for index in range(3)]
    put(tmp_path, *(f"cat/{stem}" for stem in stems[0]), *(f"dog/{stem}" for stem in stems[1]))
    put(tmp_path, *(f"{name}/{stem}" for stem in (stems[0][:2] + stems[1])))
    with pytest.raises(UserError, match=f"the class '{name}' has the names of other classes' im"):
        find_images(str(tmp_path))
    assert len(find_images(str(tmp_path), masks=name).images) == 6


def test_numbered_classes_of_one_size_are_classes(tmp_path):
    put(tmp_path, *numbered("cat"), *numbered("dog"), *numbered("emu"), *numbered("owl", 2))
    assert len({image.label for image in find_images(str(tmp_path)).images}) == 4


@pytest.mark.parametrize("name", ["cat/1_mask.png", "dog/2-seg.tif", "cat/0 Segmentation.png"])
def test_a_mask_among_the_images_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name} has the name of a mask and lies among"):
        find_images(str(two_classes(tmp_path, name)))


def test_two_masks_of_one_image_are_refused(tmp_path):
    two_classes(tmp_path, "masks/cat/0.png", "masks/cat/0.tif")
    with pytest.raises(UserError, match=r"both masks of 0\.png: keep one"):
        find_images(str(tmp_path))


def test_masks_must_be_a_folder_without_the_images(tmp_path):
    two_classes(tmp_path, "shape.txt")
    for masks, words in (("shape.txt", "no folder"), ("none", "no folder"), (".", "holds the im")):
        with pytest.raises(UserError, match=words):
            find_images(str(tmp_path), masks=masks)


@pytest.mark.parametrize("masks", ["../drawn", "{}/drawn"])
def test_masks_may_lie_outside_the_folder(tmp_path, masks):
    two_classes(tmp_path / "own")
    put(tmp_path, "drawn/cat/0.png", "drawn/cat/77.png")
    found = find_images(str(tmp_path / "own"), masks=masks.format(tmp_path))
    assert [image.name for image in found.images if image.mask] == ["cat/0.png"]
    assert found.notes == ("Masks of no image: 1 (../drawn/cat/77.png).",)


def test_masks_in_a_folder_of_a_folder_are_no_class(tmp_path):
    two_classes(tmp_path, "annotations/trimaps/cat/0.png", "annotations/list.txt")
    found = find_images(str(tmp_path), masks="annotations/trimaps")
    assert {image.label for image in found.images} == {"cat", "dog"}
    assert [image.name for image in found.images if image.mask] == ["cat/0.png"]


def pictures(root, mode="RGB", count=12, size=24):
    """Two classes of pictures of which no two are alike."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for index in range(count):
            small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            image = small.resize((size, size)).convert(mode)
            if mode == "RGBA":
                alpha = np.zeros((size, size), np.uint8)
                alpha[:, : size // 2] = 255
                image.putalpha(Image.fromarray(alpha))
            image.save(root / label / f"{index}.png")
    return root


def test_the_alpha_channels_serve_as_masks(tmp_path):
    data = open_dataset("folder", 16, path=str(pictures(tmp_path, "RGBA")), masks="alpha")
    for images in (data.train, data.test):
        assert images.has_masks
        assert images.masks[:, :, :8].all()
        assert not images.masks[:, :, 8:].any()
        assert (images.pixels[:, :, :, 9:] == 255).all()


def test_alpha_without_transparency_is_refused(tmp_path):
    with pytest.raises(UserError, match="no image has a part that is transparent"):
        folder_notes(16, path=str(pictures(tmp_path)), masks="alpha")


def test_what_is_not_used_stands_in_the_notes_of_the_folder(tmp_path):
    put(pictures(tmp_path), "a/deep/1.png", *(f"small/s{index}.png" for index in range(5)))
    notes = folder_notes(16, path=str(tmp_path))
    assert notes[0].endswith("not used: 1 (a/deep/1.png).")
    assert notes[-1].startswith("Left out, 5 images of classes of which fewer than 8")


# Any tree at all

FOLDERS = ("", "a", "b", "A", "images", "images/a", "images/b", "masks", "Masks", "masks/a", "gt")
FOLDERS += ("a/deep", ".git", "__MACOSX", "café", "cafe\u0301", "x\ny", "labels.csv.d", "None")
STEMS = ("1", "01", "2", "a_1", "b_2", "a_1_mask", "é", "e\u0301", "._1", ".hidden", "new\nline")
SUFFIXES = (".png", ".png", ".png", ".jpg", ".JPG", ".tif", ".gif", ".txt", ".heic", "", ".csv")
ROWS = ("1,a", "1.png,b", "2,None", "a_1,NA", "é,$x$", "image,class", ",", "7;a", '"', "1", "\0,b")


def odd_tree(root, rng, contents, noise):
    """A tree of odd files; every fourth has two classes of 9 pictures that could be trained on."""
    root.mkdir()
    folders = rng.choice(FOLDERS, rng.integers(2, 7))
    stems = rng.choice(STEMS, rng.integers(2, 5))
    for _ in range(rng.integers(0, 16)):
        path = root / rng.choice(folders) / (rng.choice(stems) + rng.choice(SUFFIXES))
        if not any(part.is_file() for part in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[rng.integers(len(contents))])
    if rng.random() < 0.2 and not (root / "labels.csv").exists():
        (root / "labels.csv").write_text("\n".join(rng.choice(ROWS, rng.integers(0, 6))))
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        if rng.random() < 0.8:
            (folder / "9.png").write_bytes(contents[0])
    for index, target in enumerate(rng.choice(["nowhere", ".", "a", "masks"], rng.integers(0, 2))):
        os.symlink(root / target, root / f"link{index}.png")
    if not int(root.name) % 4:
        for index, content in enumerate(noise):
            place = root / "ab"[index % 2]
            if not place.is_file():
                place.mkdir(exist_ok=True)
                (place / f"{index}.png").write_bytes(content)
    return root


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def contents():
    """What a file may hold: pictures of many modes, a few damaged ones, and none."""
    modes = ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")
    whole = [png(Image.new(mode, (5, 4), shade)) for mode in modes for shade in (0, 1)]
    return [*whole, *whole, b"", b"no picture", whole[-1][:40], whole[4][:-9] + b"\1\2\3"]


def files_under(root):
    # Links to folders are followed, but for one to a folder that it lies in.
    files = []
    for place, folders, names in os.walk(root, followlinks=True):
        files += [os.path.join(place, name) for name in names]
        above = {os.path.realpath(place)}
        folders[:] = [
            name for name in folders
            if not (os.path.islink(full := os.path.join(place, name)) and any(
                f"{a}/".startswith(f"{os.path.realpath(full)}/") for a in above
            ))
        ]  # fmt: skip
    return files


def read_tree(root, masks):
    """What the package makes of a tree; None where it refuses it, in one line."""
    try:
        return find_images(str(root), masks)
    except UserError as refused:
        return None if "\n" not in str(refused) else pytest.fail(str(refused))


def opened_tree(root, masks):
    try:
        data = open_dataset("folder", 16, path=str(root), masks=masks)
        return [*data.train.ids, *data.val.ids, *data.test.ids]
    except UserError as refused:
        return None if "\n" not in str(refused) else pytest.fail(str(refused))


@pytest.mark.slow
def test_of_any_tree_every_file_is_used_or_named(tmp_path, runs):
    rng, outcomes, held = np.random.default_rng(0), Counter(), contents()
    noise = [png(Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))) for _ in range(18)]
    for number in range(500):
        root = odd_tree(tmp_path / str(number), rng, held, noise)
        masks = str(rng.choice(["", "", "", "alpha"]))
        found = read_tree(root, masks)
        outcomes["read" if found else "refused"] += 1
        if found is None:
            continue
        left = [str(file) for files in found.unused.values() for file in files]
        used = {str(image.file) for image in found.images}
        used |= {str(image.mask) for image in found.images if image.mask}
        there = files_under(root)
        table = str(root / "labels.csv")
        if table in there and table not in left:
            used.add(table)
        assert sorted([*used, *left]) == sorted(there)
        # The notes count the same files, and name the first of them.
        notes = [note for note in found.notes if not note.startswith("Rows of")]
        assert sum(int(re.search(r": (\d+) \(", note)[1]) for note in notes) == len(left)
        assert not any("\n" in note for note in found.notes)
        if not number % 4 and (ids := opened_tree(root, masks)) is not None:
            outcomes["opened"] += 1
            notes = " ".join(folder_notes(16, path=str(root), masks=masks))
            dropped = re.search(r"Left out, (\d+) images", notes)
            assert len(set(ids)) == len(ids)
            assert len(ids) + int(dropped[1] if dropped else 0) == len(found.images)
    assert outcomes["refused"] > 100
    assert outcomes["read"] > 80
    assert outcomes["opened"] > 10
