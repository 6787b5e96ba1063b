"""Adversarial attacks on the whole image, the object or the background: the paper's section 4.2.

Square and AutoAttack are torchattacks'. PGD is our own, because masks, early stopping and
losses have to reach into its loop; from the same start it equals torchattacks' step for step
(tests/metrics/test_attacks.py). FGSM is PGD with one full step from the clean image.
"""

from collections.abc import Sequence
from inspect import signature
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn
from tqdm.auto import tqdm

from topgap_nb.data.image_set import ImageSet
from topgap_nb.errors import UserError
from topgap_nb.inputs import HALF, as_hits, as_labels, as_logits, as_number, gated, in_format_of
from topgap_nb.method.model import frozen
from topgap_nb.metrics.evaluation import eval_on_device
from topgap_nb.metrics.localisation import moved_masks
from topgap_nb.metrics.scores import correct, predict
from topgap_nb.store.cached import cached

ATTACKS = ("fgsm", "pgd", "square", "autoattack")
# From 1/4 to 32 grey levels of 255, each the square root of 2 times the one before.
EPSILONS = tuple(2 ** (i / 2) / 255 for i in range(-4, 11))


class AttackResult(NamedTuple):
    """What an attack found.

    Attributes:
        images: (N, 3, H, W) in [0, 1], the last that it tried.
        robust: (N,) bool, which are still classified correctly; never a clean error, so that the
            mean over all test images is the robust accuracy.
    """

    images: Tensor
    robust: Tensor


@gated
def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    mask: Tensor | None = None,
    early_stop: bool = True,
    seed: int = 0,
    loss: str = "cross_entropy",
    follow: nn.Module | None = None,
) -> AttackResult:
    """Return the outcome of PGD in the l-infinity norm.

    x <- clip(x + step_size * sign(grad_x loss(f(x), y))), clipped to within epsilon of the clean
    image and to [0, 1].

    Args:
        model: any classifier of (N, 3, H, W) images in [0, 1].
        images: (N, 3, H, W) in [0, 1].
        labels: (N,) true classes.
        epsilon: budget in [0, 1] pixels, for example 8 / 255.
        steps: gradient steps per restart.
        step_size: in [0, 1] pixels; epsilon / 4 by default. Not stated in the paper.
        restarts: independent starts; an image is robust if it withstands all.
        random_start: start at a uniformly random point of the budget; else at the clean image.
        mask: (N, H, W) bool; only these pixels may change.
        early_stop: stop working on an image once one of its iterates is misclassified. Without it
            every image takes all steps and the last iterate counts, as in torchattacks.
        seed: of the random starts.
        loss: what is maximised, one of ``LOSSES``.
        follow: a network whose gradient is followed instead of the model's own, such as a
            surrogate. Whether an image is broken, the model alone decides.

    Raises:
        UserError: an argument that the gate refuses (``inputs``), an unknown loss, or one that does
            not fit the number of classes.

    Source: paper, section 4.2 and appendix C; Madry et al. 2018, https://arxiv.org/abs/1706.06083;
    margin: Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644.
    """
    if loss not in LOSSES:
        raise UserError(f"loss {loss!r} is unknown: use {', '.join(LOSSES)}")
    step_size = epsilon / 4 if step_size is None else step_size
    generator = torch.Generator().manual_seed(seed)
    allowed = images.new_ones(len(images), 1, 1, 1) if mask is None else mask[:, None].to(images)
    tried = images.clone()
    with frozen(model), frozen(follow or model):
        robust, _ = _clean(model, images, labels)
        for _ in range(restarts):
            start = images
            if random_start:
                noise = torch.rand(images.shape, generator=generator).to(images)
                start = (images + epsilon * (2 * noise - 1) * allowed).clamp(0, 1)
            # Without early stopping the broken images take all steps too, and stay broken.
            active = robust.nonzero()[:, 0] if early_stop else torch.arange(len(images))
            current = start[active]
            for step in range(steps + 1):
                if not len(active):
                    break
                last = step == steps
                ascent = None if last else LOSSES[loss]
                gradient, wrong = _ascend(model, current, labels[active], ascent, follow)
                if early_stop or last:
                    broken = active[wrong]
                    tried[broken] = current[wrong]
                    robust[broken] = False
                if early_stop and wrong.any():
                    active, current = active[~wrong], current[~wrong]
                    gradient = None if last else gradient[~wrong]
                if not last and len(active):
                    clean = images[active]
                    change = (current + step_size * gradient.sign() - clean) * allowed[active]
                    current = (clean + change.clamp(-epsilon, epsilon)).clamp(0, 1)
            if len(active):
                tried[active] = current
    return AttackResult(tried, robust)


