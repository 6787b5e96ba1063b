"""The one gate for what a person hands in: networks, images, labels, masks, maps and settings.

``as_images`` and its like return an argument in the one form that the package computes with, where
its meaning is unmistakable, and otherwise refuse it in one line; none changes a number that is in
order. ``gated`` puts a public function behind them, by the names of its arguments.
"""

import inspect
import math
import operator
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from topgap_nb.errors import UserError

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# Widened to float32, which changes no value.
HALF = (torch.float16, torch.bfloat16)
FLOATS = (*HALF, torch.float32, torch.float64)
# Blurring and resizing round a white pixel to a little more than 1.
ROUNDING = 1e-4
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# A public function that calls another hands on what has been through the gate.
_inside: ContextVar[bool] = ContextVar("inside", default=False)


class Setting(NamedTuple):
    """The range of a number: ``low`` to ``high``, whole or not, and the same in words."""

    words: str
    low: float
    high: float = math.inf
    whole: bool = True


COUNT = Setting("a whole number from 1", 1)
SHARE = Setting("a number in [0, 1]", 0, 1, whole=False)
SETTINGS = {
    "epsilon": Setting("a budget in [0, 1] pixels", 0, 1, whole=False),
    "step_size": Setting("a number in (0, 1] pixels", math.nextafter(0, 1), 1, whole=False),
    "threshold": SHARE,
    "corner": Setting("a share of the image in [0, 0.5)", 0, math.nextafter(0.5, 0), whole=False),
    "severity": Setting("a whole number from 1 to 5", 1, 5),
    "seed": Setting("a whole number from 0 to 2^31 - 1", 0, 2**31 - 1),
    **dict.fromkeys(
        ("steps", "restarts", "queries", "longest", "batch_size", "height", "width"), COUNT
    ),
}
NETWORKS = ("model", "surrogate", "follow")
WORDS = ("name", "loss", "kind", "kernel", "score", "normalise", "part", "layer", "background")
# None stands for: no other network, all pixels, a step that follows epsilon, the last feature map.
OPTIONAL = ("surrogate", "follow", "mask", "step_size", "layer")


def gated(function: Callable) -> Callable:
    """Return the function behind the gate, which also works inside ``no_grad`` and inference mode.

    Arguments are recognised by their names: networks (``NETWORKS``), numbers (``SETTINGS``), words
    (``WORDS``), ``images``, ``labels``, ``class_idx``, ``mask``, ``masks``, and those of ``ALONE``;
    others pass as they are. ``images`` that are annotated as a data set stay one.
    """
    signature = inspect.signature(function)
    wanted = {name: parameter.annotation for name, parameter in signature.parameters.items()}

    @wraps(function)
    def through_the_gate(*args, **options):
        if _inside.get():
            return function(*args, **options)
        call = signature.bind(*args, **options)
        token = _inside.set(True)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                _let_in(call.arguments, wanted.get("images"))
                return function(*call.args, **call.kwargs)
        finally:
            _inside.reset(token)

    return through_the_gate


def _let_in(given: dict, kind_of_images: Any) -> None:
    """Replace arguments by what they mean."""
    _check_settings(given)
    _check_settings(given.get("options", {}))
    if "images" in given:
        given["images"] = _images_for(given.get("model"), given["images"], kind_of_images)
    for name, convert in ALONE.items():
        if name in given:
            given[name] = convert(given[name])
    shape, logits = _shape_of(given), given.get("logits")
    count = shape and shape[0] if logits is None else len(logits)
    tensors = (given.get(name) for name in ("images", "cams", "fields"))
    place = next((tensor.device for tensor in tensors if isinstance(tensor, Tensor)), None)
    if "labels" in given:
        classes = None if logits is None else logits.shape[1]
        given["labels"] = as_labels(given["labels"], count, classes).to(device=place)
    if given.get("class_idx") is not None:
        given["class_idx"] = as_class_idx(given["class_idx"], count)
    for name in ("mask", "masks"):
        if name in given and not (given[name] is None and name in OPTIONAL):
            given[name] = _masks_for(given[name], shape).to(device=place)


def _check_settings(given: dict) -> None:
    """Replace numbers and networks by what they mean."""
    for name, value in given.items():
        if value is None and name in OPTIONAL:
            continue
        if name in NETWORKS:
            given[name] = as_network(value, name)
        elif name in SETTINGS:
            given[name] = as_number(value, name)
        elif name in WORDS and not isinstance(value, str):
            raise UserError(f"{name} = {_shown(value)} is a {type(value).__name__}, not a word")


