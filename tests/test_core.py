"""The package without its extras: what trains and measures needs none of them."""

import ast
import os
import re
import subprocess
import sys
import tomllib

import pytest

from topgap_nb.store.layout import PACKAGE

PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
# Names to import, where they are not those to install.
IMPORTED = {"grad-cam": "pytorch_grad_cam", "jupyter-client": "jupyter_client"}
EXTRAS = sorted(
    IMPORTED.get(name, name.replace("-", "_"))
    for extra in PROJECT["optional-dependencies"].values()
    for name in (re.match(r"[\w-]+", entry)[0] for entry in extra)
)
# Stands around notebooks, or around many trainings.
NEED_EXTRAS = ("workbook", "cluster")
SCRIPT = f"""
import sys
from importlib.machinery import PathFinder

EXTRAS = {EXTRAS}

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in EXTRAS:
            return super().find_spec(name, path, target)

sys.meta_path = [WithoutExtras if finder is PathFinder else finder for finder in sys.meta_path]

from topgap_nb import (
    Study, TrainingSpec, clean_accuracy, init_model, is_robust, mask_iou, open_dataset, own_cam,
    predict, train_or_load,
)

data = open_dataset("planted", 32, images=32, classes=4)
spec = TrainingSpec(backbone="test_efficientnet", pretrained=False, epochs=1, k=3)
assert init_model(spec, data.num_classes).eval()(data.test.images[:2]).shape == (2, 4)
model = train_or_load(spec, data).model
test = data.test.subset(range(6))
accuracy = clean_accuracy(predict(model, test), test.labels)
assert accuracy.n == 6
assert is_robust(model, test.images, test.labels, "pgd", 1 / 255, steps=2).shape == (6,)
assert mask_iou(own_cam(model, test.images), test.masks).shape == (6,)
study = Study("some", "smoke")
study.row("own", {{"accuracy": accuracy}}, method="Top-GAP")
print(len(study.table("own")), sorted(set(EXTRAS) & set(sys.modules)))
"""


@pytest.mark.slow
def test_the_core_trains_measures_and_records_without_the_extras(runs):
    assert {"ray", "accelerate", "onnx", "sphinx", "papermill", "captum"} <= set(EXTRAS)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "TOPGAP_RUNS": str(runs)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["1", "[]"]


def test_only_the_rooms_around_notebooks_and_grids_import_extras_at_once():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        if room in NEED_EXTRAS:
            continue
        # Of the module itself: a function may ask for an extra when it is called.
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if used := {name.partition(".")[0] for name in names} & set(EXTRAS):
                found[path.name] = used
    assert found == {}
