import pytest
import torch
import torch.nn.functional as F
from torch import nn

from topgap_nb.errors import UserError
from topgap_nb.method.model import StandardNet, TopGapNet
from topgap_nb.method.pooling import top_k_pool
from topgap_nb.metrics.attacks import attack
from topgap_nb.metrics.gradient_masking import (
    GradientMaskingReport,
    adaptive_networks,
    gradient_masking_report,
)

EPSILON = 0.06
BUDGET = {"steps": 10, "longest": 30, "restarts": 1, "queries": 150}


def halves(count, seed):
    """Images whose upper, lower or left half is brighter, by a contrast that varies."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.4 + 0.03 * torch.randn(count, 3, 12, 12, generator=draw)
    contrast = 0.03 + 0.25 * torch.rand(count, 1, 1, 1, generator=draw)
    for label, where in enumerate(((slice(0, 6), slice(None)), (slice(6, 12), slice(None)),
                                   (slice(None), slice(0, 6)))):  # fmt: skip
        images[labels == label, :, where[0], where[1]] += contrast[labels == label]
    return images.clamp(0, 1), labels


@pytest.fixture(scope="module")
def hardened():
    """A small network trained against one-step attacks from random starts."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ELU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(128, 3)
    )
    images, labels = halves(300, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(150):
        start = (images + EPSILON * (2 * torch.rand_like(images) - 1)).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(start), labels), start)
        change = (start.detach() + EPSILON * gradient.sign() - images).clamp(-EPSILON, EPSILON)
        optimizer.zero_grad()
        F.cross_entropy(net((images + change).clamp(0, 1)), labels).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def batch():
    return halves(60, seed=1)


class Before(nn.Module):
    """A network behind something."""

    def __init__(self, first, net):
        super().__init__()
        self.first, self.net = first, net

    def forward(self, images):
        return self.net(self.first(images))


def test_an_adversarially_trained_network_passes(hardened, batch):
    report = gradient_masking_report(hardened, *batch, EPSILON, **BUDGET)
    assert report.failed == [], str(report)
    assert report.verdict == "no masking found"
    assert 0.3 < report.worst_case.float().mean() < 0.95
    assert (report.worst_case <= report.plain).all()


TRICKS = {
    "quantised input": lambda net: Before(lambda x: (x * 16).round() / 16, net),
    "temperature": lambda net: Before(net, lambda z: 3000 * z),
    "saturated sigmoid": lambda net: Before(net, lambda z: torch.sigmoid(300 * z) * 5),
}


@pytest.mark.parametrize(
    ("trick", "caught"),
    [
        ("quantised input", ["gradients that are exactly zero", "Square, which sees no gradient",
                             "accuracy against epsilon (of 255)"]),
        ("temperature", ["gradients that are exactly zero", "PGD on the margin",
                         "PGD on rescaled logits"]),
        ("saturated sigmoid", ["gradients that are exactly zero"]),
    ],
)  # fmt: skip
def test_what_hides_the_gradient_is_caught(hardened, batch, trick, caught):
    net = TRICKS[trick](hardened)
    report = gradient_masking_report(net, *batch, EPSILON, surrogate=hardened, **BUDGET)
    assert report.verdict == "plain PGD overstates the robustness"
    assert set(caught) <= set(report.failed), str(report)
    assert "PGD along a surrogate's gradient" in report.failed
    assert report.worst_case.float().mean() < report.plain.float().mean() - 0.1


class Stripes(nn.Module):
    """Two classes, by which of two halves is brighter; the logits differ by ``scale`` times that.

    An attack moves the difference by twice the budget at most.
    """

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, images):
        half = images.shape[-1] // 2
        difference = images[..., :half].mean((1, 2, 3)) - images[..., half:].mean((1, 2, 3))
        return self.scale * torch.stack([difference, -difference], 1)


def stripes(difference, count=40):
    images = torch.full((count, 3, 8, 8), 0.5)
    images[..., :4] += difference
    return images, torch.zeros(count, dtype=torch.long)


# A difference of 0.1 is gone at a budget of 0.05. Scaled by 2000, the logits are 400 apart, where
# float32 has neither a cross-entropy nor a gradient of it.
QUICK = {"steps": 20, "longest": 20, "restarts": 1, "queries": 20}


def test_saturation_is_named_first_where_it_misleads_plain_pgd():
    report = gradient_masking_report(Stripes(2000), *stripes(0.1), EPSILON, **QUICK)
    assert report.plain.all()
    assert not report.worst_case.any()
    assert report.verdict == "plain PGD overstates the robustness"
    assert report.failed[:3] == [
        "saturation: largest logit minus second",
        "saturation: cross-entropy that is exactly 0",
        "gradients that are exactly zero",
    ]
    rows = {row["check"]: row for row in report.rows}
    assert rows["saturation: largest logit minus second"]["value"] == pytest.approx(400, rel=1e-4)
    assert rows["saturation: cross-entropy that is exactly 0"]["value"] == 1
    assert rows["gradients that are exactly zero"]["value"] == 1
    assert rows["PGD on the margin"]["value"] == 1
    assert report.masking_gap.tolist() == [1] * 40