def _shape_of(given: dict) -> tuple[int, int, int] | None:
    """Return (N, H, W) that labels and masks have to fit; None where nothing says it."""
    if isinstance(images := given.get("images"), Tensor):
        return len(images), *images.shape[-2:]
    maps = given.get("cams", given.get("fields"))
    return None if maps is None else tuple(maps.shape[-3:])


def _images_for(model: nn.Module | None, images: Any, kind: Any) -> Any:
    """Return images as the function wants them: a data set, or a tensor in the network's format."""
    if hasattr(images, "pixels") and hasattr(images, "labels"):
        if not len(images):
            raise UserError(f"{images.name!r} has no image here")
        if kind is not Tensor:
            return images
        images = images.pixels
    elif Tensor not in (kind, *get_args(kind)):
        raise UserError(f"images are a {type(images).__name__}: give a data set, an `ImageSet`")
    return as_images(images) if model is None else in_format_of(model, as_images(images))


def _masks_for(masks: Any, shape: tuple[int, int, int] | None) -> Tensor:
    """Return masks for so many images; one for all is repeated."""
    masks = as_masks(masks)
    return as_masks(
        masks.expand(shape) if shape and masks.shape == (1, *shape[1:]) else masks, shape
    )


def as_network(model: Any, name: str = "model") -> nn.Module:
    """Return a network without what ``DataParallel`` and ``torch.compile`` wrap around it.

    Raises:
        UserError: no network, or one whose weights can have no gradient or no values.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} is a {type(model).__name__}, not a network (torch.nn.Module)")
    model = model.module if isinstance(model, WRAPPERS) else model
    model = getattr(model, "_orig_mod", model)
    if any(weight.is_inference() or weight.is_meta for weight in model.parameters()):
        raise UserError(
            f"{name} was made in inference mode or on the meta device: make it outside of both"
        )
    return model


def in_format_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return images in the number format of the network's weights, such as half precision."""
    formats = (weight.dtype for weight in model.parameters() if weight.is_floating_point())
    return images.to(next(formats, images.dtype))


def as_number(value: Any, name: str) -> int | float:
    """Return a number that lies in the range of ``SETTINGS[name]``.

    Raises:
        UserError: no number, or out of range.
    """
    setting = SETTINGS[name]
    try:
        number = operator.index(value) if setting.whole else float(value)
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        number = math.nan
    if isinstance(value, bool | np.bool_ | str) or not setting.low <= number <= setting.high:
        many = name in ("epsilon", "step_size") and 1 < number <= 255
        hint = f": {number:g} of 255 grey levels is {number:g}/255" if many else ""
        raise UserError(f"{name} = {_shown(value)} is not {setting.words}{hint}")
    return number


def as_images(images: Any, name: str = "images") -> Tensor:
    """Return images as floats (N, 3, H, W) in [0, 1].

    Args:
        images: (N, 1 or 3, H, W), a tensor or an array: floats in [0, 1], or uint8 in 0..255; grey
            ones are repeated to three channels.
        name: what the argument is called in an error.

    Raises:
        UserError: another shape or type, no pixel, values outside the range, NaN or infinite.
    """
    images = _as_tensor(images, name)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        hint = "; `images[None]` makes a batch of one" if images.ndim == 3 else ""
        raise UserError(
            f"{name} have the shape {tuple(images.shape)}: give (N, 3, H, W), or (N, 1, H, W) for "
            f"grey ones{hint}"
        )
    if images.dtype == torch.uint8:
        return (images.float() / 255).expand(-1, 3, -1, -1)
    images = _as_floats(images, name, "floats in [0, 1], or uint8 in 0..255")
    low, high = _finite_extremes(images, name)
    if low < -ROUNDING or high > 1 + ROUNDING:
        grey_levels = low >= 0 and 2 < high <= 255
        raise UserError(
            f"{name} span [{low:.3g}, {high:.3g}], not [0, 1]: "
            + ("divide by 255" if grey_levels else "normalise inside the network, not before it")
        )
    return images.expand(-1, 3, -1, -1)


def as_labels(labels: Any, count: int | None = None, classes: int | None = None) -> Tensor:
    """Return labels as int64 (N,).

    Args:
        labels: (N,) integers of any type, a tensor, an array or a list.
        count: N, the number of images; None where it is the labels' own.
        classes: C; each label must lie in 0..C-1. None where it is not known.

    Raises:
        UserError: another shape, no label, no whole numbers, or a label out of range.
    """
    labels = _as_tensor(labels, "labels")
    if labels.ndim != 1 or (len(labels) < 1 if count is None else len(labels) != count):
        wanted = "(N,)" if count is None else f"({count},), one for each image"
        raise UserError(f"labels have the shape {tuple(labels.shape)}: give {wanted}")
    return _in_range(_as_whole(labels, "labels"), classes, "labels")


