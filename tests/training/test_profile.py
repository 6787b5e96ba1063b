"""Profiles and their recipes: what is read, what may be changed, what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from topgap_nb.cluster.grid import grid_of
from topgap_nb.errors import UserError
from topgap_nb.training.profile import Profile, load_profile, profile_names, read_profile

TINY = {"backbone": "test_efficientnet", "image_size": 32}


def profile(**recipes) -> Profile:
    return Profile("mine", {name: {**TINY, **recipe} for name, recipe in recipes.items()}, {})


MINE = profile(
    planted={
        "k": 47, "sparsity_weight": 1, "lr": 0.001, "options": {"images": 24},
        "standard": {"lr": 0.0005},
    },
    pneumonia={
        "k": 188, "train_images": 40,
        "networks": {"resnet18": {"lr": 0.002, "k": 99}, "test_efficientnet": {"lr": 0.004}},
    },
)  # fmt: skip


# Recipes


def test_a_recipe_divides_into_images_and_training():
    recipe = MINE.recipe("planted", seed=3)
    assert recipe.data == {"image_size": 32, "images": 24}
    spec = recipe.spec
    assert (spec.head, spec.k, spec.sparsity_weight) == ("topgap", 47, 1.0)
    assert (spec.lr, spec.seed, spec.threads, spec.precision) == (0.001, 3, 1, "float32")
    data = recipe.open(images=16)
    assert (data.name, tuple(data.train.pixels.shape)) == ("planted", (16, 3, 32, 32))


def test_threads_and_precision_are_the_profiles():
    whole = Profile("mine", {"planted": TINY}, {}, threads=2, precision="bfloat16")
    spec = whole.recipe("planted").spec
    assert (spec.threads, spec.precision) == (2, "bfloat16")


def test_replace_divides_fields_of_the_images_from_those_of_the_training():
    recipe = MINE.recipe("planted")
    other = recipe.replace(
        fold=1, folds=3, train_images=9, image_size=48, options={"classes": 4}, k=5, epochs=2
    )
    assert other.data == {
        "image_size": 48, "images": 24, "classes": 4, "fold": 1, "folds": 3, "train_images": 9,
    }  # fmt: skip
    assert other.spec == recipe.spec.replace(k=5, epochs=2)
    assert recipe.data == {"image_size": 32, "images": 24}
    assert MINE.recipe("planted", fold=1, k=5).spec.k == 5


def test_the_standard_network_differs_in_the_method_and_where_its_recipe_says_so():
    recipe = MINE.recipe("planted", seed=3)
    plain = recipe.spec.replace(head="standard", k=1.0, sparsity_weight=0.0, lr=0.0005)
    assert recipe.standard == plain
    other = MINE.recipe("pneumonia")
    assert other.standard.lr == other.spec.lr


def test_a_network_has_its_own_fields_where_the_recipe_says_so():
    assert MINE.recipe("pneumonia").spec.lr == 0.004
    assert MINE.recipe("pneumonia", backbone="resnet34").spec.lr == 5e-4
    recipe = MINE.recipe("pneumonia", backbone="resnet18")
    assert (recipe.spec.lr, recipe.spec.k, recipe.standard.lr) == (0.002, 99, 0.002)
    assert MINE.recipe("pneumonia", backbone="resnet18", k=7).spec.k == 7
    assert MINE.recipe("pneumonia").replace(backbone="resnet18").spec == recipe.spec


def test_the_default_recipe_serves_a_set_without_its_own():
    given = {"k": 0.1, "augmentation": "shift", "epochs": 3}
    small = profile(default=given, planted={"k": 5})
    assert small.recipe("planted").spec.k == 5
    assert small.recipe("planted").spec.augmentation == "flip_shift"
    spec = small.recipe("cub").spec
    assert (spec.k, spec.augmentation, spec.epochs) == (0.1, "shift", 3)


def test_a_sets_own_recipe_goes_before_the_default_and_the_profiles_before_both(tmp_path):
    # The sets of $TOPGAP_SETS are looked up once in a process, so this takes one of its own.
    (tmp_path / "dots.py").write_text(
        "from topgap_nb.data.registry import DataSet\n"
        "DOTS = DataSet('dots', 'dots', open=lambda split, image_size, seed: None,\n"
        "               options={'seed': 0},\n"
        "               recipe={'epochs': 9, 'image_size': 24, 'options': {'seed': 4}})\n"
    )
    found = in_own_process(
        tmp_path,
        "from topgap_nb.training.profile import Profile\n"
        "default = {'image_size': 32, 'epochs': 3, 'k': 0.1}\n"
        "r = Profile('mine', {'default': default}, {}).recipe('dots')\n"
        "p = Profile('mine', {'dots': default, 'default': {}}, {}).recipe('dots')\n"
        "print(r.spec.epochs, r.spec.k, r.data, p.spec.epochs, p.data)",
    )
    assert found == "9 0.1 {'image_size': 24, 'seed': 4} 3 {'image_size': 32}"


def in_own_process(sets: Path, script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TOPGAP_SETS": str(sets)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("recipe", "changes", "words"),
    [
        ({"wings": 2}, {}, "recipe of 'planted' in profile 'mine': wings is unknown; there are"),
        ({"standard": {"wings": 2}}, {}, "wings is unknown"),
        ({"networks": {"resnet18": {"image_size": 9}}}, {}, "image_size is unknown"),
        ({}, {"wings": 2}, "a training has no wings"),
        ({"epochs": "many"}, {}, "epochs = 'many' is no whole number"),
    ],
)
def test_a_field_that_does_not_exist_is_refused(recipe, changes, words):
    with pytest.raises(UserError, match=words):
        profile(planted=recipe).recipe("planted", **changes)


def test_a_set_without_a_recipe_and_an_unknown_set_are_refused():
    with pytest.raises(UserError, match="no recipe for 'cub': it has planted, pneumonia, and no"):
        MINE.recipe("cub")
    with pytest.raises(UserError, match="'fish' is unknown: there are"):
        MINE.recipe("fish")
    with pytest.raises(UserError, match="recipe of 'planted' in profile 'mine' has no image_size"):
        Profile("mine", {"planted": {"k": 3}}, {}).recipe("planted")


# Files


def test_every_profile_of_the_workbook_can_be_read_and_makes_its_grid():
    assert {"demo", "paper", "smoke", "real/pets"} <= set(profile_names())
    for name in profile_names():
        read = load_profile(name)
        assert read.name == name
        for dataset in set(read.recipes) - {"default"}:
            recipe = read.recipe(dataset)
            assert recipe.standard.head == "standard"
        assert not read.grid or grid_of(read)


def test_an_unknown_profile_is_refused_with_the_names_of_all():
    with pytest.raises(UserError, match=r"'nobodys' is unknown: there are .*demo, .*real/cub"):
        load_profile("nobodys")


def read(tmp_path, text: str) -> Profile:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return read_profile(file, "mine")


def test_a_profile_has_defaults_for_all_but_recipes_and_notebooks(tmp_path):
    found = read(tmp_path, "recipes: {planted: {image_size: 32}}\nnotebooks: {00_tour: }\n")
    assert (found.notebooks, found.only, found.grid, found.sets) == ({"00_tour": {}}, (), (), {})
    assert (found.threads, found.precision, found.cell_seconds) == (1, "float32", 1200)


def test_a_profile_takes_from_the_one_it_extends_what_it_does_not_say_itself(tmp_path):
    base = load_profile("paper")
    found = read(tmp_path, "extends: paper\nrecipes: {cub: {k: 9}}\ncell_seconds: 5\ngrid: []\n")
    assert found.recipes == {**base.recipes, "cub": {"k": 9}}
    assert (found.cell_seconds, found.grid) == (5, ())
    rest = ("notebooks", "threads", "precision", "only", "first", "sets")
    assert all(getattr(found, name) == getattr(base, name) for name in rest)


def test_the_part_on_cifar10_attacks_what_its_grid_trains():
    part = load_profile("paper/cifar10")
    runs, attacked = grid_of(part), part.notebooks["04_adversarial_attacks"]
    specs = {run.spec for run in runs}
    assert specs <= {run.spec for run in grid_of(load_profile("paper"), "cifar10")}
    ours = part.recipe("cifar10").spec
    pairs = [(ours.k, ours.sparsity_weight), *map(tuple, attacked["ALSO"])]
    trained = {(s.k, s.sparsity_weight) for s in specs if s.head == "topgap"}
    assert set(pairs) == trained
    assert len(pairs) == len(trained)


BOTH = "recipes: {}\nnotebooks: {}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipes: [", "is not a profile"),
        ("- 1", "is not a profile"),
        ("", "is not a profile"),
        ("notebooks: {}", "`recipes` is missing or no mapping"),
        ("recipes: {}\nnotebooks: [00_tour]", "`notebooks` is missing or no mapping"),
        (BOTH + "cell_seconds: long", "`cell_seconds` is missing or no whole number"),
        (BOTH + "only: '04'", "`only` is missing or no list"),
        (BOTH + "grid: {dataset: planted}", "`grid` is missing or no list"),
        (BOTH + "wings: 2", "wings is unknown; a profile may have .*cell_seconds"),
        ("extends: nobodys\n" + BOTH, "'nobodys' is unknown"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_by_name(tmp_path, text, words):
    with pytest.raises(UserError, match=words) as error:
        read(tmp_path, text)
    assert "nobodys" in text or "mine.yaml" in str(error.value)
