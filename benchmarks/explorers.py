"""How fast the explorers answer: one change of a control, from its value to the new picture."""

import statistics
import time

from topgap_nb import (
    attack_explorer,
    field_explorer,
    k_explorer,
    load_profile,
    planted_explorer,
    train_or_load,
)


def main():
    recipe = load_profile("demo").recipe("planted")
    data = recipe.open()
    topgap = train_or_load(recipe.spec, data).model
    networks = {"Top-GAP": topgap, "standard": train_or_load(recipe.standard, data).model}
    few = data.test.subset(range(8))
    moves = {
        "k": (k_explorer(topgap, few), "k", [10, 100, 300, 576, 47]),
        "receptive field": (field_explorer(networks, few), "row", [2, 6, 12, 18, 24]),
        "attack, 1 step": (attack_explorer(networks, few), "epsilon", [0.5, 2.0, 4.0, 6.0, 8.0]),
        "attack, 4 steps": (attack_explorer(networks, few), "steps", [4] * 5),
        "planted world": (
            planted_explorer(networks, recipe.data["image_size"]),
            "world",
            [1, 2, 3, 4, 5],
        ),
    }
    for name, (explorer, control, values) in moves.items():
        widget = explorer.widget
        slider = widget.children[0].children[list(explorer.controls()).index(control)]
        seconds = []
        for value in values:
            slider.value = slider.min
            start = time.perf_counter()
            slider.value = value
            seconds.append(time.perf_counter() - start)
        print(f"{name:<18} {1000 * statistics.median(seconds):5.0f} ms", flush=True)


if __name__ == "__main__":
    main()