def as_class_idx(class_idx: Any, count: int, classes: int | None = None) -> Tensor:
    """Return class indices as int64 (N,), from one for all or one for each image.

    Args:
        class_idx: an integer, or (N,) integers of any type.
        count: N, the number of images.
        classes: C; each index must lie in 0..C-1. None where it is not known.

    Raises:
        UserError: another shape, no whole number, or out of range.
    """
    class_idx = _as_tensor(class_idx, "class_idx")
    if class_idx.shape not in ((), (1,), (count,)):
        raise UserError(
            f"class_idx has the shape {tuple(class_idx.shape)}: give one for all, or {count}"
        )
    class_idx = _in_range(_as_whole(class_idx, "class_idx"), classes, "class_idx").flatten()
    return class_idx if len(class_idx) == count else class_idx.repeat(count)


def as_masks(masks: Any, shape: tuple[int, int, int] | None = None) -> Tensor:
    """Return object masks as bool (N, H, W), True on the object.

    Args:
        masks: (N, H, W), or (N, 1, H, W), a tensor or an array: bool, or any numbers of which there
            are two at most, 0 and 1 or 0 and 255.
        shape: (N, H, W) that the images demand; None where any will do.

    Raises:
        UserError: another shape or other values.
    """
    masks = _as_tensor(masks, "masks")
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim != 3 or (shape is not None and masks.shape != tuple(shape)):
        wanted = "(N, H, W)" if shape is None else tuple(shape)
        raise UserError(f"masks have the shape {tuple(masks.shape)}: give {wanted}")
    if masks.dtype == torch.bool:
        return masks
    if masks.dtype not in (*INTEGERS, *FLOATS):
        raise UserError(f"masks are {masks.dtype}: give bool, or 0 and 1")
    values = masks.unique().tolist()
    if not (set(values) <= {0, 1} or set(values) <= {0, 255}):
        some = ", ".join(f"{value:.3g}" for value in values[:4]) + ", ..." * (len(values) > 4)
        raise UserError(f"masks hold {some}: give bool, or 0 and 1")
    return masks != 0


def as_values(values: Any, name: str) -> Tensor:
    """Return maps, fields or gradients as finite floats of the shape and range of ``VALUES[name]``.

    Bool ones become 0 and 1 where that is the range.

    Raises:
        UserError: another shape or type, no value, out of range, NaN or infinite.
    """
    kind = VALUES[name]
    values = _as_tensor(values, name)
    wrong = any(
        side not in (None, size) for side, size in zip(kind.sides, values.shape, strict=False)
    )
    if values.ndim != len(kind.sides) or wrong or not values.numel():
        raise UserError(f"{name} have the shape {tuple(values.shape)}: give {kind.shape}")
    if values.dtype == torch.bool and kind.high == 1:
        return values.float()
    values = _as_floats(values, name, f"floats{kind.words}")
    low, high = _finite_extremes(values, name)
    if low < kind.low - ROUNDING * (kind.high == 1) or high > kind.high + ROUNDING:
        raise UserError(f"{name} span [{low:.3g}, {high:.3g}]: {kind.hint}")
    return values


def as_logits(logits: Any, count: int | None = None) -> Tensor:
    """Return logits as floats (N, C) of at least two classes.

    Args:
        logits: what a classifier says, a tensor or an array.
        count: N, the number of images; None where it is the logits' own.

    Raises:
        UserError: another shape or type, a single class, or NaN.
    """
    logits = _as_tensor(logits, "logits", detach=False)
    if (
        logits.ndim != 2
        or count not in (None, len(logits))
        or logits.shape[1] < 2
        or not len(logits)
    ):
        wanted = "N" if count is None else count
        raise UserError(
            f"logits have the shape {tuple(logits.shape)}: a classifier gives ({wanted}, C), one "
            f"for each of at least two classes"
        )
    logits = _as_floats(logits, "logits", "floats")
    if math.isnan(_extremes(logits)[0]):
        raise UserError("logits hold NaN: the network has diverged, or its number format is small")
    return logits


def as_hits(*hits: Any) -> Tensor:
    """Return which images were classified correctly under each of R conditions, bool (R, N).

    Raises:
        UserError: nothing, another shape or type, or different numbers of images.
    """
    rows = [_as_tensor(row, "hits") for row in hits]
    kinds = {(row.dtype, tuple(row.shape)) for row in rows}
    if len(kinds) != 1 or rows[0].dtype != torch.bool or rows[0].ndim != 1:
        found = ", ".join(f"{dtype} {shape}" for dtype, shape in kinds) or "nothing"
        raise UserError(f"{found} where bool (N,) is needed, of the same images each time")
    return torch.stack(rows)


