"""Batches on the device: from pixels that lie there, or read by worker processes."""

import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from topgap_nb.data.image_set import ImageSet, as_float


def batch_iterator(
    images: ImageSet, device: torch.device
) -> Callable[[list[Tensor]], Iterator[tuple[Tensor, Tensor]]]:
    """Return a function from index batches to (images in [0, 1], labels), both on the device.

    A set in memory is moved to the device once, as uint8, and every batch is taken from there. Any
    other (an ImageNet on disk) is decoded ahead by worker processes.
    """
    if isinstance(images, ImageSet):
        pixels, labels = images.pixels.to(device), images.labels.to(device)

        def from_memory(batches: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
            for index in batches:
                index = index.to(device)
                yield as_float(pixels[index]), labels[index]

        return from_memory

    def from_workers(batches: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            images,
            batch_sampler=[index.tolist() for index in batches],
            num_workers=min(16, os.cpu_count() or 1),
            pin_memory=device.type == "cuda",
        )
        for batch in loader:
            values = (batch["image"], batch["label"])
            yield tuple(value.to(device, non_blocking=True) for value in values)

    return from_workers
