import os
import shutil
import subprocess
import sys

import pytest
from helpers import layouts

from topgap_nb import UserError, data_sets, open_dataset
from topgap_nb.data.registry import find_set, is_absent
from topgap_nb.store.layout import data_root

OWN_SET = """
import numpy as np

from topgap_nb.data.reading import Manifest, decoded
from topgap_nb.data.registry import DataSet
from pathlib import Path

def read(split, image_size, shade):
    file = Path(__file__).with_name(f"{shade}.png")
    labels = np.array([0, 1])
    splits = np.full(2, split, object)
    names = ("no", "yes")
    return decoded(Manifest("own", (file, file), labels, names, names, splits), image_size)

OWN = DataSet("own", "two pictures", open=read, options={"shade": "dark"}, recipe={"k": 0.5})
"""


def run_python(code, sets_folder, runs):
    env = {**os.environ, "TOPGAP_SETS": str(sets_folder), "TOPGAP_RUNS": str(runs)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("name", sorted(data_sets()))
def test_a_wrong_option_is_named_with_the_known_ones(name):
    options = data_sets()[name].options
    known = f"it has {', '.join(options)}" if options else "it has none"
    with pytest.raises(UserError, match=f"'{name}' has no option 'colour': {known}"):
        open_dataset(name, 32, colour="red")


@pytest.mark.parametrize("name", sorted(data_sets()))
def test_a_set_is_found_under_its_own_name_with_a_line_about_it(name):
    data_set = find_set(name)
    assert data_set.name == name
    assert data_set.about
    assert "\n" not in data_set.about
    assert data_set.source is None or data_set.source.name == name


def test_an_unknown_name_comes_with_the_known_ones():
    with pytest.raises(UserError, match=r"'plantd' is unknown: there are .*planted, pneumonia"):
        open_dataset("plantd")


@pytest.mark.parametrize("size", [0, 15, -64])
def test_images_too_small_for_a_backbone_are_refused(size):
    with pytest.raises(UserError, match=f"image_size = {size}"):
        open_dataset("planted", size)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fold": 5}, r"fold = 5 must lie in 0\.\.4"),
        ({"fold": -1}, r"fold = -1 must lie in 0\.\.4"),
        ({"fold": 0, "folds": 1}, "folds = 1 must be at least 2"),
    ],
)
def test_a_fold_out_of_range_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        open_dataset("planted", **fields)


def test_nothing_is_read_before_a_split_is_asked_for(root):
    data = open_dataset("pets", 32)
    with pytest.raises(UserError, match="'pets' is not in"):
        _ = data.test


@pytest.mark.parametrize("name", [name for name, s in data_sets().items() if s.source])
def test_a_set_that_is_not_here_says_in_one_line_how_to_get_it(name, root):
    assert is_absent(name)
    assert find_set(name).inputs({}) == []
    with pytest.raises(UserError) as refused:
        _ = open_dataset(name, 32).test
    text = str(refused.value)
    assert "\n" not in text
    assert f"'{name}' is not in {root}" in text
    assert f"topgap data prepare {name}" in text or find_set(name).source.instruction in text


def test_a_folder_that_is_not_whole_is_named_with_what_it_lacks(root):
    home = layouts.cub(root)
    assert not is_absent("cub")
    shutil.rmtree(home / "images")
    assert is_absent("cub")
    with pytest.raises(UserError, match="CUB_200_2011 lacks images: run `topgap data prepare cub`"):
        _ = open_dataset("cub", 32).test


def test_inputs_are_the_files_that_the_options_choose(root, tmp_path):
    cub, pets = layouts.cub(root), layouts.pets(root)
    layouts.waterbirds(root)
    layouts.picture(root / "places" / "land" / "0.png")
    assert find_set("planted").inputs({}) == []
    assert find_set("pets").inputs({"border": False}) == [pets]
    assert find_set("waterbirds").inputs({})[1] == cub
    assert find_set("folder").inputs({"path": str(tmp_path)}) == [tmp_path]
    assert find_set("pasted").inputs({"objects": "pets"}) == [pets, root / "places"]
    with pytest.raises(UserError, match="no option 'paht'"):
        find_set("folder").inputs({"paht": ""})


def test_without_the_variable_data_lies_in_downloads(monkeypatch):
    monkeypatch.delenv("TOPGAP_DATA", raising=False)
    assert data_root().parts[-2:] == ("data", "downloads")


# A person's own sets


def test_a_set_is_added_by_one_file(tmp_path):
    (tmp_path / "own_set.py").write_text(OWN_SET)
    layouts.picture(tmp_path / "dark.png", (9, 9, 9))
    layouts.picture(tmp_path / "light.png", (200, 9, 9))
    code = (
        "from topgap_nb import data_sets, open_dataset\n"
        "own = data_sets()['own']\n"
        "values = [int(open_dataset('own', 16, **o).test.pixels[1, 0, 0, 0])\n"
        "          for o in ({}, {'shade': 'light'})]\n"
        "print(own.about, dict(own.recipe), values, len(data_sets()))"
    )
    run = run_python(code, tmp_path, tmp_path / "runs")
    count = len(data_sets()) + 1
    assert run.stdout.strip() == f"two pictures {{'k': 0.5}} [9, 200] {count}", run.stderr


@pytest.mark.parametrize(
    ("file", "name", "words"),
    [("mine.py", "pets", "define a data set 'pets'"), ("pets.py", "own", "are called the same")],
)
def test_two_sets_or_files_of_one_name_are_refused(tmp_path, file, name, words):
    (tmp_path / file).write_text(OWN_SET.replace('"own", "two', f'"{name}", "two'))
    run = run_python("from topgap_nb import data_sets; data_sets()", tmp_path, tmp_path / "runs")
    last = run.stderr.strip().splitlines()[-1]
    assert words in last
    assert str(tmp_path / file) in last
    assert "sets/pets.py" in last
