"""Our training loop beside a plain torchvision-DataLoader loop, in one run on the same images.

    python benchmarks/training.py [--images 2048] [--batch 128] [--rounds 3] [--workers 2]

The peer is the loop of the usual tutorials: images as PIL, RandomCrop, RandomHorizontalFlip,
ToTensor and Normalize in worker processes, a timm network as it comes, float32, SGD with momentum.
Ours is ``train_or_load`` with the recipe of notebooks/profiles/paper.yaml on the same network:
pixels on the device, augmentation batched there, channels-last, a checkpoint after each epoch.
Both epochs take turns. Ratios are what to read; what the network alone takes bounds them.
"""

import argparse
import os
import statistics
import tempfile
import time

import psutil
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from topgap_nb import ImageSet, Splits, TrainingSpec, train_or_load
from topgap_nb.method.preact import CIFAR10_MEAN, CIFAR10_STD
from topgap_nb.metrics.evaluation import device

CLASSES, SIZE = 10, 32


def made_up(count):
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        name="noise",
        pixels=torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator).byte(),
        labels=torch.randint(0, CLASSES, (count,), generator=generator),
        class_names=tuple("abcdefghij"),
        ids=tuple(map(str, range(count))),
    )


class Pictures(Dataset):
    """Images one by one, as torchvision's CIFAR10 gives them."""

    def __init__(self, images):
        self.pixels, self.labels = images.pixels.permute(0, 2, 3, 1).numpy(), images.labels.tolist()
        self.change = transforms.Compose([
            transforms.RandomCrop(SIZE, 4), transforms.RandomHorizontalFlip(),
            transforms.ToTensor(), transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD),
        ])  # fmt: skip

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.change(Image.fromarray(self.pixels[index])), self.labels[index]


def plain_epochs(images, backbone, batch, workers):
    """Yield images per second of one epoch after the other of the plain loop."""
    pin = device().type == "cuda"
    loader = DataLoader(
        Pictures(images), batch, shuffle=True, num_workers=workers, pin_memory=pin,
        persistent_workers=workers > 0,
    )  # fmt: skip
    model = timm.create_model(backbone, num_classes=CLASSES).to(device()).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    criterion = torch.nn.CrossEntropyLoss()
    while True:
        start = time.perf_counter()
        for x, y in loader:
            x, y = x.to(device(), non_blocking=pin), y.to(device(), non_blocking=pin)
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()
        yield len(images) / (time.perf_counter() - start)


def our_epochs(spec, images, epochs):
    """Return images per second of each epoch of our loop, and memory in MiB at its end."""
    data = Splits("noise", lambda split: images)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TOPGAP_RUNS"] = folder
        run = train_or_load(spec.replace(epochs=epochs), data, quiet=True)
    memory = psutil.Process().memory_info().rss / 2**20
    return run.history.images_per_second.tolist(), memory


def compare(backbone, images, options):
    spec = TrainingSpec(
        backbone=backbone, head="standard", batch_size=options.batch, optimizer="sgd", lr=1e-3,
        head_lr=1e-3, weight_decay=5e-4, augmentation="crop_flip_cutout", pretrained=False,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    plain = plain_epochs(images, backbone, options.batch, options.workers)
    speeds = {"plain loop": [], "ours, standard": [], "ours, Top-GAP": []}
    next(plain)
    for _ in range(options.rounds):
        speeds["plain loop"].append(next(plain))
        for name, one in (
            ("ours, standard", spec),
            ("ours, Top-GAP", spec.replace(head="topgap", k=64, sparsity_weight=1.0)),
        ):
            epochs, _ = our_epochs(one, images, 2)
            speeds[name].append(epochs[-1])
    plain.close()
    print(f"\n{backbone}, {SIZE} px, batch {options.batch}")
    base = statistics.median(speeds["plain loop"])
    for name, values in speeds.items():
        median = statistics.median(values)
        print(f"  {name:<16} {median:9.0f} images/s  {median / base:5.2f} x the plain loop")


def memory_over_trainings(backbone, images, options):
    spec = TrainingSpec(
        backbone=backbone, k=64, sparsity_weight=1.0, batch_size=options.batch,
        augmentation="crop_flip_cutout", pretrained=False, threads=torch.get_num_threads(),
    )  # fmt: skip
    memory = [our_epochs(spec.replace(seed=seed), images, 3)[1] for seed in range(3)]
    print(f"\n{backbone}: memory of the process after each of 3 trainings of 3 epochs, MiB")
    print("  " + " ".join(f"{value:.0f}" for value in memory))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    images = made_up(options.images)
    print(f"{torch.get_num_threads()} threads, {options.workers} workers, {device()}")
    whole = ("preact_resnet18",) if device().type == "cuda" else ()
    for backbone in ("test_resnet", "preact_resnet18_quarter", *whole):
        compare(backbone, images, options)
    memory_over_trainings("test_resnet", images, options)


if __name__ == "__main__":
    main()
