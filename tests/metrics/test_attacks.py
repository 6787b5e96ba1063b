from dataclasses import replace

import pytest
import torch
import torchattacks
from helpers.oracles import Sees
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from topgap_nb.data.image_set import ImageSet
from topgap_nb.data.registry import open_dataset
from topgap_nb.errors import UserError
from topgap_nb.metrics.attacks import (
    LOSSES,
    _equal_areas,
    attack,
    attack_distance,
    is_robust,
    pgd,
    smallest_epsilon,
    worst_case,
)
from topgap_nb.metrics.cam import own_cam
from topgap_nb.metrics.localisation import mask_iou, moved_masks

EPSILON = 8 / 255


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 9, 4),
    ).eval()  # fmt: skip


@pytest.fixture
def batch(net):
    torch.manual_seed(1)
    images = torch.rand(16, 3, 16, 16)
    return images, net(images).argmax(1)


def test_pgd_equals_torchattacks_step_for_step(net, batch):
    for steps in (1, 2, 7):
        theirs = torchattacks.PGD(net, EPSILON, EPSILON / 4, steps, random_start=False)(*batch)
        ours = pgd(net, *batch, EPSILON, steps, random_start=False, early_stop=False)
        torch.testing.assert_close(ours.images, theirs, rtol=0, atol=1e-7)
        assert ours.robust.tolist() == (net(theirs).argmax(1) == batch[1]).tolist()


def test_pgd_equals_torchattacks_from_the_same_random_start(net, batch, monkeypatch):
    noise = torch.rand(batch[0].shape, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(
        torch.Tensor, "uniform_", lambda self, low, high: self.copy_(low + (high - low) * noise)
    )
    theirs = torchattacks.PGD(net, EPSILON, EPSILON / 4, 5, random_start=True)(*batch)
    ours = pgd(net, *batch, EPSILON, 5, early_stop=False, seed=5)
    torch.testing.assert_close(ours.images, theirs, rtol=0, atol=1e-6)


def test_fgsm_equals_torchattacks(net, batch):
    theirs = torchattacks.FGSM(net, EPSILON)(*batch)
    ours = attack(net, *batch, "fgsm", EPSILON, early_stop=False)
    torch.testing.assert_close(ours.images, theirs, rtol=0, atol=1e-7)


def test_early_stopping_never_finds_less(net, batch):
    patient = pgd(net, *batch, EPSILON / 2, 10, early_stop=False)
    early = pgd(net, *batch, EPSILON / 2, 10)
    assert not (early.robust & ~patient.robust).any()
    assert 0 < early.robust.sum() < len(batch[1])
    assert (net(early.images).argmax(1) == batch[1]).tolist() == early.robust.tolist()


def test_the_budget_and_the_mask_are_kept(net, batch):
    images, labels = batch
    mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    mask[:, 4:9, 2:12] = True
    for early_stop in (True, False):
        found = pgd(net, images, labels, EPSILON, 8, mask=mask, early_stop=early_stop).images
        change = (found - images).abs()
        assert change.max() <= EPSILON + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1
        assert change.masked_select(~mask[:, None].expand_as(change)).max() == 0
        assert change.max() > 0


def test_robust_images_are_those_that_the_attack_leaves(net, batch):
    options = {"epsilon": EPSILON / 2, "steps": 5, "batch_size": 6, "seed": 3, "loss": "margin"}
    robust = is_robust(net, *batch, "pgd", **options)
    assert robust.equal(attack(net, *batch, "pgd", **options).robust)
    assert 0 < robust.sum() < len(batch[1])


def test_a_clean_error_counts_as_not_robust(net, batch):
    images, labels = batch
    wrong = (labels + 1) % 4
    for name in ("fgsm", "pgd", "square", "autoattack"):
        assert not attack(net, images, wrong, name, 0.0, steps=2).robust.any()


def test_restarts_only_lower_robust_accuracy(net, batch):
    once = pgd(net, *batch, EPSILON / 2, 3, seed=0)
    often = pgd(net, *batch, EPSILON / 2, 3, restarts=4, seed=0)
    assert not (often.robust & ~once.robust).any()


def test_square_equals_torchattacks(net, batch):
    theirs = torchattacks.Square(net, eps=EPSILON, n_queries=30, seed=3)(*batch)
    ours = attack(net, *batch, "square", EPSILON, steps=30, seed=3)
    torch.testing.assert_close(ours.images, theirs)


def test_attacks_leave_the_global_generator_alone(net, batch):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    attack(net, *batch, "square", EPSILON, steps=5)
    attack(net, *batch, "pgd", EPSILON, steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_worst_case_is_taken_per_image():
    first = torch.tensor([True, True, False, False])
    second = torch.tensor([True, False, True, False])
    assert worst_case(first, second).tolist() == [True, False, False, False]


@pytest.mark.parametrize("scale", [-1.0, 3.0])
def test_images_outside_the_unit_range_are_refused(net, batch, scale):
    with pytest.raises(UserError, match=r"\[0, 1\]"):
        pgd(net, scale * batch[0], batch[1], EPSILON, 1)


def test_an_epsilon_in_grey_levels_is_refused_with_what_was_meant(net, batch):
    with pytest.raises(UserError, match="8/255"):
        attack(net, *batch, "pgd", 8)


def test_unknown_and_unmaskable_attacks_are_refused(net, batch):
    with pytest.raises(UserError, match="unknown"):
        attack(net, *batch, "deepfool", EPSILON)
    with pytest.raises(UserError, match="mask"):
        attack(net, *batch, "square", EPSILON, mask=torch.ones(16, 16, 16, dtype=torch.bool))


@pytest.fixture
def planted():
    images = open_dataset("planted", image_size=32).test.subset(range(6))
    return replace(images, labels=torch.zeros(6, dtype=torch.long))


def test_attack_distance_of_a_network_that_sees_only_the_object_is_one(planted):
    outcome = attack_distance(Sees(planted.images, planted.masks), planted)
    assert outcome.per_image.tolist() == [1.0] * 6


def test_attack_distance_of_a_network_that_sees_only_the_background_is_minus_one(planted):
    outcome = attack_distance(Sees(planted.images, ~planted.masks), planted)
    assert outcome.per_image.tolist() == [-1.0] * 6


class Alike(nn.Module):
    """Two classes by the mean of all pixel values, which all count the same."""

    def forward(self, images):
        above = 100 * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([above, -above], 1)


def grey(masks, level):
    """Images of one grey above the border of ``Alike``, so that the first class is right."""
    count, height, width = masks.shape
    pixels = torch.full((count, 3, height, width), level, dtype=torch.uint8)
    labels = torch.zeros(count, dtype=torch.long)
    return ImageSet("grey", pixels, labels, ("a", "b"), ("",) * count, masks)


def object_of(share, count=6, side=20):
    return (torch.arange(side) < share * side)[:, None].expand(count, side, side)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 0.7, 0.95])