@torch.no_grad()
def _clean(model, images, labels) -> tuple[Tensor, int]:
    """Return (which images are classified correctly, the number of classes)."""
    logits = as_logits(model(images), len(images))
    classes = logits.shape[1]
    return logits.argmax(1) == as_labels(labels, len(images), classes), classes


def _ascend(model, images, labels, loss, follow) -> tuple[Tensor | None, Tensor]:
    """Return (gradient of the loss, which images are misclassified)."""
    with torch.set_grad_enabled(loss is not None):
        pixels = images.contiguous(memory_format=torch.channels_last)
        pixels = pixels.requires_grad_(loss is not None)
        logits = model(pixels if follow is None else pixels.detach())
        wrong = logits.detach().argmax(1) != labels
        if loss is None:
            return None, wrong
        if follow is not None:
            logits = follow(pixels)
        # Summed, not averaged: dividing by the batch size only brings underflow nearer.
        return torch.autograd.grad(loss(logits, labels).sum(), pixels)[0], wrong


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) cross-entropies; their gradient underflows where the logits are large."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,): the largest wrong logit minus the true one; above 0 the image is broken."""
    true = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - true


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,): the margin over the gap between the largest and the third largest logit.

    Source: Croce and Hein 2020, equation 6, https://arxiv.org/abs/2003.01690.
    """
    if logits.shape[1] < 3:
        raise UserError(f"the DLR loss needs at least 3 classes, not {logits.shape[1]}")
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, labels) / (first - third + 1e-12)


def rescaled(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) cross-entropies of logits scaled to a gap of 1 between the two largest."""
    first, second = logits.detach().topk(2, dim=1).values.unbind(1)
    return cross_entropy(logits / (first - second).clamp(min=1e-12)[:, None], labels)


LOSSES = {loss.__name__: loss for loss in (cross_entropy, margin, dlr, rescaled)}


