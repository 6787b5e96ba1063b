"""What the project says in several files about how it is set up agrees."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXT = {
    "", ".cff", ".cfg", ".csv", ".in", ".ipynb", ".json", ".lock", ".md", ".py", ".sh", ".tex",
    ".toml", ".txt", ".yaml", ".yml",
}  # fmt: skip


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(name):
    """The logical lines of a requirements file."""
    joined = (ROOT / name).read_text().replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def names(name):
    return {normal(re.match(r"[\w.-]+", line).group()) for line in requirements(name)}


def ignored():
    lines = (ROOT / ".gitignore").read_text().splitlines()
    return {line.strip("/") for line in lines} | {".git"}


def tracked_texts():
    for folder, folders, files in os.walk(ROOT):
        inside = Path(folder).relative_to(ROOT)
        skipped = ignored()
        folders[:] = [
            name
            for name in folders
            if name not in skipped
            and (inside / name).as_posix() not in skipped
            and not name.endswith(".egg-info")
        ]
        yield from (Path(folder, name) for name in files if Path(name).suffix in TEXT)


def test_conda_asks_for_the_python_of_the_package():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = (line for line in dependencies if line.startswith("python"))
    assert python == f"python{PROJECT['requires-python']}"


def test_the_lock_is_resolved_from_the_lowest_python_of_the_package():
    lowest = re.match(r">=([\d.]+)", PROJECT["requires-python"]).group(1)
    assert f"--python-version {lowest} " in (ROOT / "requirements.lock").read_text()
    assert f"--python-version {lowest} " in (ROOT / "Makefile").read_text()


def test_the_oldest_python_is_the_one_that_ruff_checks_for():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert f">={settings['target-version'].replace('py3', '3.')}" in PROJECT["requires-python"]


@pytest.mark.parametrize("dependency", PROJECT["dependencies"])
def test_every_dependency_is_asked_for_and_locked(dependency):
    assert normal(dependency) in names("requirements.in")
    assert normal(dependency) in names("requirements.lock")


def test_everything_asked_for_is_locked():
    assert names("requirements.in") <= names("requirements.lock")


def test_the_lock_pins_every_version_with_a_hash():
    locked = requirements("requirements.lock")
    assert len(locked) > 100
    for line in locked:
        assert re.match(r"[\w.-]+==\S+ ", line), line[:80]
        hashes = re.findall(r"--hash=sha256:([0-9a-f]+)", line)
        assert hashes, line[:80]
        assert {len(digest) for digest in hashes} == {64}, line[:80]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements.in", "overrides.txt"])
def test_requirements_name_no_host(name):
    content = (ROOT / name).read_text()
    for word in ("://", "--index-url", "--extra-index-url", "--find-links", "--trusted-host"):
        assert word not in content


def test_no_file_names_a_place_on_one_machine():
    places = re.compile("|".join(["/" + "work/", "/" + r"home/\w", "/" + r"Users/\w"]))
    texts = list(tracked_texts())
    assert ROOT / "topgap_nb" / "cli.py" in texts
    found = [path for path in texts if places.search(path.read_text(errors="replace"))]
    assert found == []


def test_continuous_integration_runs_the_documented_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text().splitlines()
    assert re.search(
        r"^test:.*\n(\t@.*\n)*\tpython -m pytest", (ROOT / "Makefile").read_text(), re.MULTILINE
    )


def test_every_target_of_the_makefile_is_listed_by_help():
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE).group(1).split()
    assert sorted(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE)) == sorted(phony)


def test_binder_sets_up_as_the_makefile_does():
    script = ROOT / "postBuild"
    assert os.access(script, os.X_OK)
    assert "make setup" in script.read_text()