def test_attack_distance_is_zero_for_a_network_that_uses_all_pixels_alike(share):
    # 2.5 grey levels above the border: a budget of 5 breaks it in exactly half of the pixels.
    images = grey(object_of(share), 130)
    for epsilon in (0.5 * 2.5 / min(share, 1 - share) / 255, 2 * 2.5 / min(share, 1 - share) / 255):
        outcome = attack_distance(Alike(), images, min(epsilon, 1.0))
        assert outcome.per_image.tolist() == [0] * 6
        assert outcome.object_robust.all() == (epsilon * 255 < 2.5 / min(share, 1 - share))


def test_the_whole_background_is_favoured_by_its_area_alone():
    images = grey(object_of(0.1), 130)
    whole = attack_distance(Alike(), images, 5 / 255, background="whole")
    assert whole.per_image.tolist() == [-1] * 6
    assert attack_distance(Alike(), images, 5 / 255).per_image.tolist() == [0] * 6


@given(side=st.integers(2, 9), share=st.floats(0, 1), seed=st.integers(0, 99), shape=st.booleans())
def test_both_regions_are_equally_large_and_on_their_own_side(side, share, seed, shape):
    draw = torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))
    masks = draw < share if shape else object_of(share, 3, side)
    on_object, on_background = _equal_areas(masks, seed)
    inside = masks.sum((1, 2))
    assert on_object.sum((1, 2)).equal(torch.minimum(inside, side**2 - inside))
    assert on_background.sum((1, 2)).equal(on_object.sum((1, 2)))
    assert not (on_object & ~masks).any()
    assert not (on_background & masks).any()


def test_an_object_that_fits_elsewhere_is_moved_there_whole(planted):
    on_object, on_background = _equal_areas(planted.masks, 0)
    assert on_object.equal(planted.masks)
    assert on_background.equal(moved_masks(planted.masks, 0))


def test_an_unknown_background_is_refused(planted):
    with pytest.raises(UserError, match="'all' is unknown: use 'equal_area' or 'whole'"):
        attack_distance(Alike(), planted, background="all")


# The smallest budget