@gated
def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    epsilon: float,
    steps: int = 20,
    mask: Tensor | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
    **options,
) -> AttackResult:
    """Return the outcome of a named attack over any number of images.

    Args:
        model, images, labels, epsilon: as in ``pgd``.
        name: ``fgsm``, ``pgd``, ``square``, or ``autoattack``: its ensemble of APGD, targeted APGD,
            targeted FAB and Square, or of APGD and Square alone where there are fewer than 4
            classes, on images that PGD on the margin cannot break.
        steps: gradient steps of PGD and in AutoAttack, queries of Square; FGSM takes one.
        mask: (N, H, W) bool; only these pixels may change (FGSM and PGD).
        batch_size: images that are attacked at a time; the random starts depend on it.
        seed: of everything random.
        progress: show a bar.
        options: further arguments of ``pgd`` (``step_size``, ``restarts``, ...); for AutoAttack
            ``queries`` of its Square, by default 5000.

    Raises:
        UserError: unknown attack or option, one that cannot be limited to a mask, or as in ``pgd``.

    Source: FGSM: Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572. AutoAttack: Croce
    and Hein 2020, https://arxiv.org/abs/2003.01690. Square: Andriushchenko et al. 2020,
    https://arxiv.org/abs/1912.00049.
    """
    if name not in ATTACKS:
        raise UserError(f"attack {name!r} is unknown: use {', '.join(ATTACKS)}")
    if mask is not None and name not in ("fgsm", "pgd"):
        raise UserError(f"attack {name!r} cannot be limited to a mask: use 'fgsm' or 'pgd'")
    known = {"autoattack": {"queries"}, "square": set()}.get(name, signature(pgd).parameters)
    if unknown := set(options) - set(known):
        raise UserError(f"attack {name!r} has no option {', '.join(sorted(unknown))}")
    if name == "fgsm":
        name, steps, options = "pgd", 1, {"step_size": epsilon, "random_start": False, **options}
    results = []
    starts = range(0, len(images), batch_size)
    with eval_on_device(model, options.get("follow") or model) as place:
        for start in tqdm(starts, desc=name, unit="batch", leave=False, disable=not progress):
            part = slice(start, start + batch_size)
            batch = images[part].to(place), labels[part].to(place)
            if name == "pgd":
                part_mask = None if mask is None else mask[part].to(place)
                result = pgd(
                    model, *batch, epsilon, steps, mask=part_mask, seed=seed + start, **options
                )
            else:
                result = _torchattack(model, *batch, name, epsilon, steps, seed, **options)
            results.append([tensor.to(images.device) for tensor in result])
    tried, robust = zip(*results, strict=True)
    return AttackResult(torch.cat(tried), torch.cat(robust))


@gated
@cached
def is_robust(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    epsilon: float,
    steps: int = 20,
    mask: Tensor | None = None,
    seed: int = 0,
    **options,
) -> Tensor:
    """Return which images are still classified correctly after an ``attack``: (N,) bool.

    The mean over all test images is the robust accuracy. Arguments and errors as in ``attack``.
    """
    return attack(model, images, labels, name, epsilon, steps, mask, seed=seed, **options).robust


@gated
@cached
def smallest_epsilon(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str = "pgd",
    epsilons: Sequence[float] = EPSILONS,
    steps: int = 20,
    seed: int = 0,
    **options,
) -> Tensor:
    """Return the smallest budget that breaks each image, (N,): 0 for clean errors, inf for none.

    Budgets are tried in ascending order, each on the images that withstood those before: what a
    smaller budget breaks, a larger one may repeat. So the share of values above epsilon is the
    robust accuracy against all budgets up to epsilon, and no floor hides a difference. Like every
    attack, it gives an upper bound.

    Args:
        model, images, labels, name, steps, seed: as in ``attack``.
        epsilons: budgets in [0, 1] pixels; the result is as fine as they are.
        options: further arguments of ``attack``, such as ``loss="margin"``.

    Raises:
        UserError: as in ``attack``.
    """
    left = correct(predict(model, images), labels).nonzero()[:, 0]
    smallest = torch.zeros(len(images))
    smallest[left] = torch.inf
    for epsilon in sorted(as_number(value, "epsilon") for value in epsilons):
        if len(left):
            batch = images[left], labels[left]
            robust = is_robust(model, *batch, name, epsilon, steps, seed=seed, **options).cpu()
            smallest[left[~robust]] = epsilon
            left = left[robust]
    return smallest


def _torchattack(model, images, labels, name, epsilon, steps, seed, queries=5000) -> AttackResult:
    if images.dtype in HALF:
        raise UserError(f"attack {name!r} does not compute in {images.dtype}: pass `model.float()`")
    common = {"eps": epsilon, "seed": seed}
    # torchattacks seeds the global generator.
    with frozen(model), torch.random.fork_rng(devices=[]):
        robust, classes = _clean(model, images, labels)
        tried = images.clone()
        if name == "autoattack" and robust.any():
            # Most images break within a few cheap steps, and the ensemble need not spend its
            # hundreds on them. What PGD breaks is broken, so robust accuracy can only be lower.
            tried, robust = pgd(model, images, labels, epsilon, 20, seed=seed, loss="margin")
        if name == "square":
            run = torchattacks.Square(model, n_queries=steps, **common)
        else:
            parts = [torchattacks.APGD(model, steps=steps, **common)]
            if classes >= 4:
                targeted = {"steps": steps, "n_classes": classes, **common}
                parts.append(torchattacks.APGDT(model, **targeted))
                parts.append(torchattacks.FAB(model, multi_targeted=True, **targeted))
            parts.append(torchattacks.Square(model, n_queries=queries, **common))
            run = torchattacks.MultiAttack(parts)
        if robust.any():
            tried[robust] = run(images[robust].contiguous(), labels[robust])
            with torch.no_grad():
                robust &= model(tried).argmax(1) == labels
    return AttackResult(tried, robust)


