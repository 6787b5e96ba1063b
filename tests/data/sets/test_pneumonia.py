import pytest

from topgap_nb import UserError, open_dataset, shared_patients


@pytest.fixture(scope="module")
def radiographs():
    data = open_dataset("pneumonia", 32)
    return {"train": data.train, "val": data.val, "test": data.test}


def test_the_test_split_is_the_publishers(radiographs):
    test = radiographs["test"]
    assert test.labels.bincount().tolist() == [319, 315]
    assert test.class_names == ("NORMAL", "PNEUMONIA")
    assert test.pixels.shape == (634, 1, 32, 32)


def test_299_normal_test_images_have_a_lung_mask(radiographs):
    masked = radiographs["test"].with_masks()
    assert len(masked) == 299
    assert masked.has_masks
    assert not masked.labels.any()
    assert masked.masks.float().mean((1, 2)).min() > 0.02
    assert masked.masks.float().mean((1, 2)).max() < 0.7


def test_train_and_val_share_no_patient_and_leave_none_out(radiographs):
    train, val = radiographs["train"], radiographs["val"]
    assert not set(train.subject_ids) & set(val.subject_ids)
    assert not set(train.ids) & set(val.ids)
    assert len(train) + len(val) == 2532
    assert abs(len(val) / 2532 - 1 / 8) < 0.01
    assert abs(train.labels.float().mean() - val.labels.float().mean()) < 0.03


def patient(stem):
    """person100_bacteria_482 -> person100; NORMAL2-IM-0035-0001-0002 -> NORMAL2-IM-0035."""
    if stem.startswith("person"):
        return stem.split("_")[0]
    publisher, series = stem.split("IM-")
    return f"{publisher}IM-{series.split('-')[0]}"


def test_shared_patients_are_those_whose_number_train_has_too(radiographs):
    trained_on = {patient(s) for split in ("train", "val") for s in radiographs[split].ids}
    expected = [patient(stem) in trained_on for stem in radiographs["test"].ids]
    assert shared_patients(radiographs["test"]).tolist() == expected
    assert sum(expected) == 205


def test_training_images_have_no_masks(radiographs):
    with pytest.raises(UserError, match="'pneumonia' has no masks"):
        radiographs["train"].with_masks()
