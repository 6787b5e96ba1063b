import numpy as np
import pytest
import torch
from helpers import layouts
from helpers.layouts import open_split

from topgap_nb import ImageSet, UserError, open_dataset
from topgap_nb.data.splits import fold_of, grouped_folds, stratified_split


@pytest.fixture(scope="module")
def patients():
    draw = torch.Generator().manual_seed(0)
    owner = torch.randint(60, (300,), generator=draw)
    labels = (torch.rand(300, generator=draw) < 0.3).long()
    return ImageSet(
        name="patients",
        pixels=torch.zeros(300, 1, 1, 1, dtype=torch.uint8),
        labels=labels,
        class_names=("ill", "well"),
        ids=tuple(map(str, range(300))),
        subject_ids=tuple(f"patient {number}" for number in owner.tolist()),
    )


def test_a_share_of_every_class_is_given_away_and_always_the_same():
    labels = np.array([0] * 16 + [1] * 3 + [2])
    train = np.full(20, "train", object)
    splits = stratified_split(train, labels, 1 / 8)
    assert [(splits[labels == c] == "val").sum() for c in (0, 1, 2)] == [2, 1, 0]
    assert (splits == stratified_split(train, labels, 1 / 8)).all()
    assert (train == "train").all()
    test = np.full(20, "test", object)
    assert (stratified_split(test, labels, 1 / 8) == test).all()


def test_folds_hold_out_every_image_once(patients):
    held_out = [name for fold in range(5) for name in fold_of(patients, fold, 5)[1].ids]
    assert sorted(held_out) == sorted(patients.ids)


@pytest.mark.parametrize("fold", range(5))
def test_a_fold_and_the_rest_share_no_patient_and_have_the_same_balance(patients, fold):
    rest, held_out = fold_of(patients, fold, 5)
    assert set(rest.ids) | set(held_out.ids) == set(patients.ids)
    assert not set(rest.subject_ids) & set(held_out.subject_ids)
    assert abs(len(held_out) - 60) <= 10
    share = patients.labels.float().mean()
    assert abs(held_out.labels.float().mean() - share) < 0.08


def test_the_seed_decides_the_folds_and_indices_ascend(patients):
    one, again, other = (
        grouped_folds(patients.labels.numpy(), patients.subject_ids, 4, seed) for seed in (0, 0, 1)
    )
    for (rest, held_out), (_, same) in zip(one, again, strict=True):
        assert (held_out == same).all()
        assert (np.diff(rest) > 0).all()
        assert (np.diff(held_out) > 0).all()
    assert any(
        len(a) != len(b) or (a != b).any() for (_, a), (_, b) in zip(one, other, strict=True)
    )


def test_a_folded_set_is_divided_image_by_image_and_keeps_its_test_split():
    options = {"images": 48, "classes": 4}
    data = open_dataset("planted", 32, fold=2, folds=4, **options)
    assert (len(data.train), len(data.val)) == (36, 12)
    assert not set(data.train.ids) & set(data.val.ids)
    assert data.val.labels.bincount().tolist() == [3, 3, 3, 3]
    whole = open_dataset("planted", 32, **options)
    assert set(data.train.ids) | set(data.val.ids) == set(whole.train.ids)
    assert data.test.ids == whole.test.ids
    fewer = open_dataset("planted", 32, fold=2, folds=4, train_images=20, **options)
    assert fewer.train.ids == data.train.sample(20).ids
    assert fewer.val.ids == data.val.ids


def test_no_class_may_have_fewer_images_than_folds(root):
    layouts.wbc(root, 12)
    train = open_split("wbc", "train", 16, min_samples=2)
    assert np.bincount(train.labels).tolist() == [3, 3]
    rest, held_out = fold_of(train, 0, 3)
    assert (len(rest), len(held_out)) == (4, 2)
    with pytest.raises(UserError, match="has 3 training images, fewer than the 4 folds") as refused:
        fold_of(train, 0, 4)
    assert "\n" not in str(refused.value)
