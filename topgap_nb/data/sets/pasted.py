"""``pasted``: objects of any masked data set on any photographs, as Waterbirds was made.

The recipe of Waterbirds (Sagawa et al. 2020) with a seed: every object is cut out along its mask
and pasted on a background of one of two places. In ``train`` the place agrees with the object's
kind in ``agreement`` of the images of each kind, in ``val`` and ``test`` in half of them;
backgrounds are dealt out in random order, each once before one comes twice. Group = 2 * kind +
place.
Departures: the pasting happens after resizing, and the mask's edge is sharp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from topgap_nb.data.image_set import SPLITS, ImageSet
from topgap_nb.data.reading import class_folders, decoded
from topgap_nb.data.registry import DataSet, find_set, open_dataset
from topgap_nb.errors import UserError
from topgap_nb.store.layout import data_root

# The published recipe's list, as parts of CUB's names: sea birds, and birds of lakes and rivers.
WATERBIRDS = (
    "Albatross", "Auklet", "Cormorant", "Frigatebird", "Fulmar", "Gull", "Jaeger", "Kittiwake",
    "Pelican", "Puffin", "Tern", "Gadwall", "Grebe", "Mallard", "Merganser", "Guillemot", "Loon",
)  # fmt: skip


def _open(
    split: str,
    image_size: int,
    objects: str,
    backgrounds: str,
    second_kind: Sequence[str],
    agreement: float,
    labels: str,
    seed: int,
    options: Mapping,
) -> ImageSet:
    """Return a split of a data set whose objects stand on other backgrounds.

    Args:
        split: ``train``, ``val`` or ``test``, of the objects' data set.
        image_size: pixels per side.
        objects: name of a data set with masks; ``options`` are its own controls.
        backgrounds: folder, absolute or under the data root, with two folders of images, the
            places: in alphabetical order the first goes with the first kind (``land``, ``water``).
        second_kind: the classes of the second kind, by any part of their names.
        agreement: share of each kind that stands on its own place, in ``train``.
        labels: ``kind``, or ``class`` for the object's own class.
        seed: of which object comes on which background.

    Raises:
        UserError: no masks, not two places, a kind without classes, or a share outside [0, 1].
    """
    if not 0 <= agreement <= 1:
        raise UserError(f"agreement = {agreement} must lie in 0..1")
    if labels not in ("kind", "class"):
        raise UserError(f"labels {labels!r}: use kind or class")
    images = getattr(open_dataset(objects, image_size, **options), split).with_masks()
    second = [any(part in name for part in second_kind) for name in images.class_names]
    kinds = torch.tensor(second, dtype=torch.long)[images.labels]
    if len(set(kinds.tolist())) < 2:
        raise UserError(
            f"second_kind {list(second_kind)} does not divide the classes of {objects!r}"
        )
    generator = np.random.default_rng([seed, SPLITS.index(split)])
    share = agreement if split == "train" else 0.5
    places = deal_places(kinds.numpy(), share, generator)
    pixels = torch.empty(len(images), 3, image_size, image_size, dtype=torch.uint8)
    scenes = _scenes(_folder(backgrounds), image_size)
    for place in (0, 1):
        photographs = scenes.pixels[scenes.labels == place]
        here = np.flatnonzero(places == place)
        rounds = -(-len(here) // len(photographs))
        order = [generator.permutation(len(photographs)) for _ in range(rounds)]
        pixels[here] = photographs[np.concatenate([*order, []]).astype(int)[: len(here)]]
    return replace(
        images,
        name="pasted",
        pixels=torch.where(images.masks[:, None], images.pixels, pixels),
        labels=images.labels if labels == "class" else kinds,
        class_names=images.class_names if labels == "class" else ("first kind", "second kind"),
        group=2 * kinds + torch.from_numpy(places),
        group_names=tuple(
            f"{kind} kind on {name}" for kind in ("first", "second") for name in scenes.class_names
        ),
    )


def deal_places(kinds: np.ndarray, agreement: float, generator: np.random.Generator) -> np.ndarray:
    """Return, int (N,), a place per object: its kind's own for exactly that share of each kind."""
    places = np.empty_like(kinds)
    for kind in (0, 1):
        members = generator.permutation(np.flatnonzero(kinds == kind))
        own = round(agreement * len(members))
        places[members[:own]], places[members[own:]] = kind, 1 - kind
    return places


def _folder(backgrounds: str) -> Path:
    return data_root() / Path(backgrounds).expanduser()


def _scenes(folder: Path, size: int) -> ImageSet:
    """Return the photographs of the two places, which are their classes."""
    if not folder.is_dir():
        raise UserError(
            f"backgrounds {folder}: no such folder. It must hold two folders of photographs, such "
            "as land and water"
        )
    manifest = class_folders("backgrounds", folder)
    if len(manifest.class_names) != 2:
        places = ", ".join(manifest.class_names)
        raise UserError(f"backgrounds {folder} must hold two folders, not {places}")
    return decoded(manifest, size)


def _paths(options: Mapping) -> list[Path]:
    backgrounds = _folder(options["backgrounds"])
    objects = find_set(options["objects"]).inputs(options["options"])
    return [*objects, *([backgrounds] if backgrounds.is_dir() else [])]


OPTIONS = {
    "objects": "cub", "backgrounds": "places", "second_kind": WATERBIRDS, "agreement": 0.95,
    "labels": "kind", "seed": 0, "options": {},
}  # fmt: skip
PASTED = DataSet("pasted", "objects of a set on other backgrounds", _open, OPTIONS, paths=_paths)
