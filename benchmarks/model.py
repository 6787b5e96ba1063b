"""Ours beside the plain timm network and pytorch-grad-cam, in one run on the same images.

    python benchmarks/model.py [--size 224] [--batch 16] [--rounds 5]

Every line is a median over rounds in which all contestants take turns, so that a slow moment of the
machine hits all of them. Ratios are what to read.
"""

import argparse
import statistics
import time
import warnings

import timm
import torch
import torch.nn.functional as F
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from topgap_nb import StandardNet, TopGapNet, grad_cam, own_cam, recipro_cam, top_gap_loss
from topgap_nb.training.depthwise import speed_up_depthwise

CLASSES = 8


def take_turns(contestants, rounds):
    """Return the median seconds of each contestant."""
    seconds = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, work in contestants.items():
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(title, seconds, base, unit):
    print(f"\n{title}")
    for name, value in seconds.items():
        print(f"  {name:<34} {value / unit * 1000:9.2f} ms   {value / seconds[base]:6.2f} x {base}")


def training(backbone, images, labels, rounds):
    def step(model, maps_of=None):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

        def work():
            if maps_of is None:
                loss = F.cross_entropy(model(images), labels)
            else:
                maps = maps_of(model)
                loss = top_gap_loss(model.pool(maps), maps, labels).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return work

    def network(make):
        return make().train().to(memory_format=torch.channels_last)

    def ours():
        return network(lambda: TopGapNet(backbone, CLASSES, k=0.1))

    plain = network(lambda: timm.create_model(backbone, num_classes=CLASSES))
    contestants = {
        "timm": step(plain),
        "Top-GAP, fused": step(ours(), lambda m: m.head(m.features(images))),
        "Top-GAP, unfused": step(ours(), lambda m: m.head.unfused(m.features(images))),
        "Top-GAP, fused, fast depthwise": step(
            speed_up_depthwise(ours()), lambda m: m.class_maps(images)
        ),
    }
    report(f"{backbone}: one training step", take_turns(contestants, rounds), "timm", 1)


def inference(backbone, images, rounds):
    plain = timm.create_model(backbone, num_classes=CLASSES).eval()
    ours = TopGapNet(backbone, CLASSES, k=0.1).eval()
    plain, ours = (m.to(memory_format=torch.channels_last) for m in (plain, ours))

    def quietly(work):
        def run():
            with torch.inference_mode():
                work()

        return run

    contestants = {
        "timm": quietly(lambda: plain(images)),
        "Top-GAP, logits": quietly(lambda: ours(images)),
        "Top-GAP, CAM": quietly(lambda: ours.cam(images)),
        "Top-GAP, unfused": quietly(lambda: ours.pool(ours.head.unfused(ours.features(images)))),
    }
    report(f"{backbone}: inference per image", take_turns(contestants, rounds), "timm", len(images))


def maps(backbone, images, labels, rounds):
    standard, ours = StandardNet(backbone, CLASSES).eval(), TopGapNet(backbone, CLASSES).eval()
    standard, ours = (m.to(memory_format=torch.channels_last) for m in (standard, ours))
    layer = dict(standard.named_modules())[f"net.{standard.net.feature_info[-1]['module']}"]
    targets = [ClassifierOutputTarget(int(label)) for label in labels]
    peer = GradCAM(standard, [layer])
    contestants = {
        "pytorch-grad-cam, Grad-CAM": lambda: peer(images, targets),
        "own CAM": lambda: own_cam(ours, images, labels),
        "Grad-CAM, closed form": lambda: grad_cam(standard, images, labels),
        "Grad-CAM, at the last stage": lambda: grad_cam(
            standard, images, labels, layer=f"net.{standard.net.feature_info[-1]['module']}"
        ),
        "Recipro-CAM, closed form": lambda: recipro_cam(standard, images, labels),
    }
    seconds = take_turns(contestants, rounds)
    print(f"\n{backbone}: maps per second")
    base = seconds["pytorch-grad-cam, Grad-CAM"]
    for name, value in seconds.items():
        print(f"  {name:<34} {len(images) / value:9.1f} maps/s {base / value:6.2f} x the peer's")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    for backbone, size in (("resnet18", options.size), ("tf_efficientnet_lite0", 96)):
        images = torch.rand(options.batch, 3, size, size).to(memory_format=torch.channels_last)
        labels = torch.randint(0, CLASSES, (options.batch,))
        print(f"\n== {backbone}, {size} px, batch {options.batch}, {CLASSES} classes")
        training(backbone, images, labels, options.rounds)
        inference(backbone, images, options.rounds)
        maps(backbone, images, labels, options.rounds)


if __name__ == "__main__":
    main()