def worst_case(*robust: Tensor) -> Tensor:
    """Return which images withstand every one of several attacks, as from ``is_robust``.

    The smallest of several mean accuracies would be too high.

    Example:
        >>> worst_case(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
        tensor([ True, False, False])
    """
    return as_hits(*robust).all(0)


class AttackDistance(NamedTuple):
    """Which images stay correct, (N,) bool, when only the object or the background is attacked."""

    object_robust: Tensor
    background_robust: Tensor

    @property
    def per_image(self) -> Tensor:
        """(N,) contributions in {-1, 0, 1}, whose mean is SAR(object) - SAR(background)."""
        return self.background_robust.float() - self.object_robust.float()


@gated
@cached(outcome=AttackDistance)
def attack_distance(
    model: nn.Module,
    images: ImageSet,
    epsilon: float = 1 / 255,
    background: str = "equal_area",
    seed: int = 0,
    **options,
) -> AttackDistance:
    """Return SAR(object) - SAR(background) under FGSM, image by image.

    SAR, the success rate of the attack, is 1 - accuracy on attacked images. 1: only attacks on the
    object succeed; -1: only those on the background.

    Args:
        model: any classifier of images in [0, 1].
        images: a data set with masks.
        epsilon: budget in [0, 1] pixels; the paper changes pixels by 1/255.
        background: ``equal_area`` attacks as many pixels of the background as of the object: its
            mask moved (``moved_masks``), and random pixels for those that would still lie on it.
            Of an object of more than half the image, an equal part is chosen in the same way.
            ``whole``, the paper's, attacks all of both: the larger side is favoured even by a
            network that uses all pixels alike.
        seed: of everything random.
        options: further arguments of ``attack``.

    Raises:
        UserError: images without masks, or another ``background``.

    Source: paper, Definition 7 and Table 4; equal areas are ours.
    """
    if background not in ("equal_area", "whole"):
        raise UserError(f"background {background!r} is unknown: use 'equal_area' or 'whole'")
    if not images.has_masks:
        raise UserError(f"not every image of {images.name!r} has a mask: pass `.with_masks()`")
    whole = images.masks, ~images.masks
    regions = whole if background == "whole" else _equal_areas(images.masks, seed)
    clean = (model, in_format_of(model, images.images), images.labels, "fgsm", epsilon)
    outcomes = (is_robust(*clean, mask=region, seed=seed, **options) for region in regions)
    return AttackDistance(*outcomes)


def _equal_areas(masks: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return (object, background): regions of each with equally many pixels, (N, H, W) bool."""
    object_is_larger = masks.float().mean((1, 2), keepdim=True) > 0.5
    smaller = masks ^ object_is_larger
    draw = torch.rand(masks.shape, generator=torch.Generator().manual_seed(seed))
    # First the moved region, then the rest of the larger side at random.
    preference = torch.where(smaller, -1.0, moved_masks(smaller, seed) + draw).flatten(1)
    rank = preference.argsort(1, descending=True).argsort(1)
    part = (rank < smaller.flatten(1).sum(1, keepdim=True)).view_as(masks)
    on_object = torch.where(object_is_larger, part, smaller)
    return on_object, torch.where(object_is_larger, smaller, part)