def test_the_same_decisions_without_saturation_leave_nothing_to_mask():
    report = gradient_masking_report(Stripes(20), *stripes(0.1), EPSILON, **QUICK)
    assert report.verdict == "plain PGD breaks every image, which leaves nothing to mask"
    assert report.rows[0]["value"] == pytest.approx(4, rel=1e-4)
    assert report.masking_gap.tolist() == [0] * 40


@pytest.mark.parametrize("scale", [20, 100])
def test_a_network_that_is_robust_passes_also_where_its_cross_entropy_is_zero(scale):
    # A difference of 0.4 needs a budget of 0.2.
    report = gradient_masking_report(Stripes(scale), *stripes(0.4), EPSILON, **QUICK)
    assert report.failed == [], str(report)
    assert report.verdict == "no masking found"
    assert report.worst_case.all()
    zero = next(row for row in report.rows if "exactly 0" in row["check"])
    assert zero["value"] == (0 if scale == 20 else 1)


def test_a_robust_network_without_gradient_shows_signs_and_loses_nothing():
    report = gradient_masking_report(Stripes(2000), *stripes(0.4), EPSILON, **QUICK)
    assert report.verdict.startswith("signs of masking, but all attacks together")
    assert "gradients that are exactly zero" in report.failed
    assert not report.masking_gap.any()


def test_no_gradient_attack_takes_fewer_steps_than_plain_pgd():
    taken = []

    class Counting(Stripes):
        def forward(self, images):
            taken.append(torch.is_grad_enabled() and images.requires_grad)
            return super().forward(images)

    few = {"steps": 1, "longest": 1, "restarts": 1, "queries": 1}
    counts = []
    for budget in (few, few | {"steps": 20, "longest": 20}):
        taken.clear()
        report = gradient_masking_report(Counting(20), *stripes(0.4, 2), EPSILON, **budget)
        counts.append(sum(taken))
    assert counts[0] == counts[1] > 5 * 20
    assert "PGD with 20 steps, 1 start" in set(report.table.check)


def test_many_attacks_that_each_break_a_little_are_counted_together():
    report = GradientMaskingReport(0.1, torch.ones(40) > 0, torch.ones(40) > 0)
    for start in (0, 2):
        robust = torch.ones(40, dtype=torch.bool)
        robust[start : start + 2] = False
        report.judge("an attack", robust)
        assert report.failed == []
    assert report.verdict == "plain PGD overstates the robustness"
    report.judge("everything together", report.worst_case)
    assert report.failed == ["everything together"]


def test_a_random_classifier_is_judged_by_its_mean(hardened, batch):
    some = [part[:36] for part in batch]
    certain = gradient_masking_report(hardened, *some, EPSILON, **QUICK)
    assert certain.draws == 0
    assert certain.summary.startswith("epsilon = ")
    # Noise on the logits changes answers, and its mean over the draws is nearly 0.
    with torch.no_grad():
        spread = hardened(batch[0]).std().item()
    noisy = Before(hardened, lambda z: z + 0.5 * spread * torch.randn_like(z))
    report = gradient_masking_report(noisy, *some, EPSILON, **QUICK)
    assert report.draws == 32
    assert report.summary.startswith("The classifier is random, two passes")
    for ours, theirs in ((report.plain, certain.plain), (report.worst_case, certain.worst_case)):
        assert (ours.float().mean() - theirs.float().mean()).abs() < 0.12
    again = gradient_masking_report(noisy, *some, EPSILON, **QUICK)
    assert again.rows == report.rows


@pytest.mark.parametrize("wrong", ["steps", "longest", "restarts", "queries"])
@pytest.mark.parametrize("value", [0, -1])
def test_no_effort_at_all_is_refused(wrong, value):
    with pytest.raises(UserError, match=f"{wrong} = {value} is not a whole number from 1"):
        gradient_masking_report(Stripes(20), *stripes(0.4, 2), EPSILON, **{wrong: value})


def test_the_worst_case_of_a_hidden_gradient_is_that_of_the_network_behind_it(hardened, batch):
    behind = gradient_masking_report(hardened, *batch, EPSILON, **BUDGET)
    hidden = gradient_masking_report(TRICKS["temperature"](hardened), *batch, EPSILON, **BUDGET)
    assert (behind.worst_case == hidden.worst_case).float().mean() > 0.95


