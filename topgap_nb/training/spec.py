"""``TrainingSpec``: every choice of a training but its images."""

from dataclasses import asdict, dataclass, fields, replace
from html import escape

from topgap_nb.errors import UserError
from topgap_nb.method.loss import READINGS

CHOICES = {
    "head": ("topgap", "standard"),
    "optimizer": ("adamw", "sgd"),
    "precision": ("float32", "bfloat16"),
    "sparsity_on": ("class_maps", "last_features", "all_features"),
    "sparsity_reduction": READINGS,
}
NOT_STATED = "not stated"
# What the paper says of each field, where it says anything; its section in brackets.
PAPER = {
    "backbone": "EfficientNet-B0, ConvNeXt-tiny, ResNet-18, VGG11-BN, PreAct ResNet-18 [4]",
    "head": "pyramid and class convolution [3.1]",
    "k": "64 to 2048 of 3136 positions, the best of the sweep [4]",
    "sparsity_weight": "1 for most data sets [3.3]",
    "sparsity_on": "the class maps [3.3]",
    "pretrained": "ImageNet weights [4]",
}


@dataclass(frozen=True, eq=False)
class TrainingSpec:
    """How a network is trained; what it is trained on is given beside it. Frozen and hashable.

    Attributes:
        backbone: timm architecture.
        head: ``standard`` (the timm network) or ``topgap`` (pyramid and class convolution).
        k: pixel constraint, a count or a float share; 1.0 is GAP. ``auto`` and ``learnt`` need no
            value before training.
        sparsity_weight: lambda.
        sparsity_on: ``class_maps`` (the method), ``last_features`` or ``all_features`` (ablations).
        sparsity_reduction: how ||X||_1 is read, see ``method.loss.sparsity_loss``.
        sparsity_ramp: share of the epochs, in [0, 1), after which lambda has its full value: 0 over
            the first half of it, then up along a line. The reading ``positions`` starves the new
            head without it.
        epochs, batch_size: length of training.
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum 0.9.
        lr: peak learning rate of the pretrained layers.
        head_lr: peak learning rate of the new layers: classifier, or pyramid and class convolution.
        weight_decay: on all parameters.
        augmentation: see ``training.augment``.
        adversarial_epsilon: 0, or the budget in [0, 1] pixels of adversarial training: every batch
            is attacked before it is learnt (see ``training.adversarial``).
        pretrained: start from ImageNet weights.
        precision: number format of the forward pass, ``float32`` or ``bfloat16``.
        threads: CPU threads; another number adds up in another order and so trains another network.
            0 is all, for GPUs.
        seed: of the initial weights, the order of images and the augmentation.
    """

    backbone: str = "tf_efficientnet_lite0"
    head: str = "topgap"
    k: int | float | str = 1.0
    sparsity_weight: float = 0.0
    sparsity_on: str = "class_maps"
    sparsity_reduction: str = "mean"
    sparsity_ramp: float = 0.0
    epochs: int = 4
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float = 5e-4
    head_lr: float = 3e-3
    weight_decay: float = 0.05
    augmentation: str = "flip_shift"
    adversarial_epsilon: float = 0.0
    pretrained: bool = True
    precision: str = "float32"
    threads: int = 1
    seed: int = 0

    def __post_init__(self):
        """Check what can be checked before anything is opened.

        Raises:
            UserError: a value is out of range.
        """
        for name, value in asdict(self).items():
            # numpy's and torch's numbers are no JSON.
            if hasattr(value, "item"):
                object.__setattr__(self, name, value.item())
        shares = ("sparsity_ramp", "adversarial_epsilon")
        for name in ("sparsity_weight", "lr", "head_lr", "weight_decay", *shares):
            # 1 and 1.0 are the same weight and must be the same run; k is another matter.
            try:
                object.__setattr__(self, name, float(getattr(self, name)))
            except (TypeError, ValueError) as error:
                raise UserError(f"{name} = {getattr(self, name)!r} is no number") from error
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} = {getattr(self, name)} must be 0 or a positive number")
        for name in shares:
            if getattr(self, name) >= 1:
                raise UserError(f"{name} = {getattr(self, name)} must lie in [0, 1)")
        for name in ("epochs", "batch_size", "threads", "seed"):
            if not isinstance(getattr(self, name), int):
                raise UserError(f"{name} = {getattr(self, name)!r} is no whole number")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.threads < 0:
            raise UserError(f"threads = {self.threads} must be a count, or 0 for all cores")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} {getattr(self, name)!r}: use {' or '.join(known)}")
        if self.sparsity_on != "class_maps" and self.head != "standard":
            raise UserError(f"sparsity_on {self.sparsity_on!r} is an ablation of head 'standard'")

    def _identity(self) -> tuple:
        # An integer k is a count and a float a share, though 1 == 1.0.
        return (type(self.k), *asdict(self).values())

    def __eq__(self, other) -> bool:
        return isinstance(other, TrainingSpec) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def replace(self, **changes) -> "TrainingSpec":
        """Return the same specification with some fields changed.

        Raises:
            UserError: a field that does not exist, or a value out of range.
        """
        if unknown := set(changes) - {field.name for field in fields(self)}:
            names = ", ".join(field.name for field in fields(self))
            raise UserError(f"a training has no {', '.join(sorted(unknown))}; it has {names}")
        return replace(self, **changes)

    @property
    def title(self) -> str:
        """A short name for progress bars and legends."""
        if self.head == "standard" and not self.sparsity_weight:
            trained = " adversarially" if self.adversarial_epsilon else ""
            return f"standard{trained} seed {self.seed}"
        k = f"{self.k:.3g}" if isinstance(self.k, float) else self.k
        method = f"{self.head} k={k} lambda={self.sparsity_weight:g}"
        if self.sparsity_on != "class_maps":
            method += f" on {self.sparsity_on}"
        if self.sparsity_reduction != "mean":
            method += f" ({self.sparsity_reduction})"
        return f"{method} seed {self.seed}"

    def _repr_html_(self) -> str:
        """Return the specification as a table, beside what the paper says."""
        rows = "".join(
            f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{escape(str(value))}</td>"
            f"<td>{escape(PAPER.get(name, NOT_STATED))}</td></tr>"
            for name, value in asdict(self).items()
        )
        return f"<table><tr><th></th><th>here</th><th>paper</th></tr>{rows}</table>"
