"""A data set in one file of one's own gets the paper's tables, and no other file is touched."""

import subprocess
import sys

import pandas as pd
import papermill
import pytest

from topgap_nb import load_profile
from topgap_nb.store.layout import notebooks_root

# Bright blocks on noise: small, with masks, three classes that differ in shape and colour.
SET = """
import torch

from topgap_nb.data.image_set import SPLITS, ImageSet
from topgap_nb.data.registry import DataSet

NAMES = ("box", "bar", "post")


def _open(split, image_size, images):
    generator = torch.Generator().manual_seed(SPLITS.index(split))
    labels = torch.arange(images) % len(NAMES)
    pixels = torch.randint(0, 120, (images, 3, image_size, image_size), generator=generator)
    masks = torch.zeros(images, image_size, image_size, dtype=torch.bool)
    for mask, label in zip(masks, labels.tolist(), strict=True):
        down, across = torch.randint(0, image_size // 2, (2,), generator=generator).tolist()
        height, width = ((16, 16), (8, 32), (32, 8))[label]
        mask[down : down + height, across : across + width] = True
    painted = masks[:, None] & (torch.arange(3) == labels[:, None])[:, :, None, None]
    pixels = (pixels + 120 * painted).to(torch.uint8)
    ids = tuple(f"{split}-{index}" for index in range(images))
    return ImageSet("blocks", pixels, labels, NAMES, ids, masks)


RECIPE = {"epochs": 4, "batch_size": 8, "train_images": 24}
BLOCKS = DataSet("blocks", "bright blocks on noise", _open, {"images": 24}, recipe=RECIPE)
"""
# {table: the notebook that writes it, and what it is given}.
TABLES = {
    "6": ("02_training", {"SEEDED": "blocks", "FOLDED": "planted"}),
    "2": ("03_effective_receptive_field", {"DATASET": "blocks"}),
    "a3": ("04_adversarial_attacks", {"DATASET": "blocks"}),
    "7": ("06_sparsity_and_localisation", {"DATASET": "blocks"}),
}


@pytest.fixture(scope="module", autouse=True)
def sets(tmp_path_factory):
    """A folder with the one file; the notebooks share what they train on it."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "blocks.py").write_text(SET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPGAP_SETS", str(folder))
        patch.setenv("TOPGAP_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.mark.slow
@pytest.mark.parametrize("number", TABLES)
def test_a_set_in_one_file_gets_the_papers_tables(number, tmp_path):
    name, given = TABLES[number]
    path, results = notebooks_root() / f"{name}.ipynb", tmp_path / "results"
    given = {**load_profile("smoke").notebooks[name], **given, "RESULTS": str(results)}
    papermill.execute_notebook(
        path, tmp_path / path.name, {**given, "PROFILE": "smoke"}, progress_bar=False
    )
    table = pd.read_csv(results / f"table_{number}.csv")
    ours = table[(table.source == "ours") & (table.dataset == "blocks")]
    assert len(ours) == 1
    columns = [c for c in ours if c.startswith("topgap_") and not c.endswith("_std")]
    assert columns
    assert ours[columns].notna().all(axis=None)


@pytest.mark.slow
def test_the_command_line_knows_it():
    tiny = "--dataset blocks --backbone test_efficientnet --scratch --image-size 64 --epochs 1"
    command = [sys.executable, "-m", "topgap_nb.cli", "train", *tiny.split()]
    trained = subprocess.run(command, capture_output=True, text=True)
    assert trained.stdout.startswith("blocks topgap k=1 lambda=0 seed 0: accuracy on val")
    assert trained.stdout.splitlines()[0].endswith("n = 24")
