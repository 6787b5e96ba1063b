"""What is imported is declared, what is declared is locked, and no file knows one machine."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT.get("optional-dependencies", {})
LOCKED = [
    line
    for line in (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]
TEXT = {
    "", ".cff", ".cfg", ".csv", ".in", ".ipynb", ".json", ".lock", ".md", ".py", ".pyi", ".sh",
    ".toml", ".txt", ".yaml", ".yml",
}  # fmt: skip


def name_of(requirement):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def declared():
    extras = (entry for entries in EXTRAS.values() for entry in entries)
    return {name_of(entry) for entry in (*PROJECT["dependencies"], *extras)}


def imported():
    """Every third-party package that the package imports, also inside functions."""
    for path in (ROOT / "topgap_nb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.split(".")[0]


def test_what_is_imported_is_declared():
    owners = packages_distributions()
    names = set(imported()) - set(sys.stdlib_module_names) - {"topgap_nb"}
    assert {"torch", "nbformat"} <= names
    missing = {n for n in names if not {name_of(owner) for owner in owners[n]} & declared()}
    assert missing == set()


def test_what_is_declared_is_locked_with_hashes():
    assert declared() - {name_of(PROJECT["name"])} <= {name_of(line) for line in LOCKED}
    for line in LOCKED:
        assert re.match(r"[\w.-]+==\S+ ", line), line[:80]
        hashes = re.findall(r"--hash=sha256:([0-9a-f]+)", line)
        assert {len(digest) for digest in hashes} == {64}, line[:80]


def test_the_lock_is_resolved_from_the_lowest_python_of_the_package():
    lowest = re.match(r">=([\d.]+)", PROJECT["requires-python"])[1]
    assert f"--python-version {lowest} " in (ROOT / "requirements.lock").read_text()


def test_no_file_names_a_place_on_one_machine_or_a_host_of_packages():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    places = re.compile(r"(?<![\w.>-])/(?:work/|home/\w|Users/\w)")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    texts = [path for path in paths if path.suffix in TEXT and path.is_file()]
    assert ROOT / "topgap_nb" / "cli.py" in texts
    assert [p for p in texts if places.search(p.read_text(errors="replace"))] == []
    for name in ("requirements.lock", "requirements.in", "overrides.txt"):
        assert not re.search(r"://|-index-url|--find-links", (ROOT / name).read_text())
