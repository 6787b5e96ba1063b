"""A key changes when, and only when, what it stands for does."""

import ast
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from topgap_nb.errors import NoFingerprint
from topgap_nb.method.model import StandardNet, TopGapNet
from topgap_nb.store.fingerprint import (
    code_fingerprint,
    fingerprint,
    imported_modules,
    modules_behind,
    public_names,
    source_hash,
)
from topgap_nb.store.layout import PACKAGE

MODULES = [
    f"topgap_nb.{'.'.join(path.relative_to(PACKAGE).with_suffix('').parts)}"
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
]


@dataclass
class Settings:
    k: float
    names: tuple = ()


def test_kinds_of_numbers_differ():
    assert len({fingerprint(value) for value in (1, 1.0, True, "1", None, [1], 2)}) == 7


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], (1, 2)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (Settings(0.1), {"k": 0.1, "names": []}),
        (torch.arange(6).view(2, 3), np.arange(6).reshape(2, 3)),
        (torch.arange(6.0)[::2], torch.tensor([0.0, 2.0, 4.0])),
        (np.arange(3)[::-1], np.array([2, 1, 0])),
        (torch.arange(6).view(2, 3).T.contiguous().T, torch.arange(6).view(2, 3)),
    ],
)
def test_equal_content_has_one_key(one, other):
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(0), torch.zeros(0, 2)),
        (torch.tensor([1, 0]), torch.tensor([0, 1])),
        (torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.float16)),
        (Settings(0.1), Settings(0.2)),
        ([["a"], "b"], ["a", ["b"]]),
    ],
)
def test_other_content_has_another_key(one, other):
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("value", [object(), lambda: 1, {1, 2}, b"bytes", [object()]])
def test_what_cannot_be_hashed_is_refused(value):
    with pytest.raises(NoFingerprint):
        fingerprint(value)


# Networks


def net(**options):
    torch.manual_seed(0)
    return TopGapNet("test_resnet", 3, **{"k": 4, **options})


def test_equal_networks_have_one_key_whatever_their_mode():
    before = fingerprint(net())
    assert fingerprint(net().eval()) == before
    assert fingerprint(net().requires_grad_(False)) == before


@pytest.mark.parametrize(
    "options", [{"k": 4.0 / 64}, {"k": 5}, {"k": "auto"}, {"dropout": 0.5}, {"maps": 3}]
)
def test_other_settings_are_another_network(options):
    assert fingerprint(net(**options)) != fingerprint(net())


@pytest.mark.parametrize(
    "backbone", ["tf_efficientnet_lite0", "vgg11_bn", "preact_resnet18_quarter", "test_convnext"]
)
def test_networks_of_every_family_can_be_hashed(backbone):
    assert fingerprint(TopGapNet(backbone, 3, k=3)) != fingerprint(TopGapNet(backbone, 3, k=4))


def test_a_standard_network_can_be_hashed_and_is_not_its_backbone():
    torch.manual_seed(0)
    standard = StandardNet("test_resnet", 3)
    assert fingerprint(standard) != fingerprint(standard.net)


class Foreign(nn.Module):
    def forward(self, x):
        return x


def test_a_foreign_layer_a_hook_and_a_replaced_forward_are_refused():
    with pytest.raises(NoFingerprint, match="code of Foreign"):
        fingerprint(nn.Sequential(nn.Linear(2, 2), Foreign()))
    hooked = nn.Sequential(nn.Linear(2, 2))
    handle = hooked[0].register_forward_hook(lambda *_: None)
    with pytest.raises(NoFingerprint, match="0 has a hook"):
        fingerprint(hooked)
    handle.remove()
    assert fingerprint(hooked)
    hooked[0].forward = lambda x: x
    with pytest.raises(NoFingerprint, match="code of Linear"):
        fingerprint(hooked)
    hidden = nn.Sequential(nn.Linear(2, 2))
    hidden.more = (nn.Linear(2, 2),)
    with pytest.raises(NoFingerprint, match="outside the network's layers"):
        fingerprint(hidden)


def test_the_attributes_of_layers_count():
    one, other = nn.Sequential(nn.MaxPool2d(2)), nn.Sequential(nn.MaxPool2d(2))
    assert fingerprint(one) == fingerprint(other)
    other[0].ceil_mode = True
    assert fingerprint(one) != fingerprint(other)


# Files


def test_a_file_counts_by_content_and_a_folder_by_its_files(tmp_path):
    file = tmp_path / "one"
    missing = fingerprint(file)
    file.write_text("a")
    before = fingerprint(file)
    os.utime(file, (0, 0))
    assert fingerprint(file) == before != missing
    file.write_text("b")
    assert fingerprint(file) != before

    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "two").write_text("c")
    assert fingerprint(tmp_path) != before


# Code