def test_images_that_are_wrong_already_are_not_robust(hardened, batch):
    images, labels = batch
    report = gradient_masking_report(hardened, images, (labels + 1) % 3, EPSILON, **BUDGET)
    assert not report.plain.any()
    assert not report.worst_case.any()
    assert report.verdict == "plain PGD breaks every image, which leaves nothing to mask"
    words = report.table.set_index("check").verdict
    assert words["PGD on the margin"] == words["AutoAttack"] == "–"


class Fragile(nn.Module):
    """Right on grey images until most pixels change by all of the budget, and without a gradient.

    Only images with a bright corner are fragile. Random starts of PGD change the pixels by half of
    the budget on average; random signs by all of it.
    """

    def forward(self, images):
        change = (images - 0.5)[:, :, 1:].abs().mean((1, 2, 3))
        broken = (images[:, 0, 0, 0] > 0.8) & (change > 0.9 * EPSILON)
        return torch.stack([~broken, broken], 1) + 0 * images.sum((1, 2, 3))[:, None]


@pytest.mark.parametrize("count", [20, 40])
def test_one_image_in_twenty_is_at_most_the_tolerance(count):
    for fragile, passed in ((count // 20, True), (count // 20 + 1, False)):
        images = torch.full((count, 3, 8, 8), 0.5)
        images[:fragile, :, 0] = 0.9
        labels = torch.zeros(count, dtype=torch.long)
        budget = {"steps": 2, "longest": 2, "restarts": 1, "queries": 5}
        report = gradient_masking_report(Fragile(), images, labels, EPSILON, **budget)
        rows = {row["check"]: row for row in report.rows}
        assert report.plain.all()
        assert rows["noise of the same size"]["value"] == pytest.approx(fragile / count)
        assert rows["noise of the same size"]["passed"] is passed


def test_the_table_has_a_rule_and_a_verdict_for_each_check(hardened, batch):
    images, labels = batch
    report = gradient_masking_report(hardened, images[:6], labels[:6], EPSILON, **BUDGET)
    assert list(report.table) == ["check", "found", "rule", "verdict"]
    assert set(report.table.verdict) <= {"passed", "failed", "–"}
    assert (report.table.rule == "–").equals(report.table.verdict == "–") == report.plain.any()
    assert str(report).startswith(f"epsilon = {255 * EPSILON:g}/255, n = 6: ")


def test_a_budget_in_grey_levels_is_refused(hardened, batch):
    with pytest.raises(UserError, match="8 of 255 grey levels is 8/255"):
        gradient_masking_report(hardened, *batch, 8)


# What is made for top-k pooling


def test_networks_to_follow_share_weights_and_leave_the_network_as_it_is():
    net = TopGapNet("test_resnet", 3, k=4).eval()
    nn.init.normal_(net.head.classifier.weight)
    images = torch.rand(2, 3, 32, 32)
    before = net(images)
    followed = adaptive_networks(net)
    assert len(followed) == 3
    torch.testing.assert_close(
        followed["average pooling"](images), net.class_maps(images).mean((2, 3))
    )
    torch.testing.assert_close(net(images), before)
    assert net.pool.k == 4


def test_only_networks_with_class_maps_have_any():
    assert list(adaptive_networks(StandardNet("test_resnet", 3))) == [
        "the class maps before pooling"
    ]
    assert adaptive_networks(StandardNet("vgg11_bn", 3)) == {}
    assert adaptive_networks(nn.Flatten()) == {}


def test_a_softened_top_k_lies_near_the_hard_one_and_reaches_every_position():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 6, 6, requires_grad=True)
    soft_pool = adaptive_networks(TopGapNet("test_resnet", 3, k=9))["a softened top-k"].pool
    soft, hard = soft_pool(maps), top_k_pool(maps, 9)
    assert (soft < hard).all()
    assert (soft > top_k_pool(maps, 1.0)).all()
    (gradient,) = torch.autograd.grad(soft.sum(), maps)
    assert (gradient != 0).float().mean() > 0.95
    (gradient,) = torch.autograd.grad(hard.sum(), maps)
    assert (gradient != 0).float().mean() == 0.25


def test_a_followed_network_leads_the_way_and_the_model_judges(hardened, batch):
    given = *batch, "pgd", EPSILON, 10
    alone = attack(hardened, *given).robust
    assert attack(hardened, *given, follow=hardened).robust.equal(alone)
    away = Before(hardened, lambda logits: -logits)
    astray = attack(hardened, *given, follow=away, random_start=False).robust
    clean = hardened(batch[0]).argmax(1) == batch[1]
    assert astray.equal(clean)
    assert alone.sum() < clean.sum()
