"""Is the robustness real? One report for any classifier of images in [0, 1].

Plain PGD must break about as many images as attacks that see less, that try harder, or that look
elsewhere. What any of them breaks is broken, so the report ends in the worst case per image. It
begins with what is easiest to overlook: logits so far apart that the cross-entropy, which plain PGD
climbs, is exactly 0.

Source: the checks of Athalye et al. 2018, https://arxiv.org/abs/1802.00420, Carlini et al. 2019,
https://arxiv.org/abs/1902.06705, and Tramer et al. 2020, https://arxiv.org/abs/2002.08347, with
thresholds of our own; the attacks on top-k pooling are ours.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor, nn
from tqdm.auto import tqdm

from topgap_nb.inputs import as_logits, gated
from topgap_nb.method.model import MapClassifier
from topgap_nb.method.pooling import TopKPool2d, is_average, pixel_constraint
from topgap_nb.metrics.attacks import attack, cross_entropy, is_robust, margin
from topgap_nb.metrics.evaluation import eval_on_device
from topgap_nb.store.cached import cached

PLAIN_STEPS = 20
# A share of all images; smaller differences are those between two random starts. Float32 puts one
# image of 20 above 0.05.
TOLERANCE = 0.05 + 1e-6
NOISE_DRAWS = 20
# Of a random classifier; the mean of so many has a sixth of the spread of one.
CLASSIFIER_DRAWS = 32
# Below 10 to this of the margin's gradient, sums in float32 lose that of the cross-entropy.
MIN_LOG_RATIO = -6
UNLESS = ", or PGD on the margin is no stronger"


@dataclass
class GradientMaskingReport:
    """The checks of one network at one budget.

    Attributes:
        epsilon: budget in [0, 1] pixels.
        plain: (N,) bool, which images withstand plain PGD (20 steps, one start).
        worst_case: (N,) bool, which withstand everything that was tried.
        rows: one per check: ``check``; ``value``, its number; ``found``, the number in words;
            ``rule``; ``passed`` (None: no rule, or nothing to judge).
        draws: 0 for a deterministic classifier; of a random one, how many passes the network
            averages that is judged and attacked in its place.
    """

    epsilon: float
    plain: Tensor
    worst_case: Tensor
    rows: list[dict] = field(default_factory=list)
    draws: int = 0

    def add(self, check: str, value: float, found: str, rule="–", passed=None) -> None:
        """Add the row of a check."""
        row = {"check": check, "value": value, "found": found, "rule": rule, "passed": passed}
        self.rows.append(row)

    def judge(self, check: str, robust: Tensor) -> None:
        """Add the row of an attack, from the images that withstand it: (N,) bool."""
        self.worst_case &= robust
        more = (self.plain & ~robust).float().mean().item()
        # Where plain PGD breaks every image, an attack that breaks no more has shown nothing.
        passed = more <= TOLERANCE if self.plain.any() else None
        found = f"breaks {more:.3f} more than plain PGD"
        self.add(check, more, found, f"at most {TOLERANCE:.2g} more", passed)

    @property
    def table(self) -> pd.DataFrame:
        """The checks as a table: check, found, rule, verdict."""
        words = {True: "passed", False: "failed", None: "–"}
        rows = [{**row, "verdict": words[row["passed"]]} for row in self.rows]
        return pd.DataFrame(rows)[["check", "found", "rule", "verdict"]]

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [row["check"] for row in self.rows if row["passed"] is False]

    @property
    def masking_gap(self) -> Tensor:
        """(N,): 1 where plain PGD leaves an image that something else breaks, and 0 elsewhere.

        The mean is robust accuracy under plain PGD minus that in the worst case. What a method adds
        to it is the difference to another network's over the same images.
        """
        return self.plain.float() - self.worst_case.float()

    @property
    def verdict(self) -> str:
        """The result of all checks, in a few words."""
        if not self.plain.any():
            return "plain PGD breaks every image, which leaves nothing to mask"
        if self.masking_gap.mean() > TOLERANCE:
            return "plain PGD overstates the robustness"
        if self.failed:
            return "signs of masking, but all attacks together break about what plain PGD does"
        return "no masking found"

    @property
    def summary(self) -> str:
        """The verdict, and both robust accuracies with their 95 % Wilson intervals."""
        shares = []
        for robust in (self.plain, self.worst_case):
            test = binomtest(int(robust.sum()), len(robust))
            low, high = test.proportion_ci(method="wilson")
            shares.append(f"{test.statistic:.3f} [{low:.3f}, {high:.3f}]")
        kind = ""
        if self.draws:
            kind = (
                "The classifier is random, two passes over the same images differ; what is judged "
                f"and attacked is the mean of its logits over {self.draws} passes. "
            )
        return (
            f"{kind}epsilon = {255 * self.epsilon:g}/255, n = {len(self.plain)}: {self.verdict}. "
            f"Robust accuracy {shares[0]} under plain PGD, {shares[1]} in the worst case."
        )

    def __str__(self) -> str:
        return f"{self.summary}\n{self.table.to_string(index=False)}"

    def _repr_html_(self) -> str:
        return f"<p>{self.summary}</p>{self.table.to_html(index=False)}"


@gated
@cached(outcome=GradientMaskingReport)
def gradient_masking_report(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    surrogate: nn.Module | None = None,
    steps: int = 40,
    longest: int = 200,
    restarts: int = 3,
    queries: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> GradientMaskingReport:
    """Return the gradient masking report of a classifier at one budget.

    Every further attack runs only on the images that withstood plain PGD. Of a classifier whose
    answers are random, the mean of its logits over many passes is judged and attacked (expectation
    over transformation, Athalye et al. 2018).

    Args:
        model, images, labels, epsilon: as in ``attack``; a failed check means little with fewer
            than 50 images.
        surrogate: another network for the same classes, whose perturbations are transferred.
        steps: of PGD with other losses, step sizes and networks to follow; never fewer than the 20
            of plain PGD and of AutoAttack, since a weaker attack that breaks no more shows nothing.
        longest: steps of the longest PGD, likewise; 1000 where time allows.
        restarts: random starts of the longest PGD.
        queries: of Square, alone and in AutoAttack; 5000 where time allows.
        seed: of everything random.
        progress: show a bar.

    Raises:
        UserError: images outside [0, 1], or a budget that is not in [0, 1] pixels.
    """
    steps, longest = max(steps, PLAIN_STEPS), max(longest, PLAIN_STEPS)
    with eval_on_device(model, surrogate or model) as place:
        images, labels = images.to(place), labels.to(place)
        draws = 0
        if _is_random(model, images[:64]):
            model, draws = _MeanOfPasses(model, CLASSIFIER_DRAWS, seed), CLASSIFIER_DRAWS
        plain = is_robust(model, images, labels, "pgd", epsilon, PLAIN_STEPS, seed=seed)
        report = GradientMaskingReport(epsilon, plain, plain.clone(), draws=draws)
        checks = _checks(
            report, model, images, labels, surrogate, steps, longest, restarts, queries, seed
        )
        for _ in tqdm(checks, desc="checks", unit="check", leave=False, disable=not progress):
            pass
    report.plain, report.worst_case = report.plain.cpu(), report.worst_case.cpu()
    return report


@torch.no_grad()
def _is_random(model: nn.Module, images: Tensor) -> bool:
    """Return whether two passes over the same images differ."""
    once, again = (as_logits(model(images), len(images)) for _ in range(2))
    # Sums on a GPU may differ in their last digits.
    return not torch.allclose(once, again, rtol=1e-3, atol=1e-3)


class _MeanOfPasses(nn.Module):
    """A random classifier's logits, averaged over passes that begin at the same seed each time.

    So a batch has the same answer whenever it is asked, and a gradient that is its own.
    """

    def __init__(self, model: nn.Module, passes: int, seed: int):
        super().__init__()
        self.model, self.passes, self.seed = model, passes, seed

    def forward(self, images: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return torch.stack([self.model(images) for _ in range(self.passes)]).mean(0)


def _checks(
    report, model, images, labels, surrogate, steps, longest, restarts, queries, seed
) -> Iterator[None]:
    """Add the rows of the report, and yield after each check."""
    plain = report.plain

    def withstood(name: str, steps: int, epsilon: float = report.epsilon, **options) -> Tensor:
        """Return (N,): which images withstand plain PGD and this attack."""
        robust = plain.clone()
        if robust.any():
            hard = (model, images[plain], labels[plain], name, epsilon, steps)
            robust[plain] = is_robust(*hard, seed=seed + 1, **options)
        return robust

    on_margin = withstood("pgd", steps, loss="margin")
    with torch.no_grad():
        logits = torch.cat([model(part) for part in images.split(64)])
    hits = logits.argmax(1) == labels
    if hits.any():
        # A wide gap between logits is no fault by itself: robust networks may have one. It is the
        # cause where plain PGD stops at it and an attack on the gap itself does not.
        harmless = (plain & ~on_margin).float().mean().item() <= TOLERANCE
        _check_saturation(report, logits[hits], labels[hits], harmless)
        _check_gradients(report, model, images[hits], labels[hits], harmless)
    report.judge("PGD on the margin", on_margin)
    yield
    noise = _withstand_noise(model, images[plain], labels[plain], report.epsilon, seed)
    report.judge("noise of the same size", plain.masked_scatter(plain, noise))
    yield
    report.judge("Square, which sees no gradient", withstood("square", queries))
    yield
    _check_budgets(report, partial(withstood, "pgd", PLAIN_STEPS))
    yield
    check = f"PGD with {longest} steps, {restarts} start{'s' if restarts > 1 else ''}"
    report.judge(check, withstood("pgd", longest, restarts=restarts))
    yield
    robust = plain.clone()
    for share in (1 / 16, 1 / 8, 1 / 2, 1):
        robust &= withstood("pgd", steps, step_size=share * report.epsilon)
    report.judge("PGD with steps of 1/16, 1/8, 1/2 and 1 of epsilon", robust)
    yield
    elsewhere = {"on rescaled logits": {"loss": "rescaled"}}
    with torch.no_grad():
        if model(images[:1]).shape[1] >= 3:
            elsewhere["on the DLR loss"] = {"loss": "dlr"}
    for words, network in adaptive_networks(model).items():
        elsewhere[f"through {words}"] = {"follow": network}
    if surrogate is not None:
        elsewhere["along a surrogate's gradient"] = {"follow": surrogate}
    for words, options in elsewhere.items():
        report.judge(f"PGD {words}", withstood("pgd", steps, **options))
        yield
    if surrogate is not None:
        _check_transfer(report, model, surrogate, images, labels, steps, seed)
        yield
    report.judge("AutoAttack", withstood("autoattack", PLAIN_STEPS, queries=queries))
    report.judge("everything together", report.worst_case)
    yield


def _check_saturation(report, logits, labels, harmless: bool) -> None:
    """Add the rows on logits that are too far apart for the cross-entropy."""
    largest, second = (values.mean().item() for values in logits.topk(2, dim=1).values.unbind(1))
    gap = largest - second
    # From here on, 1 plus the odds of the other classes rounds to 1.
    limit = -math.log(torch.finfo(logits.dtype).eps / 2)
    check, rule = "saturation: largest logit minus second", f"at most {limit:.1f}{UNLESS}"
    found = f"mean {gap:.1f}; mean largest {largest:.1f}"
    report.add(check, gap, found, rule, harmless or gap <= limit)
    zero = (cross_entropy(logits, labels) == 0).float().mean().item()
    check, rule = "saturation: cross-entropy that is exactly 0", f"at most {TOLERANCE:.2g}{UNLESS}"
    report.add(check, zero, f"{zero:.3f} of the images", rule, harmless or zero <= TOLERANCE)


def _check_gradients(report, model, images, labels, harmless: bool) -> None:
    """Add the rows on the gradient itself."""
    flat = _gradients(model, images, labels, cross_entropy)
    zero = (flat == 0).all(1).float().mean().item()
    found, rule = f"{zero:.3f} of the images", f"at most {TOLERANCE:.2g}"
    report.add("gradients that are exactly zero", zero, found, rule, zero <= TOLERANCE)
    pixels = (flat == 0).float().mean().item()
    report.add("pixels without gradient", pixels, f"{pixels:.3f} of all")
    ratio = flat.norm(dim=1) / _gradients(model, images, labels, margin).norm(dim=1).clamp(1e-30)
    median = ratio.median().clamp(min=1e-30).log10().item()
    check, rule = (
        "gradient of cross-entropy over margin, log10",
        f"at least {MIN_LOG_RATIO}{UNLESS}",
    )
    passed = harmless or median >= MIN_LOG_RATIO
    report.add(check, median, f"median {median:.1f}", rule, passed)


def _gradients(model, images, labels, loss) -> Tensor:
    """Return the gradient of a loss by each image's pixels, (N, 3 * H * W)."""
    parts = []
    for batch, true in zip(images.split(64), labels.split(64), strict=True):
        pixels = batch.clone().requires_grad_()
        # A network whose output does not depend on its input has no gradient at all.
        (gradient,) = torch.autograd.grad(
            loss(model(pixels), true).sum(), pixels, allow_unused=True
        )
        parts.append(torch.zeros_like(pixels) if gradient is None else gradient)
    return torch.cat(parts).flatten(1)


