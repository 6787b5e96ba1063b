"""Every image of a data set decoded, and counted against what its publisher says."""

import inspect
from collections.abc import Iterator

from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from topgap_nb.data import DATASETS, SPLITS, open_dataset, source_of
from topgap_nb.data.decode import LazyImages
from topgap_nb.data.images import ImageSet
from topgap_nb.errors import UserError


def check_images(name: str) -> Iterator[str]:
    """Decode all splits of a data set; yield a line for each, then one on the published counts.

    Raises:
        UserError: an image cannot be read, or of a set with masks some have none.
    """
    source, counts, bare = source_of(name), {}, None
    published = dict(source.counts) if source else {}
    every_class = "min_samples" in inspect.signature(DATASETS[name]).parameters
    options = {"min_samples": 1} if every_class else {}
    for split in SPLITS:
        if set(published) == {"test"} and split != "test":
            continue
        images = open_dataset(name, split, **options)
        if isinstance(images, LazyImages):
            _read_all(images)
        counts[split] = len(images)
        masks = _masks(images)
        yield (
            f"{name} {split:<7} {len(images):>6} images, {len(images.class_names)} classes, "
            f"{masks} masks"
        )
        if source and 0 < masks < len(images):
            bare = images.ids[int((~images.masked).nonzero()[0])]
    if published:
        yield _compared(counts, published)
    if bare:
        raise UserError(f"{name}: some images have no mask, the first is {bare}: put them back")


def _masks(images: ImageSet | LazyImages) -> int:
    if images.masks is None:
        return 0
    return len(images) if images.masked is None else int(images.masked.sum())


def _read_all(images: LazyImages) -> None:
    loader = DataLoader(images, batch_size=64, num_workers=2)
    for _ in tqdm(loader, desc=f"reading {images.name}", unit_scale=64, unit="img", leave=False):
        pass


def _compared(counts: dict[str, int], published: dict[str, int]) -> str:
    if "all" in published:
        counts = {"all": sum(counts.values())}
    elif "select" not in published:
        counts = {"train": counts.get("train", 0) + counts.get("select", 0), "test": counts["test"]}
    found = ", ".join(f"{split} {counts[split]:,} of {n:,}" for split, n in published.items())
    if all(counts[split] == n for split, n in published.items()):
        return f"as published: {found}"
    return f"a part of what is published: {found}"
