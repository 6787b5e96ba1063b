"""Made once, whole or not at all, and made again when it is damaged."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from topgap_nb.errors import NoFingerprint
from topgap_nb.store.store import (
    ABOUT,
    MISSING,
    Kind,
    entry_of,
    get_or_make,
    look_up,
    partial_of,
    write_atomic,
)


def write_two(value, folder):
    (folder / "a.txt").write_text(value[0])
    (folder / "inner").mkdir()
    (folder / "inner" / "b.txt").write_text(value[1])


def read_two(folder):
    return [(folder / "a.txt").read_text(), (folder / "inner" / "b.txt").read_text()]


# As networks, decoded images and executed notebooks are kept.
SHAPES = {
    "tensors": (
        Kind(
            "things",
            lambda value, folder: save_file({"x": torch.tensor(value)}, folder / "x.safetensors"),
            lambda folder: load_file(folder / "x.safetensors")["x"].tolist(),
        ),
        [1, 2],
    ),
    "array": (
        Kind(
            "things",
            lambda value, folder: np.save(folder / "pixels.npy", np.array(value)),
            lambda folder: np.load(folder / "pixels.npy", mmap_mode="r").tolist(),
        ),
        [[3, 4]],
    ),
    "folder": (Kind("things", write_two, read_two), ["one", "two"]),
}
KIND, VALUE = SHAPES["folder"]
KEY = {"k": 1}


def forbidden(partial):
    raise AssertionError("made although it was there")


def visible(runs):
    return sorted(path.name for path in (runs / "things").glob("[!.]*"))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_is_made_once_and_read_afterwards(runs, shape):
    kind, value = SHAPES[shape]
    assert get_or_make(kind, "thing", KEY, lambda _: value) == value
    assert get_or_make(kind, "thing", KEY, forbidden) == value
    (name,) = visible(runs)
    assert name.startswith("thing-")
    about = json.loads((runs / "things" / name / ABOUT).read_text())
    assert about["key"] == {"k": ["int", 1]}


def test_other_keys_names_and_kinds_are_other_entries(runs):
    places = {entry_of(KIND, name, key) for name in ("a", "b") for key in (KEY, {"k": 1.0})}
    places.add(entry_of(Kind("others", write_two, read_two), "a", KEY))
    assert len(places) == 5


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def lose(file):
    file.unlink()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("damage", [truncate, flip, lose])
def test_damaged_contents_are_set_aside_and_made_again(runs, shape, damage):
    kind, value = SHAPES[shape]
    get_or_make(kind, "thing", KEY, lambda _: value)
    entry = entry_of(kind, "thing", KEY)
    files = [file for file in entry.rglob("*") if file.is_file() and file.name != "entry.json"]
    for file in files:
        damage(file)
        with pytest.warns(UserWarning, match=f"{entry.name} is damaged .* made again"):
            assert get_or_make(kind, "thing", KEY, lambda _: value) == value
        assert visible(runs) == [entry.name, f"{entry.name}.damaged"]
        assert get_or_make(kind, "thing", KEY, forbidden) == value


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"files": []}', '{"files": {"x": "0"}}'])
def test_so_is_an_entry_whose_checksums_are_lost(runs, text):
    get_or_make(KIND, "thing", KEY, lambda _: VALUE)
    (entry_of(KIND, "thing", KEY) / "entry.json").write_text(text)
    with pytest.warns(UserWarning, match="is damaged"):
        assert get_or_make(KIND, "thing", KEY, lambda _: VALUE) == VALUE
    assert get_or_make(KIND, "thing", KEY, forbidden) == VALUE


def test_a_maker_that_fails_leaves_no_entry(runs):
    def fail(partial):
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        get_or_make(KIND, "thing", KEY, fail)
    assert visible(runs) == []
    assert get_or_make(KIND, "thing", KEY, lambda _: VALUE) == VALUE


def test_a_writer_that_fails_leaves_no_half_entry(runs):
    def write_half(value, folder):
        (folder / "a.txt").write_text(value[0])
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        get_or_make(Kind("things", write_half, read_two), "thing", KEY, lambda _: VALUE)
    assert visible(runs) == []
    assert look_up(KIND, entry_of(KIND, "thing", KEY)) is MISSING


def test_what_was_done_before_an_interruption_is_found_again(runs):
    def interrupted(partial):
        assert not partial.exists()
        partial.mkdir()
        (partial / "epoch_1").write_text("done")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get_or_make(KIND, "thing", KEY, interrupted)

    def resumed(partial):
        return [(partial / "epoch_1").read_text(), "rest"]

    assert get_or_make(KIND, "thing", KEY, resumed) == ["done", "rest"]
    assert not partial_of(entry_of(KIND, "thing", KEY)).exists()
    assert visible(runs) == [entry_of(KIND, "thing", KEY).name]


def full_disk(value, folder):
    (folder / "a.txt").write_text(value[0])
    raise OSError(28, "No space left on device")


def test_a_full_disk_costs_time_and_no_result(runs):
    kind = Kind("things", full_disk, read_two)
    partial_of(entry_of(kind, "thing", KEY)).mkdir(parents=True)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"cannot be kept .*No space left.* made again"):
            assert get_or_make(kind, "thing", KEY, lambda _: VALUE) == VALUE
    # What an interrupted maker has done is still there for the next one.
    assert visible(runs) == [f"{entry_of(kind, 'thing', KEY).name}.partial"]
    assert [path.suffix for path in (runs / "things").iterdir() if path.is_dir()] == [".partial"]


FULL = """
import resource, signal, warnings
from test_kind import KIND
from topgap_nb.store.store import get_or_make
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(len(get_or_make(KIND, "thing", {}, lambda _: [0.0] * 5000)))
print("cannot be kept" in str(caught[0].message))
"""
TENSORS = """
import torch
from safetensors.torch import load_file, save_file
from topgap_nb.store.store import Kind
KIND = Kind(
    "things",
    lambda value, folder: save_file({"x": torch.tensor(value)}, folder / "x.safetensors"),
    lambda folder: load_file(folder / "x.safetensors")["x"].tolist(),
)
"""


def in_a_process(script, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_disk_that_is_full_for_tensors_is_tolerated_too(runs, tmp_path):
    (tmp_path / "test_kind.py").write_text(TENSORS)
    process = in_a_process(FULL, PYTHONPATH=os.pathsep.join([str(tmp_path), str(Path.cwd())]))
    output, errors = process.communicate()
    assert output.split() == ["5000", "True"], errors
    assert visible(runs) == []


def test_a_value_that_cannot_be_read_back_is_returned_all_the_same(runs):
    def unreadable(folder):
        raise ValueError("unreadable")

    kind = Kind("things", write_two, unreadable)
    with pytest.warns(UserWarning, match="unreadable"):
        assert get_or_make(kind, "thing", KEY, lambda _: VALUE) == VALUE


RACE = """
import sys, time
from pathlib import Path
from topgap_nb.store.store import Kind, get_or_make
log = Path(sys.argv[1])
kind = Kind(
    "things",
    lambda value, folder: (folder / "x").write_text(value),
    lambda folder: (folder / "x").read_text(),
)
def make(partial):
    with log.open("a") as file:
        file.write("made ")
    time.sleep(1.5)
    return "value"
