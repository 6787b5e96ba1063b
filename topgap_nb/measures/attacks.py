"""Adversarial attacks on the whole image, the object or the background: the paper's section 4.2.

Square, APGD and AutoAttack are torchattacks'. PGD is our own, step for step equal to torchattacks'
from the same start (tests/test_attacks.py), because masks, early stopping and losses have to reach
into its loop; FGSM is PGD with one full step from the clean image.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn
from tqdm.auto import tqdm

from topgap_nb.data.images import ImageSet
from topgap_nb.errors import UserError
from topgap_nb.measures.frozen import frozen, measured

ATTACKS = ("fgsm", "pgd", "square", "apgd", "autoattack")


class Attacked(NamedTuple):
    """What an attack left: the last images it tried, and which are still classified rightly.

    ``robust`` counts a clean error as not robust, so its mean over all test images is the robust
    accuracy.
    """

    images: Tensor
    robust: Tensor


def check_budget(images: Tensor, epsilon: float) -> None:
    """Refuse images outside [0, 1] and budgets that are not in [0, 1] pixels.

    Raises:
        UserError: with the range found, or the epsilon that was probably meant.
    """
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise UserError(
            f"images span [{low:.3g}, {high:.3g}]: attacks need [0, 1], with normalisation inside "
            f"the network"
        )
    if not 0 <= epsilon <= 1:
        raise UserError(
            f"epsilon = {epsilon} is not a budget in [0, 1] pixels"
            + (f": {epsilon:g} of 255 grey levels is {epsilon:g}/255" if epsilon > 1 else "")
        )


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
) -> Attacked:
    """Return l-infinity PGD on a loss, projected to the budget and to [0, 1].

    Args:
        model: any classifier of (N, 3, H, W) images in [0, 1].
        images: (N, 3, H, W) in [0, 1].
        labels: (N,) true classes.
        epsilon: budget in [0, 1] pixels, as 8 / 255.
        steps: gradient steps per restart.
        step_size: per step, in [0, 1] pixels; epsilon / 4 by default. Not stated in the paper.
        restarts: independent starts; an image is robust if it withstands all.
        random_start: start at a uniformly random point of the budget; else at the clean image.
        mask: (N, H, W) bool; only these pixels may change.
        early_stop: stop working on an image once one of its iterates is misclassified. Without it
            every image takes all steps and the last iterate counts, as in torchattacks.
        seed: of the random starts.
        loss: what is ascended, one of ``LOSSES``.
        follow: a network whose gradient is followed in place of the model's own: a surrogate, or
            the same network made smoother. Whether an image is broken is the model's word alone.

    Raises:
        UserError: images outside [0, 1], a budget that is not in [0, 1] pixels, an unknown loss, or
            one that does not fit the number of classes.

    Source: paper, section 4.2 and appendix C; Madry et al. 2018; losses: Carlini and Wagner 2017,
    Croce and Hein 2020.
    """
    check_budget(images, epsilon)
    if loss not in LOSSES:
        raise UserError(f"loss {loss!r} is unknown: use {', '.join(LOSSES)}")
    step_size = epsilon / 4 if step_size is None else step_size
    generator = torch.Generator().manual_seed(seed)
    allowed = None if mask is None else mask[:, None].to(images.dtype)
    found = images.clone()
    with frozen(model), frozen(follow or model):
        with torch.no_grad():
            robust = model(images).argmax(1) == labels
        for _ in range(restarts):
            start = images
            if random_start:
                noise = torch.rand(images.shape, generator=generator).to(images)
                start = images + epsilon * (2 * noise - 1) * (1 if allowed is None else allowed)
                start = start.clamp(0, 1)
            # Without early stopping the broken go on too; their verdict stands all the same.
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
                    found[broken] = current[wrong]
                    robust[broken] = False
                if early_stop and wrong.any():
                    keep = ~wrong
                    active, current = active[keep], current[keep]
                    gradient = None if last else gradient[keep]
                if not last and len(active):
                    clean = images[active]
                    change = current + step_size * gradient.sign() - clean
                    if allowed is not None:
                        change = change * allowed[active]
                    current = (clean + change.clamp(-epsilon, epsilon)).clamp(0, 1)
            if len(active):
                found[active] = current
    return Attacked(found, robust)


def _ascend(model, images, labels, loss, follow) -> tuple[Tensor | None, Tensor]:
    """Return (gradient of the loss, which images are misclassified); one forward pass if it can."""
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
    """Return (N,) cross-entropies. Its gradient underflows where the logits are large."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,): the largest wrong logit minus the true one; above 0 the image is broken.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 0.5]]), torch.tensor([0]))
        tensor([-2.])
    """
    true = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - true


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,): the margin over the gap between the largest and the third largest logit.

    The same whatever the logits are multiplied with or shifted by.

    Raises:
        UserError: fewer than three classes.

    Source: Croce and Hein 2020, equation 6.

    Example:
        >>> dlr(torch.tensor([[3.0, 1.0, 0.5]]), torch.tensor([0]))
        tensor([-0.8000])
    """
    if logits.shape[1] < 3:
        raise UserError(f"the DLR loss needs at least 3 classes, not {logits.shape[1]}")
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, labels) / (first - third + 1e-12)