def as_positions(positions: Any) -> list[tuple[int, int]]:
    """Return positions of a map as pairs of integers, (row, column).

    Raises:
        UserError: no pair, or something else than pairs of whole numbers.
    """
    try:
        pairs = [tuple(map(operator.index, pair)) for pair in positions]
    except (TypeError, ValueError, RuntimeError):
        pairs = []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise UserError(
            f"positions = {_shown(positions)}: give pairs of whole numbers, (row, column)"
        )
    return pairs


def as_size(size: Any) -> tuple[int, int]:
    """Return the size of a map as a pair of whole numbers, (h, w).

    Raises:
        UserError: something else.
    """
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"size = {_shown(size)}: give two whole numbers, (h, w)") from error
    return height, width


def as_epsilons(epsilons: Any) -> list[float]:
    """Return budgets in [0, 1] pixels, at least one.

    Raises:
        UserError: something else.
    """
    if not isinstance(epsilons, list | tuple | np.ndarray | Tensor) or not np.shape(epsilons):
        raise UserError(f"epsilons = {_shown(epsilons)}: give a list of budgets in [0, 1] pixels")
    if not len(epsilons):
        raise UserError("epsilons are empty: give at least one budget in [0, 1] pixels")
    return [as_number(value, "epsilon") for value in epsilons]


def _shown(value: Any) -> str:
    """Return a value for an error, in one line."""
    return " ".join(repr(value).split())[:60]


def _as_tensor(values: Any, name: str, detach: bool = True) -> Tensor:
    """Return a plain tensor that holds its values and takes part in no other computation."""
    if not isinstance(values, Tensor):
        known = isinstance(values, list | tuple | int | float) or hasattr(values, "__array__")
        try:
            # A copy: of an array that is read backwards, or that must not be written to.
            values = torch.as_tensor(np.array(values if known else None))
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            kind = type(values).__name__
            raise UserError(f"{name}: a {kind} where a tensor or an array of numbers is") from error
    if values.is_meta or values.is_nested or values.layout != torch.strided:
        raise UserError(f"{name} are sparse, nested or on the meta device: give a dense tensor")
    values = values.clone() if values.is_inference() else values
    return values.detach() if detach else values


def _as_floats(values: Tensor, name: str, wanted: str) -> Tensor:
    if values.dtype not in FLOATS:
        raise UserError(f"{name} are {values.dtype}: give {wanted}")
    return values.float() if values.dtype in HALF else values


def _extremes(values: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN where one is NaN."""
    # Both at once: on a GPU each reading waits for all that was started.
    return tuple(torch.stack(values.aminmax()).tolist())


def _finite_extremes(values: Tensor, name: str) -> tuple[float, float]:
    low, high = _extremes(values)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{name} hold values that are not finite")
    return low, high


def _as_whole(values: Tensor, name: str) -> Tensor:
    if values.dtype not in INTEGERS:
        raise UserError(f"{name}: {values.dtype} where whole numbers are needed, such as int64")
    return values.long()


def _in_range(values: Tensor, classes: int | None, name: str) -> Tensor:
    low, high = _extremes(values) if values.numel() else (0, 0)
    if low < 0 or (classes is not None and high >= classes):
        last = "" if classes is None else f" to {classes - 1}"
        raise UserError(f"{name} of {low if low < 0 else high}: classes count from 0{last}")
    return values


class Values(NamedTuple):
    """What ``as_values`` lets in: sides (None: any), the same in words, range, and what to do."""

    sides: tuple[int | None, ...]
    shape: str
    low: float = -math.inf
    high: float = math.inf
    words: str = ""
    hint: str = ""


VALUES = {
    "cams": Values(
        (None,) * 3, "(N, H, W)", 0, 1, " in [0, 1]", "not [0, 1]: `explanation_map` scales maps"
    ),
    "maps": Values((None,) * 3, "(N, h, w)"),
    "fields": Values(
        (None,) * 4, "(P, N, H, W)", 0, math.inf, ", as erf_map returns them",
        "a field is nowhere negative: give what erf_map returns",
    ),
    "gradients": Values(
        (None, None, 3, None, None), "(P, N, 3, H, W), as erf_gradients returns them"
    ),
}  # fmt: skip
ALONE = {
    **{name: partial(as_values, name=name) for name in VALUES},
    "epsilons": as_epsilons,
    "logits": as_logits,
    "positions": as_positions,
    "size": as_size,
}
