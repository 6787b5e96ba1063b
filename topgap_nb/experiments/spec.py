"""What identifies a run: every choice that its weights depend on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from topgap_nb.data import data_modules, deciding, identity
from topgap_nb.errors import UserError
from topgap_nb.files import code_hash

OPTIMIZERS = ("adamw", "sgd")
SPARSITY_ON = ("class_maps", "last_features", "all_features")


@dataclass(frozen=True, eq=False)
class RunSpec:
    """One training run. Frozen, hashable, and JSON both ways.

    Attributes:
        dataset: name for ``open_dataset``; ``options`` are its controls.
        backbone: timm architecture.
        head: ``standard`` (the timm network) or ``topgap`` (pyramid and class convolution).
        k: pixel constraint, a count or a float share. 1.0 is GAP. The paper: a count. ``auto`` and
            ``learnt`` need no value before training.
        sparsity_weight: lambda. The paper: 1 for most data sets.
        sparsity_on: ``class_maps`` (the method), ``last_features`` or ``all_features`` (ablations).
        sparsity_reduction: ``mean`` or ``sum``; the paper does not say which.
        image_size: pixels per side.
        epochs, batch_size: length of training. Not stated in the paper.
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum 0.9. Not stated in the paper.
        learning_rate: peak rate of the pretrained layers. Not stated in the paper.
        head_rate: peak rate of the new layers: classifier, or pyramid and class convolution.
        weight_decay: on all parameters.
        augmentation: see ``data.augment``.
        pretrained: start from ImageNet weights.
        fold, folds: hold out fold ``fold`` of ``folds`` of the train split in place of ``select``.
        train_images: use only so many training images, drawn at random once.
        seed: of the initial weights, the order of images and the augmentation.
    """

    dataset: str
    backbone: str = "tf_efficientnet_lite0"
    head: str = "topgap"
    k: int | float | str = 1.0
    sparsity_weight: float = 0.0
    sparsity_on: str = "class_maps"
    sparsity_reduction: str = "mean"
    image_size: int = 64
    epochs: int = 4
    batch_size: int = 32
    optimizer: str = "adamw"
    learning_rate: float = 5e-4
    head_rate: float = 3e-3
    weight_decay: float = 0.05
    augmentation: str = "flip_shift"
    pretrained: bool = True
    fold: int | None = None
    folds: int = 5
    train_images: int | None = None
    seed: int = 0
    options: Mapping = field(default_factory=dict)

    def __post_init__(self):
        """Check what can be checked before anything is opened.

        Raises:
            UserError: a value is out of range.
        """
        for name in ("sparsity_weight", "learning_rate", "head_rate", "weight_decay"):
            # 1 and 1.0 are the same weight and must be the same run; k is another matter.
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("epochs", "batch_size", "image_size", "train_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} = {value} must be at least 1")
        for name in ("learning_rate", "head_rate", "weight_decay", "sparsity_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} = {getattr(self, name)} must be 0 or a positive number")
        if taken := {"split", "image_size"} & set(self.options):
            raise UserError(f"options cannot set {', '.join(sorted(taken))}: the run does that")
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"optimizer {self.optimizer!r}: use {' or '.join(OPTIMIZERS)}")
        if self.sparsity_on not in SPARSITY_ON:
            raise UserError(f"sparsity_on {self.sparsity_on!r}: use {', '.join(SPARSITY_ON)}")
        if self.sparsity_on != "class_maps" and self.head != "standard":
            raise UserError(f"sparsity_on {self.sparsity_on!r} is an ablation of head 'standard'")
        if self.fold is not None and self.folds < 2:
            raise UserError(f"folds = {self.folds} must be at least 2")
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise UserError(f"fold = {self.fold} must lie in 0..{self.folds - 1}")

    def __eq__(self, other) -> bool:
        # Field by field, k = 1 and k = 1.0 would be equal, and (0.1, 0.2) unlike its JSON.
        return isinstance(other, RunSpec) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def but(self, **changes) -> "RunSpec":
        """Return the same specification with some fields changed."""
        return replace(self, **changes)

    @property
    def title(self) -> str:
        """A short name for progress bars and legends."""
        if self.head == "standard" and not self.sparsity_weight:
            method = "standard"
        else:
            k = f"{self.k:.3g}" if isinstance(self.k, float) else self.k
            method = f"{self.head} k={k} lambda={self.sparsity_weight:g}"
            if self.sparsity_on != "class_maps":
                method += f" on {self.sparsity_on}"
            if self.sparsity_reduction != "mean":
                method += f" as a {self.sparsity_reduction}"
        part = f" fold {self.fold}" if self.fold is not None else ""
        return f"{self.dataset} {method}{part} seed {self.seed}"

    @property
    def digest(self) -> str:
        """A hash of every field, the code that makes weights of them, and the data that is here."""
        options = deciding(self.dataset, self.options)
        content = {**asdict(self), "options": options, "code": code_digest(self.dataset)}
        if data := identity(self.dataset, **self.options):
            # A part of a data set, or another version, must not pass for the whole.
            content["data"] = data
        # An integer k is a count and a float a share; JSON keeps 1 and 1.0 apart.
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@cache
def code_digest(dataset: str) -> str:
    """Return a hash of the modules that decide the weights, blind to comments and docstrings.

    Of the data sets' modules only ``dataset``'s own counts: adding one retrains nothing.
    """
    root = Path(find_spec("topgap_nb").origin).parent
    names = [
        *sorted(root.glob("method/*.py")),
        *(root / "data" / f"{name}.py" for name in ("images", "augment", "batches")),
        *(root / "experiments" / f"{name}.py" for name in ("training", "depthwise", "precision")),
    ]
    names += [root / "data" / path.name for path in data_modules(dataset)]
    return code_hash(dict.fromkeys(names))