@torch.no_grad()
def _withstand_noise(model, images, labels, epsilon, seed) -> Tensor:
    """Return (N,): which images withstand random signs of the full budget, many times."""
    generator = torch.Generator().manual_seed(seed)
    robust = torch.ones_like(labels, dtype=torch.bool)
    for _ in range(NOISE_DRAWS if len(images) else 0):
        signs = torch.rand(images.shape, generator=generator).to(images).sub(0.5).sign()
        robust &= model((images + epsilon * signs).clamp(0, 1)).argmax(1) == labels
    return robust


def _check_budgets(report, withstood) -> None:
    """Add the row on accuracy against epsilon: at half the range every image can be made grey."""
    robust = report.plain
    accuracy = {report.epsilon: robust.float().mean().item()}
    for epsilon in (2 * report.epsilon, 8 * report.epsilon, 0.5):
        if report.epsilon < epsilon <= 0.5:
            robust = robust & withstood(epsilon=epsilon)
            accuracy[epsilon] = robust.float().mean().item()
    lowest = min(accuracy.values())
    found = ", ".join(f"{255 * epsilon:.3g}: {share:.2f}" for epsilon, share in accuracy.items())
    check, rule = "accuracy against epsilon (of 255)", f"ends at most at {TOLERANCE:.2g}"
    report.add(check, lowest, found, rule, lowest <= TOLERANCE)