def rescaled(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) cross-entropies after the logits of each image are brought to a gap of 1.

    The gap is that between the two largest logits. Undoes what only scales the logits.
    """
    first, second = logits.detach().topk(2, dim=1).values.unbind(1)
    return cross_entropy(logits / (first - second).clamp(min=1e-12)[:, None], labels)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "rescaled": rescaled,
}


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
) -> Attacked:
    """Return the outcome of a named attack over any number of images.

    Args:
        name: ``fgsm``, ``pgd``, ``square``, ``apgd`` (cross-entropy), or ``autoattack``: its
            ensemble of APGD, targeted APGD, targeted FAB and Square, or of APGD and Square alone
            where there are fewer than 4 classes, on images that PGD on the margin cannot break.
        steps: gradient steps of PGD, APGD and FAB, queries of Square; FGSM takes one.
        mask: (N, H, W) bool; only these pixels may change (FGSM and PGD).
        options: further arguments of ``pgd`` (``step_size``, ``restarts``, ...); for AutoAttack
            ``queries`` of its Square, 5000 unless told.

    Other arguments and errors as in ``pgd``.
    """
    if name not in ATTACKS:
        raise UserError(f"attack {name!r} is unknown: use {', '.join(ATTACKS)}")
    if mask is not None and name not in ("fgsm", "pgd"):
        raise UserError(f"attack {name!r} cannot be limited to a mask: use 'fgsm' or 'pgd'")
    check_budget(images, epsilon)
    if name == "fgsm":
        name, steps, options = "pgd", 1, {"step_size": epsilon, "random_start": False, **options}
    outcomes = []
    parts = range(0, len(images), batch_size)
    networks = [model, *([options["follow"]] if options.get("follow") else [])]
    with measured(*networks) as place:
        for start in tqdm(parts, desc=name, unit="batch", leave=False, disable=not progress):
            part = slice(start, start + batch_size)
            given = images[part].to(place), labels[part].to(place)
            if name == "pgd":
                part_mask = None if mask is None else mask[part].to(place)
                outcome = pgd(
                    model, *given, epsilon, steps, mask=part_mask, seed=seed + start, **options
                )
            else:
                outcome = _torchattack(model, *given, name, epsilon, steps, seed, **options)
            outcomes.append([found.to(images.device) for found in outcome])
    found, robust = zip(*outcomes, strict=True)
    return Attacked(torch.cat(found), torch.cat(robust))


def _torchattack(model, images, labels, name, epsilon, steps, seed, queries=5000) -> Attacked:
    makers = {
        "square": lambda: torchattacks.Square(model, eps=epsilon, n_queries=steps, seed=seed),
        "apgd": lambda: torchattacks.APGD(model, eps=epsilon, steps=steps, seed=seed),
        "autoattack": lambda: _autoattack(model, logits.shape[1], epsilon, steps, queries, seed),
    }
    # torchattacks seeds the global generator.
    with frozen(model), torch.random.fork_rng(devices=[]):
        with torch.no_grad():
            logits = model(images)
            robust = logits.argmax(1) == labels
        found = images.clone()
        if name == "autoattack" and robust.any():
            # Most images fall to a few cheap steps, which the ensemble then need not spend its
            # hundreds on. What PGD breaks is broken, so the outcome can only be lower.
            found, robust = pgd(model, images, labels, epsilon, 20, seed=seed, loss="margin")
        if robust.any():
            found[robust] = makers[name]()(images[robust].contiguous(), labels[robust])
            with torch.no_grad():
                robust &= model(found).argmax(1) == labels
    return Attacked(found, robust)


def _autoattack(model, classes: int, epsilon: float, steps: int, queries: int, seed: int):
    given = {"eps": epsilon, "seed": seed}
    parts = [torchattacks.APGD(model, steps=steps, **given)]
    if classes >= 4:
        parts.append(torchattacks.APGDT(model, steps=steps, n_classes=classes, **given))
        parts.append(
            torchattacks.FAB(model, steps=steps, multi_targeted=True, n_classes=classes, **given)
        )
    parts.append(torchattacks.Square(model, n_queries=queries, **given))
    return torchattacks.MultiAttack(parts)


def worst_case(*robust: Tensor) -> Tensor:
    """Return which images withstand every one of several attacks: bool, of the shape of each.

    Combined per image: the smaller of several mean accuracies would be too high.

    Args:
        robust: what each attack left, as in ``Attacked.robust``.

    Example:
        >>> worst_case(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
        tensor([ True, False, False])
    """
    return torch.stack(robust).all(0)


class AttackDistance(NamedTuple):
    """Which images stay right when only the object, or only the background, is attacked."""

    object_robust: Tensor
    background_robust: Tensor

    @property
    def per_image(self) -> Tensor:
        """(N,) contributions whose mean is SAR(O) - SAR(B)."""
        return self.background_robust.float() - self.object_robust.float()


def attack_distance(
    model: nn.Module, images: ImageSet, epsilon: float = 1 / 255, **options
) -> AttackDistance:
    """Return SAR(object) - SAR(background) under FGSM, image by image.

    SAR = 1 - accuracy on attacked images. Positive: the object is the easier target.

    Args:
        model: any classifier of images in [0, 1].
        images: a data set with masks.
        epsilon: budget in [0, 1] pixels; the paper changes pixels by 1/255.

    Raises:
        UserError: images without masks.

    Source: paper, Definition 7 and Table 4.
    """
    if not images.has_masks:
        raise UserError(
            f"attack distance needs object masks, and not every image of {images.name!r} has one: "
            f"pass `images.with_masks()` or another data set"
        )
    outcomes = [
        attack(model, images.images, images.labels, "fgsm", epsilon, mask=mask, **options).robust
        for mask in (images.masks, ~images.masks)
    ]
    return AttackDistance(*outcomes)
