"""``pasted``: objects of any masked data set on any photographs, as Waterbirds was made.

The recipe of Waterbirds (Sagawa et al. 2020) with a seed: every object is cut out along its mask
and pasted on a background of one of two places. In ``train`` the place agrees with the object's
kind in ``agreement`` of the images of each kind, in ``select`` and ``test`` in half of them;
backgrounds are dealt out in random order, each once before one comes twice. Group = 2 * kind +
place.
Departures: the pasting happens after resizing, and the mask's edge is sharp.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from topgap_nb.data.decode import files_by_class
from topgap_nb.data.images import SPLITS, ImageSet, read_image
from topgap_nb.data.sources import folder_identity
from topgap_nb.errors import UserError
from topgap_nb.files import data_root

# The published recipe's list, as parts of CUB's names: sea birds, and birds of lakes and rivers.
WATERBIRDS = (
    "Albatross", "Auklet", "Cormorant", "Frigatebird", "Fulmar", "Gull", "Jaeger", "Kittiwake",
    "Pelican", "Puffin", "Tern", "Gadwall", "Grebe", "Mallard", "Merganser", "Guillemot", "Loon",
)  # fmt: skip


def open_pasted(
    split: str,
    image_size: int = 96,
    objects: str = "cub",
    backgrounds: str = "places",
    second_kind: Sequence[str] = WATERBIRDS,
    agreement: float = 0.95,
    labels: str = "kind",
    seed: int = 0,
    options: dict | None = None,
) -> ImageSet:
    """Return a split of a data set whose objects stand on other backgrounds.

    Args:
        split: train, select or test, of the objects' data set.
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
    from topgap_nb.data import open_dataset

    if not 0 <= agreement <= 1:
        raise UserError(f"agreement = {agreement} must lie in 0..1")
    if labels not in ("kind", "class"):
        raise UserError(f"labels {labels!r}: use kind or class")
    images = open_dataset(objects, split, image_size, **(options or {})).with_masks()
    second = [any(part in name for part in second_kind) for name in images.class_names]
    kinds = torch.tensor(second, dtype=torch.long)[images.labels]
    if len(set(kinds.tolist())) < 2:
        raise UserError(
            f"second_kind {list(second_kind)} does not part the classes of {objects!r} in two"
        )
    generator = np.random.default_rng([seed, SPLITS.index(split)])
    share = agreement if split == "train" else 0.5
    places = deal_places(kinds.numpy(), share, generator)
    pixels = torch.empty(len(images), 3, image_size, image_size, dtype=torch.uint8)
    names, stock = _places(_folder(backgrounds), image_size)
    for place, photographs in enumerate(stock):
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
        groups=2 * kinds + torch.from_numpy(places),
        group_names=tuple(f"{kind} kind on {n}" for kind in ("first", "second") for n in names),
    )


def deal_places(kinds: np.ndarray, agreement: float, generator: np.random.Generator) -> np.ndarray:
    """Return, int (N,), a place per object: its kind's own for exactly that share of each kind."""
    places = np.empty_like(kinds)
    for kind in (0, 1):
        members = generator.permutation(np.flatnonzero(kinds == kind))
        own = round(agreement * len(members))
        places[members[:own]], places[members[own:]] = kind, 1 - kind
    return places


def identity(objects: str = "cub", backgrounds: str = "places", options=None, **_) -> str:
    """Return a hash of the data that goes in: the objects' set, and the backgrounds."""
    from topgap_nb.data import identity as identity_of

    folder = _folder(backgrounds)
    own = identity_of(objects, **(options or {}))
    return f"{own}-{folder_identity(folder) if folder.is_dir() else 'absent'}"


def _folder(backgrounds: str) -> Path:
    return data_root() / Path(backgrounds).expanduser()


@cache
def _places(folder: Path, size: int) -> tuple[tuple[str, ...], tuple[torch.Tensor, ...]]:
    if not folder.is_dir():
        raise UserError(
            f"backgrounds {folder}: no such folder. It must hold two folders of photographs, such "
            "as land and water"
        )
    found = files_by_class(folder, "pasted")
    if len(found) != 2:
        raise UserError(f"backgrounds {folder} must hold two folders, not {', '.join(found)}")
    stock = (np.stack([read_image(path, size) for path in paths]) for paths in found.values())
    return tuple(found), tuple(torch.from_numpy(s.transpose(0, 3, 1, 2).copy()) for s in stock)
