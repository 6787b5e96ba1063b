"""Every image of a data set decoded, and counted against what its publisher says."""

from collections.abc import Iterator, Mapping

from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from topgap_nb.data.image_set import SPLITS
from topgap_nb.data.reading import LazyImages
from topgap_nb.data.registry import find_set, open_dataset
from topgap_nb.errors import UserError


def check_images(name: str) -> Iterator[str]:
    """Decode all splits of a data set; yield a line for each, then one on the published counts.

    Raises:
        UserError: an image cannot be read, or of a set with masks some have none.
    """
    data_set, counts, without_mask = find_set(name), {}, ""
    published = data_set.source.counts if data_set.source else {}
    every_class = {"min_samples": 1} if "min_samples" in data_set.options else {}
    data = open_dataset(name, **every_class)
    for split in ("test",) if set(published) == {"test"} else SPLITS:
        images = getattr(data, split)
        if isinstance(images, LazyImages):
            loader = DataLoader(images, batch_size=64, num_workers=2)
            for _ in tqdm(loader, desc=f"reading {name}", unit_scale=64, unit="img", leave=False):
                pass
        counts[split] = len(images)
        yield (
            f"{name} {split:<5} {len(images):>6} images, {len(images.class_names)} classes, "
            f"{images.mask_count} masks"
        )
        if data_set.source and 0 < images.mask_count < len(images):
            without_mask = images.ids[int((~images.masked).nonzero()[0])]
    if published:
        yield _compared(counts, published)
    if without_mask:
        raise UserError(
            f"{name}: some images have no mask, the first is {without_mask}: put them back"
        )


def _compared(counts: Mapping[str, int], published: Mapping[str, int]) -> str:
    if "all" in published:
        counts = {"all": sum(counts.values())}
    elif "val" not in published:
        counts = {"train": counts.get("train", 0) + counts.get("val", 0), "test": counts["test"]}
    found = ", ".join(f"{split} {counts[split]:,} of {n:,}" for split, n in published.items())
    if all(counts[split] == n for split, n in published.items()):
        return f"as published: {found}"
    return f"a part of what is published: {found}"