@pytest.fixture
def linear():
    """A linear network of two classes, images in the middle of the range, and their budgets."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 2)).eval()
    images = 0.4 + 0.2 * torch.rand(40, 3, 6, 6)
    with torch.no_grad():
        net[1].bias -= net(images).mean(0)
        logits = net(images)
    weights = net[1].weight[1] - net[1].weight[0]
    return net, images, (logits[:, 1] - logits[:, 0]).abs() / weights.abs().sum()


@pytest.mark.parametrize(("name", "steps"), [("fgsm", 1), ("pgd", 20)])
def test_the_smallest_budget_of_a_linear_network_is_margin_over_l1_norm(linear, name, steps):
    net, images, exact = linear
    labels = net(images).argmax(1)
    budgets = torch.linspace(0.1, 1.1, 9) * exact.median().item()
    found = smallest_epsilon(net, images, labels, name, budgets.tolist(), steps)
    index = torch.searchsorted(budgets, exact)
    expected = torch.cat([budgets, torch.tensor([torch.inf])])[index]
    torch.testing.assert_close(found, expected)
    assert 5 < found.isinf().sum() < 35


def test_the_smallest_budget_does_not_depend_on_the_order_of_the_grid(linear):
    net, images, _ = linear
    labels = net(images).argmax(1)
    grid = [0.002, 0.0005, 0.008, 0.001, 0.004]
    found = smallest_epsilon(net, images, labels, epsilons=grid, steps=5)
    assert found.equal(smallest_epsilon(net, images, labels, epsilons=sorted(grid), steps=5))
    assert len(set(found.tolist())) > 3


def test_a_clean_error_needs_no_budget(linear):
    net, images, _ = linear
    labels = net(images).argmax(1)
    labels[:7] = 1 - labels[:7]
    found = smallest_epsilon(net, images, labels, epsilons=[0.25], steps=10)
    assert found.tolist() == [0.0] * 7 + [0.25] * 33


def test_broken_images_are_not_attacked_again(linear):
    net, images, exact = linear
    labels = net(images).argmax(1)
    seen = []

    class Counting(nn.Module):
        def forward(self, batch):
            seen.append(len(batch))
            return net(batch)

    half = 1.001 * exact.median().item()
    smallest_epsilon(Counting(), images, labels, "fgsm", [0.5, half])
    # The clean pass and those of the first budget see all images, those of the second the others.
    assert seen[0] == seen[1] == 40
    assert seen[-2] == int((exact > half).sum()) < 40


def test_a_grid_of_grey_levels_is_refused(linear):
    net, images, _ = linear
    with pytest.raises(UserError, match="8 of 255 grey levels is 8/255"):
        smallest_epsilon(net, images, net(images).argmax(1), epsilons=[1, 8])


def test_overlap_of_an_oracle_is_one_and_of_its_opposite_zero(planted):
    for region, ideal in ((planted.masks, 1.0), (~planted.masks, 0.0)):
        cams = own_cam(Sees(planted.images, region), planted.images, planted.labels)
        assert mask_iou(cams, planted.masks).tolist() == [ideal] * 6


def test_attack_distance_without_masks_is_refused(planted):
    with pytest.raises(UserError, match="masks"):
        attack_distance(nn.Flatten(), replace(planted, masks=None))


# Losses


def logits_of(*rows):
    return torch.tensor(rows, requires_grad=True)


def test_losses_by_hand():
    logits, labels = logits_of([3.0, 1.0, 0.5], [0.0, 2.0, -2.0]), torch.tensor([0, 0])
    torch.testing.assert_close(LOSSES["margin"](logits, labels), torch.tensor([-2.0, 2.0]))
    torch.testing.assert_close(LOSSES["dlr"](logits, labels), torch.tensor([-0.8, 0.5]))
    # Gaps of 2 between the two largest: the logits are halved.
    expected = nn.functional.cross_entropy(logits / 2, labels, reduction="none")
    torch.testing.assert_close(LOSSES["rescaled"](logits, labels), expected)


@pytest.mark.parametrize("loss", ["margin", "dlr", "rescaled"])
def test_other_losses_have_a_gradient_where_that_of_cross_entropy_underflows(loss):
    labels = torch.tensor([0])
    gradients = {}
    for name in ("cross_entropy", loss):
        logits = logits_of([300.0, 100.0, 50.0])
        gradients[name] = torch.autograd.grad(LOSSES[name](logits, labels).sum(), logits)[0]
    assert (gradients["cross_entropy"] == 0).all()
    assert gradients[loss][0, 0] < 0 < gradients[loss][0, 1]


def test_a_loss_that_is_unknown_or_does_not_fit_is_refused(net, batch):
    with pytest.raises(UserError, match="loss 'hinge' is unknown: use cross_entropy, margin"):
        pgd(net, *batch, EPSILON, 1, loss="hinge")
    two = nn.Sequential(net, nn.Linear(4, 2))
    with pytest.raises(UserError, match="at least 3 classes, not 2"):
        pgd(two, batch[0], two(batch[0]).argmax(1), EPSILON, 1, loss="dlr")


# AutoAttack


def test_autoattack_breaks_all_that_torchattacks_breaks(net, batch):
    epsilon, batch = 0.015, [part[:8] for part in batch]
    theirs = torchattacks.AutoAttack(net, eps=epsilon, n_classes=4, seed=0)(*batch)
    withstood = net(theirs).argmax(1) == batch[1]
    ours = attack(net, *batch, "autoattack", epsilon, steps=10)
    assert 0 < ours.robust.sum() < len(batch[1])
    assert not (ours.robust & ~withstood).any()
    assert (ours.images - batch[0]).abs().max() <= epsilon + 1e-6
    assert (net(ours.images).argmax(1) == batch[1]).equal(ours.robust)


def test_autoattack_with_two_classes_needs_no_targeted_attack(net, batch):
    last = nn.Linear(4, 2)
    two = nn.Sequential(net, last).eval()
    with torch.no_grad():
        # Both classes occur, and no image is far from the border between them.
        last.bias -= two(batch[0]).median(0).values
        labels = two(batch[0]).argmax(1)
    robust = attack(two, batch[0], labels, "autoattack", 0.2, steps=5, queries=20).robust
    assert robust.sum() < len(labels)
