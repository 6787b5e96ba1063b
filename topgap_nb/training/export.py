"""A trained network as files to keep and to pass on: safetensors with JSON, and ONNX."""

import copy
import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from topgap_nb.errors import UserError
from topgap_nb.method.model import MapClassifier, StandardNet, TopGapNet, frozen
from topgap_nb.method.pooling import TopKPool2d, pixel_constraint
from topgap_nb.store.store import write_atomic
from topgap_nb.training.loop import TrainedNetwork

# Set by hand it differs from the backbone's, and is not among the weights.
NORMALISATION = ("mean", "std")
WEIGHTS, ABOUT = "model.safetensors", "model.json"
FORMAT = "topgap-model-1"
# Largest difference to torch that an exported network may show, as a share of its largest output.
TOLERANCE = 1e-3
# How to use a saved network: the three lines of the report.
USAGE = """\
from topgap_nb import load_model
net = load_model("model")  # net.class_names, net.image_size
logits, maps = net.model(images), net.model.class_maps(images)  # images (N, 3, H, W) in [0, 1]"""


class SavedModel(NamedTuple):
    """A network that was read back, in evaluation mode, and how to use it.

    ``about`` is the JSON beside the weights: the network, the run that made it, versions.
    """

    model: MapClassifier
    class_names: tuple[str, ...]
    image_size: int
    about: dict


def save_model(
    model: MapClassifier | TrainedNetwork,
    folder: Path | str,
    class_names: Sequence[str],
    image_size: int,
) -> Path:
    """Write a network as ``model.safetensors`` and ``model.json``; return the folder.

    Args:
        model: a network, or a finished run, whose specification is then kept too.
        folder: made where it does not exist.
        class_names: one name per class, in the order of the logits.
        image_size: pixels per side that the network was trained at.

    Raises:
        UserError: there are not as many names as classes.
    """
    spec = None
    if isinstance(model, TrainedNetwork):
        spec, model = model.spec, model.model
    network = _described(model)
    if len(class_names) != network["num_classes"]:
        raise UserError(
            f"{len(class_names)} class names for a network of {network['num_classes']} classes"
        )
    tensors = model.state_dict() | {name: getattr(model, name) for name in NORMALISATION}
    content = save({name: t.contiguous() for name, t in tensors.items()})
    about = {
        "format": FORMAT,
        "network": network,
        "class_names": list(class_names),
        "image_size": image_size,
        "spec": spec and asdict(spec),
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }
    folder = Path(folder)
    write_atomic(folder / WEIGHTS, content)
    write_atomic(folder / ABOUT, json.dumps(about, indent=1))
    return folder


