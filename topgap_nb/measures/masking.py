"""Is the robustness real? One report for any classifier of images in [0, 1].

An attack that follows gradients says little about a network whose gradients are hard to follow.
Each check here asks a question that a network with honest gradients passes: plain PGD must do at
least as well as attacks that see less, and nearly as well as attacks that try harder, or otherwise.
What any of them breaks is broken, so the report ends in the worst case per image.

Source: the checks of Athalye et al. 2018, Carlini et al. 2019 and Tramer et al. 2020, put in
numbers; the attacks on top-k pooling are ours.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from topgap_nb.measures.attacks import attack, check_budget, cross_entropy, margin
from topgap_nb.measures.frozen import frozen, measured
from topgap_nb.measures.scores import proportion
from topgap_nb.method.model import MapClassifier
from topgap_nb.method.pooling import TopKPool2d, is_average, pixel_constraint

# Plain PGD: what most papers report.
PLAIN_STEPS = 20
# A share of all images; smaller differences are those between two random starts. A little more, so
# that one image of 20, which float32 puts above 0.05, is at most 0.05.
TOLERANCE = 0.05 + 1e-6
# Of each attack in the ensemble, as torchattacks has it.
AUTO_STEPS = 10
# Random signs of the full budget, per image.
NOISE_DRAWS = 20
# Below 10 to this of the margin's gradient, sums in float32 lose that of the cross-entropy.
VANISHING = -6


@dataclass
class MaskingReport:
    """What the checks found.

    Attributes:
        epsilon: budget in [0, 1] pixels.
        plain: (N,) bool, which images withstand plain PGD (20 steps, one start).
        worst_case: (N,) bool, which withstand everything that was tried.
        rows: one entry per check: ``check``; ``value``, its number; ``found``, the number in
            words; ``rule``; ``passed`` (None: no rule).
    """

    epsilon: float
    plain: Tensor
    worst_case: Tensor
    rows: list[dict] = field(default_factory=list)

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
    def verdict(self) -> str:
        """What the checks come to, in a few words."""
        if not self.plain.any():
            return "plain PGD breaks every image, which leaves nothing to mask"
        return "plain PGD overstates the robustness" if self.failed else "no masking found"

    def __str__(self) -> str:
        plain, worst = proportion(self.plain), proportion(self.worst_case)
        head = (
            f"epsilon = {255 * self.epsilon:g}/255, n = {len(self.plain)}: {self.verdict}. Robust "
            f"accuracy {plain.value:.3f} [{plain.low:.3f}, {plain.high:.3f}] under plain PGD, "
            f"{worst.value:.3f} [{worst.low:.3f}, {worst.high:.3f}] in the worst case."
        )
        return f"{head}\n{self.table.to_string(index=False)}"

    def _repr_html_(self) -> str:
        head = str(self).splitlines()[0]
        return f"<p>{head}</p>{self.table.to_html(index=False)}"


def masking_report(
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
) -> MaskingReport:
    """Return the masking report of a classifier at one budget.

    Every attack after plain PGD runs only on the images that withstood plain PGD: their number
    decides what the report costs.

    Args:
        model: any classifier of (N, 3, H, W) images in [0, 1] that returns logits.
        images, labels: (N, 3, H, W) and (N,); 50 images or more, or a failed check means little.
        epsilon: budget in [0, 1] pixels.
        surrogate: another network for the same classes, whose perturbations are transferred.
        steps: of each differing attack.
        longest: steps of the longest PGD; 1000 where time allows.
        restarts: random starts of the longest PGD.
        queries: of Square, alone and in AutoAttack; 5000 where time allows.
        progress: show a bar.

    Raises:
        UserError: images outside [0, 1], or a budget that is not in [0, 1] pixels.

    Example:
        >>> from topgap_nb import TopGapNet
        >>> net = TopGapNet("test_resnet", num_classes=2, k=4)
        >>> images, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
        >>> report = masking_report(net, images, labels, 1 / 255, longest=40, queries=20)
        >>> report.worst_case.shape
        torch.Size([2])
    """
    check_budget(images, epsilon)
    networks = [model] if surrogate is None else [model, surrogate]
    with measured(*networks) as place:
        given = images.to(place), labels.to(place), epsilon
        plain = attack(model, *given[:2], "pgd", epsilon, PLAIN_STEPS, seed=seed).robust
        check = _Checks(model, *given, plain, seed)
        plan = _plan(check, surrogate, steps, longest, restarts, queries)
        bar = {"desc": "masking report", "unit": "check", "leave": False}
        for part in tqdm(plan, disable=not progress, **bar):
            part()
    return MaskingReport(epsilon, plain.cpu(), check.robust.cpu(), check.rows)


def _plan(check, surrogate, steps, longest, restarts, queries) -> list[Callable[[], None]]:
    """Return the checks in the order of their rows."""
    losses = {"the margin": "margin", "rescaled logits": "rescaled", "the DLR loss": "dlr"}
    if check.classes < 3:
        del losses["the DLR loss"]
    starts = f"{restarts} start{'s' if restarts > 1 else ''}"
    return [
        lambda: _gradients(check),
        lambda: check.judge("noise of the same size", check.noise(NOISE_DRAWS)),
        lambda: check.attacked("Square, which sees no gradient", "square", queries),
        lambda: _more_budget(check),
        lambda: check.attacked(
            f"PGD with {longest} steps, {starts}", "pgd", longest, restarts=restarts
        ),
        lambda: _step_sizes(check, steps),
        *(
            partial(check.attacked, f"PGD on {words}", "pgd", steps, loss=loss)
            for words, loss in losses.items()
        ),
        *(
            partial(check.attacked, f"PGD through {words}", "pgd", steps, follow=network)
            for words, network in adaptive(check.model).items()
        ),
        *([partial(_transfer, check, surrogate, steps)] if surrogate is not None else []),
        lambda: check.attacked("AutoAttack", "autoattack", AUTO_STEPS, queries=queries),
    ]


class _Checks:
    """The images, what plain PGD left of them, and the rows so far."""

    def __init__(self, model, images, labels, epsilon, plain, seed):
        self.model, self.images, self.labels = model, images, labels
        self.epsilon, self.plain, self.seed = epsilon, plain, seed
        self.robust, self.rows = plain.clone(), []
        with torch.no_grad(), frozen(model):
            self.classes = model(images[:1]).shape[1]

    def row(self, check, value, found, rule="–", passed=None) -> None:
        self.rows.append(
            {"check": check, "value": value, "found": found, "rule": rule, "passed": passed}
        )

    def left(self, name, steps, epsilon=None, **options) -> Tensor:
        """Return (N,): which images withstand plain PGD and this attack."""
        robust = self.plain.clone()
        if robust.any():
            images, labels = self.images[self.plain], self.labels[self.plain]
            epsilon = self.epsilon if epsilon is None else epsilon
            found = attack(
                self.model, images, labels, name, epsilon, steps, seed=self.seed + 1, **options
            )
            robust[self.plain] = found.robust
        return robust

    def attacked(self, check, name, steps, **options) -> None:
        """Add the row of an attack that should not break much more than plain PGD."""
        self.judge(check, self.left(name, steps, **options))

    def judge(self, check, robust) -> None:
        self.robust &= robust
        more = (self.plain & ~robust).float().mean().item()
        found = f"breaks {more:.3f} more than plain PGD"
        # Where plain PGD leaves nothing, an attack that breaks no more has shown nothing.
        passed = more <= TOLERANCE if self.plain.any() else None
        self.row(check, more, found, f"at most {TOLERANCE:.2g} more", passed)

    def noise(self, draws: int) -> Tensor:
        """Return (N,): which images withstand random signs of the full budget, many times."""
        generator = torch.Generator().manual_seed(self.seed)
        robust, chosen = self.plain.clone(), self.images[self.plain]
        with torch.no_grad(), frozen(self.model):
            for _ in range(draws if len(chosen) else 0):
                signs = torch.rand(chosen.shape, generator=generator).to(chosen).sub(0.5).sign()
                noisy = (chosen + self.epsilon * signs).clamp(0, 1)
                robust[self.plain] &= self.model(noisy).argmax(1) == self.labels[self.plain]
        return robust


def _gradients(check: _Checks) -> None:
    """Add the rows on the gradient itself, over the images that are classified rightly."""
    norms = {}
    with frozen(check.model):
        for loss in (cross_entropy, margin):
            gradients = []
            for part in torch.arange(len(check.images)).split(64):
                pixels = check.images[part].clone().requires_grad_()
                logits = check.model(pixels)
                right = logits.argmax(1) == check.labels[part]
                total = loss(logits, check.labels[part]).sum()
                # A network whose output does not depend on its input has no gradient at all.
                (found,) = torch.autograd.grad(total, pixels, allow_unused=True)
                found = torch.zeros_like(pixels) if found is None else found
                gradients.append(found[right].flatten(1))
            norms[loss] = torch.cat(gradients)
    flat = norms[cross_entropy]
    if not len(flat):
        return
    nothing = (flat == 0).all(1).float().mean().item()
    check.row(
        "gradients that are exactly zero", nothing, f"{nothing:.3f} of the images",
        f"at most {TOLERANCE:.2g}", nothing <= TOLERANCE,
    )  # fmt: skip
    pixels = (flat == 0).float().mean().item()
    check.row("pixels without gradient", pixels, f"{pixels:.3f} of all")
    ratio = flat.norm(dim=1) / norms[margin].norm(dim=1).clamp(min=1e-30)
    median = ratio.median().clamp(min=1e-30).log10().item()
    check.row(
        "gradient of cross-entropy over margin, log10", median, f"median {median:.1f}",
        f"at least {VANISHING}", median >= VANISHING,
    )  # fmt: skip


def _more_budget(check: _Checks) -> None:
    """Add the row on accuracy against epsilon: at half the range every image can be made grey."""
    robust = check.plain
    left = {check.epsilon: robust.float().mean().item()}
    for epsilon in (2 * check.epsilon, 8 * check.epsilon, 0.5):
        if check.epsilon < epsilon <= 0.5:
            robust = robust & check.left("pgd", PLAIN_STEPS, epsilon=epsilon)
            left[epsilon] = robust.float().mean().item()
    end = min(left.values())
    check.row(
        "accuracy against epsilon (of 255)", end,
        ", ".join(f"{255 * epsilon:.3g}: {share:.2f}" for epsilon, share in left.items()),
        f"ends at most at {TOLERANCE:.2g}", end <= TOLERANCE,
    )  # fmt: skip


def _step_sizes(check: _Checks, steps: int) -> None:
    robust = check.plain
    for share in (1 / 16, 1 / 8, 1 / 2, 1):
        robust = robust & check.left("pgd", steps, step_size=share * check.epsilon)
    check.judge("PGD with steps of 1/16, 1/8, 1/2 and 1 of epsilon", robust)


def _transfer(check: _Checks, surrogate: nn.Module, steps: int) -> None:
    check.attacked("PGD along a surrogate's gradient", "pgd", steps, follow=surrogate)
    given = check.images, check.labels, "pgd", check.epsilon, steps
    there = attack(surrogate, *given, early_stop=False, seed=check.seed).images
    here = attack(check.model, *given, early_stop=False, seed=check.seed).images
    with torch.no_grad(), frozen(check.model), frozen(surrogate):
        robust = check.model(there).argmax(1) == check.labels
        kept = (surrogate(here).argmax(1) == check.labels).float().mean().item()
    check.judge("perturbations made on the surrogate", check.plain & robust)
    check.row("perturbations made here, on the surrogate", kept, f"it keeps {kept:.3f}")


class _SoftTopK(nn.Module):
    """A top-k mean whose gradient also reaches the positions just below the k-th."""

    def __init__(self, k: int | float):
        super().__init__()
        self.k = k

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


def adaptive(model: nn.Module) -> dict[str, nn.Module]:
    """Return networks to follow that are made for top-k pooling, {what they change: network}.

    They share the model's weights. Empty for a network that pools no class maps by top-k.
    """
    pool = getattr(model, "pool", None)
    if not isinstance(model, MapClassifier) or not isinstance(pool, TopKPool2d):
        return {}
    if is_average(pool.k):
        return {"the class maps before pooling": _with_pool(model, _EveryPosition())}
    return {
        "the class maps before pooling": _with_pool(model, _EveryPosition()),
        "average pooling": _with_pool(model, TopKPool2d(1.0)),
        "a softened top-k": _with_pool(model, _SoftTopK(pool.k)),
    }


def _with_pool(model: MapClassifier, pool: nn.Module) -> MapClassifier:
    other = copy.copy(model)
    other._modules = {**model._modules, "pool": pool}
    return other