def _check_transfer(report, model, surrogate, images, labels, steps, seed) -> None:
    """Add the rows on perturbations that are made on one network and tried on the other."""
    options = {"epsilon": report.epsilon, "steps": steps, "early_stop": False, "seed": seed}
    there = attack(surrogate, images, labels, "pgd", **options).images
    here = attack(model, images, labels, "pgd", **options).images
    with torch.no_grad():
        robust = model(there).argmax(1) == labels
        accuracy = (surrogate(here).argmax(1) == labels).float().mean().item()
    report.judge("perturbations made on the surrogate", report.plain & robust)
    found = f"its accuracy is {accuracy:.3f}"
    report.add("perturbations made here, on the surrogate", accuracy, found)


class _SoftTopK(TopKPool2d):
    """A top-k mean whose gradient also reaches the positions just below the k-th."""

    def forward(self, class_maps: Tensor) -> Tensor:
        values = class_maps.flatten(2)
        kth = values.detach().topk(pixel_constraint(self.k, values.shape[-1])).values[..., -1:]
        width = values.detach().std(-1, keepdim=True).clamp(min=1e-6)
        share = torch.sigmoid((values - kth) / width)
        return (share * values).sum(-1) / share.sum(-1)


class _EveryPosition(nn.Module):
    """The log-probabilities of the classes at each position, averaged: a loss before pooling."""

    def forward(self, class_maps: Tensor) -> Tensor:
        return F.log_softmax(class_maps, dim=1).mean((2, 3))


@gated
def adaptive_networks(model: nn.Module) -> dict[str, nn.Module]:
    """Return networks whose gradient is easier to follow than top-k pooling's, by what they change.

    They share the model's weights. Empty for a network that pools no class maps by top-k.
    """
    pool = getattr(model, "pool", None)
    if not isinstance(model, MapClassifier) or not isinstance(pool, TopKPool2d):
        return {}
    pools = {"the class maps before pooling": _EveryPosition()}
    if not is_average(pool.k):
        pools |= {"average pooling": TopKPool2d(1.0), "a softened top-k": _SoftTopK(pool.k)}
    networks = {words: copy.copy(model) for words in pools}
    for words, network in networks.items():
        network._modules = {**model._modules, "pool": pools[words]}
    return networks