CODE = '''
"""A module."""

import math

LIMIT = 3  # at most


def area(r, scale=1):
    """Return the area."""
    if scale:
        return math.pi * r**2
    return None


class Shape:
    """A shape."""

    side: int = 1
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# at most", "# never more"),
        ('"""Return the area."""', '"""Return what it covers."""'),
        ('    """Return the area."""\n', ""),
        ('"""A module."""', '"""Another."""'),
        ('    """A shape."""\n', '    """A form.\n\n    With two lines.\n    """\n'),
        ("\n\n\nclass", "\n\n# Shapes\n\n\nclass"),
        ("math.pi * r**2", "(math.pi * r**2)"),
    ],
)
def test_comments_docstrings_and_layout_change_no_key(old, new):
    assert old in CODE
    assert source_hash(CODE.replace(old, new)) == source_hash(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("scale=1", "scale=True"),
        ("scale=1", "scale=None"),
        ("r**2", "r**3"),
        ("return None", "return"),
        ("side: int", "side: float"),
        ("import math", "import cmath as math"),
    ],
)
def test_code_changes_the_key(old, new):
    assert old in CODE
    assert source_hash(CODE.replace(old, new)) != source_hash(CODE)


def test_imports_are_found_wherever_they_stand():
    source = """
import numpy
import topgap_nb.method.loss
from topgap_nb.method import pooling, preact
from topgap_nb.metrics.erf import erf_map
def later():
    from topgap_nb import attack
"""
    assert set(imported_modules(source)) == {
        "topgap_nb.method.loss", "topgap_nb.method.pooling", "topgap_nb.method.preact",
        "topgap_nb.metrics.erf", "topgap_nb.metrics.attacks",
    }  # fmt: skip


def test_the_modules_behind_a_metric_are_those_that_decide_it():
    behind = modules_behind(["topgap_nb.metrics.erf"])
    assert {"topgap_nb.metrics.evaluation", "topgap_nb.method.pooling"} < behind
    assert not {"topgap_nb.metrics.cam", "topgap_nb.results.tables"} & behind
    # What is kept, and what is refused, decides no number.
    assert not [name for name in behind if name.startswith(("topgap_nb.store", "topgap_nb.errors"))]


def test_no_module_imports_relatively_which_keys_would_not_see():
    for name in MODULES:
        tree = ast.parse((PACKAGE.parent / f"{name.replace('.', '/')}.py").read_text())
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not [node for node in nodes if node.level], name


def test_every_public_name_is_defined_where_the_stub_says():
    for name, module in public_names().items():
        path = PACKAGE.parent / f"{module.replace('.', '/')}.py"
        names = {getattr(node, "name", None) for node in ast.parse(path.read_text()).body}
        names |= {
            target.id
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        assert name in names, (name, module)


EDITS = """
import importlib, sys
from pathlib import Path
from topgap_nb.store import fingerprint as module
package = Path(module.__file__).parents[1]
def keys():
    fresh = importlib.reload(module)
    return {name: fresh.code_fingerprint(f"topgap_nb.metrics.{name}") for name in ("erf", "cam", "shifts")}
before = keys()
for file, line in (
    ("metrics/erf.py", "# a comment"),
    ("metrics/erf.py", "CHANGED = 1"),
    ("method/pooling.py", "CHANGED = 1"),
    ("store/store.py", "CHANGED = 1"),
    ("workbook/runner.py", "CHANGED = 1"),
):
    path = package / file
    source = path.read_text()
    path.write_text(source + "\\n" + line + "\\n")
    print(file, line[0], *sorted(name for name, key in keys().items() if key != before[name]))
    path.write_text(source)
assert keys() == before
"""  # noqa: E501


def test_a_change_reaches_the_modules_that_import_it_and_no_other(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "topgap_nb", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", EDITS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "metrics/erf.py #",
        "metrics/erf.py C erf",
        "method/pooling.py C cam erf",
        "store/store.py C",
        "workbook/runner.py C",
    ]


def test_modules_of_others_have_no_code_here():
    assert code_fingerprint("numpy", "torch.nn") == code_fingerprint()


def test_threads_take_turns_at_parsing(monkeypatch):
    at_once, most, whole = [], [], ast.parse

    def slow(source):
        at_once.append(source)
        most.append(len(at_once))
        time.sleep(0.01)
        at_once.pop()
        return whole(source)

    monkeypatch.setattr(ast, "parse", slow)
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(source_hash, ["one = 1", "two = 2"] * 8))
    assert len(set(hashes)) == 2
    assert max(most) == 1


def test_a_view_counts_as_what_it_shows():
    shown = torch.tensor([[0, 2], [1, 3]])
    assert fingerprint(torch.arange(4).view(2, 2).T) == fingerprint(shown)
    assert fingerprint(torch.tensor(1).expand(1)) == fingerprint(torch.tensor([1]))
    assert fingerprint(torch.tensor([5, 7]).expand(3, 2)) == fingerprint(torch.tensor([[5, 7]] * 3))