print(get_or_make(kind, "thing", {"k": 1}, make))
"""


def test_two_processes_make_it_once_and_the_second_says_that_it_waits(runs, tmp_path):
    log = tmp_path / "log"
    both = [in_a_process(RACE, str(log)) for _ in range(2)]
    results = [process.communicate() for process in both]
    assert log.read_text() == "made ", results
    outputs = [output for output, _ in results]
    assert [output.splitlines()[-1] for output in outputs] == ["value", "value"]
    assert sum("another process is making it" in output for output in outputs) <= 1


def test_a_damaged_entry_that_another_process_has_set_aside_is_no_error(runs):
    get_or_make(KIND, "thing", KEY, lambda _: VALUE)
    entry = entry_of(KIND, "thing", KEY)

    def gone_meanwhile(folder):
        folder.rename(folder.with_name("elsewhere"))
        raise ValueError("damaged")

    with pytest.warns(UserWarning, match="is damaged"):
        assert look_up(Kind("things", write_two, gone_meanwhile), entry) is MISSING


def test_a_key_that_cannot_be_hashed_is_refused_before_anything_is_made(runs):
    with pytest.raises(NoFingerprint):
        get_or_make(KIND, "thing", {"x": object()}, forbidden)
    assert not runs.exists()


def test_a_whole_file_or_none(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_atomic(path, json.dumps({"a": 1}))
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(TypeError):
        write_atomic(path, 3)
    assert json.loads(path.read_text()) == {"a": 1}
    write_atomic(path, b"bytes")
    assert path.read_bytes() == b"bytes"
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]


def test_reading_warns_of_nothing_when_nothing_is_wrong(runs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            get_or_make(KIND, "thing", KEY, lambda _: VALUE)
