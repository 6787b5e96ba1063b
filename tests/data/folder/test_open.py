"""A folder of one's own images: layouts, split without leakage, and a clear line for each fault."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pictures import edited
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image

from topgap_nb import UserError, class_balance, folder_notes, open_dataset, write_folder
from topgap_nb.data.image_set import SPLITS

RNG = np.random.default_rng(0)


def picture(size=(48, 48)):
    """A smooth random picture: no two are near duplicates."""
    small = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def fill(root, counts, size=(48, 48)):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            picture(size).save(root / name / f"{index:02d}.png")
    return root


@pytest.fixture
def pets(tmp_path):
    return fill(tmp_path / "pets", {"cat": 20, "dog": 20})


def opened(path, image_size=32, **options):
    return open_dataset("folder", image_size, path=str(path), **options)


def all_splits(path, image_size=32, **options):
    data = opened(path, image_size, **options)
    return {name: getattr(data, name) for name in SPLITS}


def test_forty_images_are_split_by_class_60_15_25(pets):
    splits = all_splits(pets)
    counts = {name: images.labels.bincount().tolist() for name, images in splits.items()}
    assert counts == {"train": [12, 12], "val": [3, 3], "test": [5, 5]}
    ids = [set(images.ids) for images in splits.values()]
    assert set.union(*ids) == {f"{c}/{i:02d}.png" for c in ("cat", "dog") for i in range(20)}
    assert sum(map(len, ids)) == 40
    assert splits["train"].class_names == ("cat", "dog")


def test_the_split_does_not_depend_on_the_image_size(pets):
    (pets / "cat" / "copy.png").write_bytes((pets / "cat" / "07.png").read_bytes())
    small, large = all_splits(pets), all_splits(pets, image_size=80)
    assert [s.ids for s in small.values()] == [s.ids for s in large.values()]
    assert [s.subject_ids for s in small.values()] == [s.subject_ids for s in large.values()]


def test_the_seed_decides_the_split(pets):
    first, again, other = (opened(pets, seed=seed).test.ids for seed in (0, 0, 1))
    assert first == again != other


def test_pixels_are_those_of_the_file(pets):
    train = opened(pets).train
    with Image.open(pets / train.ids[3]) as image:
        wanted = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert (train.pixels[3].numpy() == wanted).all()


@pytest.mark.parametrize("how", ["copy", "jpeg", "half", "bright", "mirror"])
def test_edited_copies_stay_on_one_side(pets, how):
    for index in range(10):
        with Image.open(pets / "cat" / f"{index:02d}.png") as image:
            edited(image.convert("RGB"), how).save(pets / "cat" / f"copy_{index:02d}.png")
    side = {i: name for name, images in all_splits(pets).items() for i in images.ids}
    for index in range(10):
        assert side[f"cat/{index:02d}.png"] == side[f"cat/copy_{index:02d}.png"]
    assert "20 images are near duplicates" in folder_notes(32, path=str(pets))[0]


def test_the_same_picture_under_two_labels_is_named(pets):
    (pets / "dog" / "99.png").write_bytes((pets / "cat" / "07.png").read_bytes())
    notes = " ".join(folder_notes(32, path=str(pets)))
    assert "alike in different classes: 1, such as cat/07.png and dog/99.png. Check" in notes


def test_subjects_named_by_a_pattern_stay_together(tmp_path):
    for label in ("ill", "well"):
        (tmp_path / label).mkdir()
        for person in range(10):
            for view in range(3):
                picture().save(tmp_path / label / f"{label}-p{person}_{view}.png")
    sides = all_splits(tmp_path, subject_pattern=r"\w+-p\d+")
    people = [{name.split("_")[0] for name in images.ids} for images in sides.values()]
    assert sum(map(len, people)) == len(set.union(*people)) == 20
    with pytest.raises(UserError, match="not a regular expression"):
        all_splits(tmp_path, subject_pattern="(")


def test_small_classes_are_left_out_and_named(pets):
    fill(pets, {"emu": 7})
    assert opened(pets).train.class_names == ("cat", "dog")
    assert "emu (7)" in folder_notes(32, path=str(pets))[-1]


def test_a_table_of_labels_and_names_with_numbers_give_the_same_classes(tmp_path):
    table, named = tmp_path / "table", tmp_path / "named"
    rows = ["image ID;label"]
    for root in (table / "images", named):
        root.mkdir(parents=True)
    for index in range(1, 33):
        label = ("oak", "elm")[index % 2]
        image = picture()
        image.save(table / "images" / f"{index:03d}.png")
        image.save(named / f"{label}_{index}.png")
        rows.append(f"{index};{label}")
    (table / "labels.csv").write_text("\n".join(rows))
    labels = [{}, {}]
    for found, folder in zip(labels, (table, named), strict=True):
        for images in all_splits(folder).values():
            for name, label in zip(images.ids, images.labels, strict=True):
                found[int(Path(name).stem.split("_")[-1])] = images.class_names[label]
    assert labels[0] == labels[1] == {i: ("oak", "elm")[i % 2] for i in range(1, 33)}


def test_masks_written_come_back(tmp_path):
    planted = open_dataset("planted", 32, images=48, classes=2, object_size=0.15).train
    back = all_splits(write_folder(planted, tmp_path))
    for images in back.values():
        assert images.has_masks
        index = [int(Path(name).stem) for name in images.ids]
        assert torch.equal(images.masks, planted.masks[index])
        assert torch.equal(images.pixels, planted.pixels[index])


def test_mask_values_choose_the_object(pets):
    (pets / "masks" / "cat").mkdir(parents=True)
    trimap = np.full((48, 48), 2, dtype=np.uint8)
    trimap[:24] = 1
    trimap[24] = 3
    for index in range(20):
        Image.fromarray(trimap).save(pets / "masks" / "cat" / f"{index:02d}.png")
    with pytest.raises(UserError, match="say with mask_values which pixel values"):
        all_splits(pets)
    train = opened(pets, mask_values=[1]).train
    assert torch.equal(train.masked, train.labels == 0)
    assert train.with_masks().masks.float().mean() == 0.5
    assert "20 of 40 images have no mask." in folder_notes(32, path=str(pets), mask_values=[1])


def test_a_mask_of_another_size_is_named(pets):
    (pets / "masks" / "cat").mkdir(parents=True)
    Image.new("L", (48, 40), 255).save(pets / "masks" / "cat" / "03.png")
    with pytest.raises(UserError, match=r"03.png \(48 x 40\) is of another size than 03.png"):
        all_splits(pets)


def test_a_flat_mask_for_two_images_of_one_name_is_refused(pets):
    (pets / "masks").mkdir()
    Image.new("L", (48, 48), 255).save(pets / "masks" / "03.png")
    with pytest.raises(UserError, match="could belong to 2 images"):
        all_splits(pets)


def test_broken_images_are_named_together(pets):
    good = (pets / "dog" / "05.png").read_bytes()
    (pets / "dog" / "05.png").write_bytes(good[: len(good) // 2])
    (pets / "cat" / "11.png").write_text("no picture")
    with pytest.raises(UserError) as error:
        all_splits(pets)
    text = str(error.value)
    assert "cat/11.png" in text
    assert "dog/05.png" in text
    assert text.count("is not a readable image") == 2
    assert "\n" not in text


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda root: None, "there is no folder"),
        (lambda root: fill(root, {"cat": 20}), "one class only"),
        (lambda root: fill(root, {"cat": 20, "dog": 20, "emu": 0}), "emu holds no images: fill"),
        (
            lambda root: fill(root / "train", {"cat": 9, "dog": 9}),
            "give the folder of the class folders",
        ),
        (lambda root: root.mkdir(), "holds neither class folders nor a labels.csv"),
        (lambda root: fill(root, {"cat": 20, "dog": 5}), "fewer than two classes have 8"),
    ],
)
def test_a_folder_that_cannot_serve_gets_one_line(tmp_path, build, words):
    build(tmp_path / "own")
    with pytest.raises(UserError, match=words) as error:
        all_splits(tmp_path / "own")
    assert "\n" not in str(error.value)


def test_what_is_trained_on_is_known_by_content_not_by_place(pets, tmp_path):
    first = opened(pets).fingerprint
    moved = pets.rename(tmp_path / "moved")
    assert opened(moved).fingerprint == first
    (moved / "masks" / "cat").mkdir(parents=True)
    half = Image.new("L", (48, 48))
    half.paste(255, (0, 0, 48, 24))
    half.save(moved / "masks" / "cat" / "03.png")
    assert opened(moved).fingerprint == first
    os.replace(moved / "cat" / "04.png", moved / "dog" / "94.png")
    assert opened(moved).fingerprint != first


def test_a_changed_image_is_read_again(pets):
    data = opened(pets)
    Image.new("RGB", (48, 48), (9, 9, 9)).save(pets / data.train.ids[0])
    changed = opened(pets)
    assert changed.fingerprint != data.fingerprint
    assert (changed.train.pixels == 9).all(3).all(2).all(1).any()


def test_the_balance_counts_every_image_once(pets):
    table = class_balance(opened(pets)).set_index("class")
    assert table.loc["cat"].tolist() == [12, 3, 5, 20]
    assert table.loc["all images"].tolist() == [24, 6, 10, 40]
    assert table.loc["with a mask"].tolist() == [0, 0, 0, 0]
    short = class_balance(opened(pets), max_classes=1).set_index("class")
    assert short.loc["2 more classes"].tolist() == [24, 6, 10, 40]


REAL = os.environ.get("TOPGAP_DATA", "")


@pytest.mark.parametrize(
    ("name", "options", "classes", "images"),
    [
        ("wbc-microscopy", {}, 4, 299),
        ("oxford-iiit-pet", {"masks": "annotations/trimaps", "mask_values": [1, 3]}, 4, 608),
    ],
)
def test_real_folders_open_as_they_are(name, options, classes, images):
    folder = Path(REAL) / name
    if not REAL or not folder.is_dir():
        pytest.skip(f"$TOPGAP_DATA holds no {name}")
    splits = all_splits(folder, **options)
    assert sum(map(len, splits.values())) == images
    assert len(splits["train"].class_names) == classes
    subjects = [set(s.subject_ids) for s in splits.values()]
    assert sum(map(len, subjects)) == len(set.union(*subjects))
    assert 0.1 < splits["test"].with_masks().masks.float().mean() < 0.6


def test_a_notebook_shows_bad_input_as_one_line():
    shell = InteractiveShell.instance()
    with capture_output() as shown:
        shell.run_cell(
            "from topgap_nb import open_dataset; open_dataset('folder', path='nowhere').train"
        )
    line = "UserError: there is no folder 'nowhere': give a folder that holds a folder per class"
    assert shown.stdout.strip() == line