def load_model(folder: Path | str) -> SavedModel:
    """Return a network that ``save_model`` wrote; its logits are the same to the bit.

    Raises:
        UserError: the folder is not such a folder, or its files are damaged.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / ABOUT).read_text())
        content = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} holds no saved network ({ABOUT} and {WEIGHTS}): {error}"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{folder / ABOUT} was not written by save_model")
    if hashlib.sha256(content).hexdigest() != about.get("sha256"):
        raise UserError(f"{folder / WEIGHTS} is damaged: it does not match the hash in {ABOUT}")
    try:
        model = _rebuilt(about["network"])
        tensors = load(content)
        for name in NORMALISATION:
            # Networks that were saved before it was kept have their backbone's.
            setattr(model, name, tensors.pop(name, getattr(model, name)))
        # Assigned, so that the number format stays.
        model.load_state_dict(tensors, assign=True)
        names, size = tuple(about["class_names"]), int(about["image_size"])
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder / ABOUT} is damaged: {' '.join(str(error).split())}") from error
    model = model.to(memory_format=torch.channels_last)
    return SavedModel(model.eval().requires_grad_(False), names, size, about)


def _described(model: MapClassifier) -> dict:
    """Return what it takes to build the network again."""
    if isinstance(model, TopGapNet):
        net, classes = model.backbone, model.head.classifier.out_channels
        more = {"maps": list(net.feature_info.out_indices), "dropout": model.head.dropout.p}
    elif isinstance(model, StandardNet):
        net, classes, more = model.net, model.net.get_classifier().out_features, {}
    else:
        raise UserError(f"a {type(model).__name__} cannot be saved: give a network of the package")
    config = net.pretrained_cfg
    tag = f".{config['tag']}" if config.get("tag") else ""
    return {
        "head": "topgap" if isinstance(model, TopGapNet) else "standard",
        "backbone": config["architecture"] + tag,
        "num_classes": classes,
        # Of a pool that learnt its k, the weights hold it.
        "k": 1.0 if model.pool is None else getattr(model.pool, "k", "learnt"),
        **more,
    }


def _rebuilt(network: dict) -> MapClassifier:
    options = {name: value for name, value in network.items() if name != "head"}
    if network["head"] == "topgap":
        return TopGapNet(**{**options, "maps": tuple(network["maps"])})
    return StandardNet(**options)


class _TwoOutputs(nn.Module):
    """Logits and class maps from one forward pass, with k as a fixed count."""

    def __init__(self, model: MapClassifier, positions: int):
        super().__init__()
        self.model, self.pool = model, model.pool
        if isinstance(model.pool, TopKPool2d):
            self.pool = TopKPool2d(pixel_constraint(model.pool.k, positions))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.model.class_maps(images)
        return self.pool(maps), maps


def export_onnx(
    model: MapClassifier, path: Path | str, image_size: int, class_names: Sequence[str] = ()
) -> float:
    """Write a network as ONNX and return by how much onnxruntime's outputs differ from torch's.

    Input ``images``, (batch, 3, H, W) in [0, 1]; outputs ``logits``, (batch, C), and
    ``class_maps``, (batch, C, h, w), before pooling. The batch size is free, H = W = ``image_size``
    is fixed. The file is checked by running it, and its metadata hold the class names. A network
    in half precision is written, and compared, in float32.

    Raises:
        UserError: the network has no class maps.
        ArithmeticError: onnxruntime's outputs differ from torch's; nothing is written.

    Source: the class maps are the paper's X^(n+1), its section 3.1.
    """
    import onnx

    path = Path(path)
    if next(model.parameters()).dtype != torch.float32:
        model = copy.deepcopy(model).float()
    example = torch.rand(3, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    example = example.to(next(model.parameters()).device)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    try:
        with frozen(model), torch.no_grad(), warnings.catch_warnings():
            # Tracing fixes all sizes but the batch, and says so at each. The newer exporter takes
            # ten times as long, and more packages, for the same graph.
            warnings.simplefilter("ignore")
            maps = model.class_maps(example[:1])
            both = _TwoOutputs(model, maps.shape[-2] * maps.shape[-1]).eval()
            names = ("images", "logits", "class_maps")
            torch.onnx.export(
                both, (example,), str(draft), dynamo=False, input_names=names[:1],
                output_names=names[1:], dynamic_axes={name: {0: "batch"} for name in names},
            )  # fmt: skip
            difference = _difference(draft, both, example)
        written = onnx.load(str(draft))
        about = {"class_names": json.dumps(list(class_names)), "image_size": str(image_size)}
        onnx.helper.set_model_props(written, about)
        write_atomic(path, written.SerializeToString())
    finally:
        draft.unlink(missing_ok=True)
    return difference


def _difference(file: Path, both: nn.Module, images: Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    largest = 0.0
    for count in (1, len(images)):
        theirs = session.run(["logits", "class_maps"], {"images": images[:count].cpu().numpy()})
        for mine, found in zip(both(images[:count]), theirs, strict=True):
            mine = mine.cpu()
            if mine.shape != found.shape:
                raise ArithmeticError(f"onnxruntime gives {found.shape}, torch {mine.shape}")
            apart = (mine - torch.from_numpy(found)).abs().max().item()
            if apart > TOLERANCE * max(1.0, mine.abs().max().item()):
                raise ArithmeticError(f"the exported network differs from torch's by {apart:.2g}")
            largest = max(largest, apart)
    return largest
