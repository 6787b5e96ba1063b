"""ERF maps against one full backward pass per position; PGD-20, AutoAttack against torchattacks.

python benchmarks/metrics.py [--images 32] [--rounds 3]
"""

import argparse
import statistics
import time

import torch
import torchattacks

from topgap_nb import attack, load_profile, output_maps, train_or_load
from topgap_nb.metrics.erf import erf_map


def seconds(work, rounds):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def fields(model, images, rounds):
    """Nine positions, as Figure 3 has them."""
    side = output_maps(model, images[:1]).shape[-1]
    steps = [0, side // 2, side - 1]
    positions = [(row, column) for row in steps for column in steps]

    def one_pass_each():
        model.requires_grad_(True)
        maps = []
        for row, column in positions:
            pixels = images.clone().requires_grad_()
            output_maps(model, pixels)[:, :, row, column].sum().backward()
            maps.append(pixels.grad.abs().sum(1))
        model.zero_grad()
        model.requires_grad_(False)
        return torch.stack(maps)

    theirs, expected = seconds(one_pass_each, rounds)
    ours, found = seconds(lambda: erf_map.__wrapped__(model, images, positions), rounds)
    difference = (found - expected).abs().max() / expected.abs().max()
    count = len(positions) * len(images)
    print(f"  one full pass per position {count / theirs:8.1f} ERF maps/s")
    print(f"  erf_map                    {count / ours:8.1f} ERF maps/s   {theirs / ours:.2f} x")
    print(f"  largest difference         {difference:.1e} of the largest gradient")


def robustness(model, images, labels, budget, rounds):
    def peer():
        # As a user would call it: parameters keep the gradients that they have after training.
        model.requires_grad_(True)
        found = torchattacks.PGD(model, eps=budget, alpha=budget / 4, steps=20)(images, labels)
        model.requires_grad_(False)
        with torch.no_grad():
            return (model(found).argmax(1) == labels).float().mean().item()

    theirs, expected = seconds(peer, rounds)
    ours, found = seconds(
        lambda: attack(model, images, labels, "pgd", budget, 20).robust.float().mean().item(),
        rounds,
    )
    print(f"  torchattacks PGD-20 at {budget * 255:g}/255   robust {expected:.3f}")
    print(f"  ours                         robust {found:.3f}   {ours / theirs:.2f} x the time")


def ensemble(model, images, labels, budget, rounds):
    """AutoAttack as the masking report runs it: on what plain PGD has left."""
    # torchattacks' FAB takes no other layout.
    images = images.contiguous()

    def peer():
        theirs = torchattacks.AutoAttack(model, eps=budget, n_classes=8, seed=0)
        with torch.no_grad():
            return (model(theirs(images, labels)).argmax(1) == labels).float().mean().item()

    def ours():
        robust = attack(model, images, labels, "pgd", budget, 20).robust
        if robust.any():
            given = images[robust], labels[robust]
            robust[robust.clone()] = attack(model, *given, "autoattack", budget, 10).robust
        return robust.float().mean().item()

    peer_time, expected = seconds(peer, rounds)
    time_taken, found = seconds(ours, rounds)
    print(f"  torchattacks AutoAttack at {budget * 255:g}/255   robust {expected:.3f}")
    print(
        f"  plain PGD, then AutoAttack           robust {found:.3f}   "
        f"{time_taken / peer_time:.2f} x the time"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    recipe = load_profile("demo").recipe("planted")
    data = recipe.open()
    test = data.test.sample(options.images)
    images = test.images.to(memory_format=torch.channels_last)
    for spec in (recipe.standard, recipe.spec):
        model = train_or_load(spec, data).model
        print(f"\n== {spec.title}, {options.images} images")
        fields(model, images, options.rounds)
        for budget in (1 / 255, 8 / 255):
            robustness(model, images, test.labels, budget, options.rounds)
        few = slice(options.images // 4)
        ensemble(model, images[few], test.labels[few], 0.25 / 255, rounds=1)


if __name__ == "__main__":
    main()
