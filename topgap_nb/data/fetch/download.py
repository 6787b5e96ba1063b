"""Data sets fetched and checked: resumed, by checksum, and moved into place only when whole."""

import errno
import hashlib
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from topgap_nb.data.fetch.sources import Archive, Source
from topgap_nb.errors import NoAnswer, UserError
from topgap_nb.store.layout import data_root
from topgap_nb.store.store import write_atomic


def prepare(source: Source, echo: Callable[[str], None] = print) -> Path:
    """Download a data set into the data root, or return where it is already.

    A download that was cut off goes on where it stopped. Archives are unpacked into a temporary
    folder, which is renamed when everything is in it; what was there before stays as it is. The
    checksums of the files are written to ``<folder>.sha256``, for ``verify`` and ``sha256sum``.

    Raises:
        UserError: not for download, no answer, a wrong checksum, too little disk space, ...
    """
    if (path := source.where()) is not None:
        echo(f"{source.name} is in {path}")
        return path
    root = data_root()
    target = root / source.folder
    with _disk_errors(root):
        if target.exists() and source.post_process is not None and source.post_process(target):
            return source.home()
        if not source.archives:
            raise UserError(f"{source.name} is not for download: {source.instruction} ({root})")
        if target.exists():
            raise UserError(
                f"{target} is there but not whole: move it away, then prepare {source.name} again"
            )
        root.mkdir(parents=True, exist_ok=True)
        _check_space(source, root)
        with _staging(root / f".{source.folder}.partial", source.name) as staging:
            _fill(source, staging, echo)
            folder = staging / source.folder
            echo("writing checksums")
            write_atomic(_sums_file(target), _sums(folder))
            folder.rename(target)
    for file in _downloads(source, root):
        file.unlink(missing_ok=True)
    echo(f"{source.name} is in {target}")
    return source.home()


def verify_files(source: Source) -> str:
    """Check a data set's files against the checksums that ``prepare`` wrote; return one line.

    Raises:
        UserError: a file is missing, or not as it was downloaded.
    """
    folder = source.home()
    sums = _sums_file(folder)
    if not sums.exists():
        return f"{folder}: no checksums, as it was not put there by `topgap data prepare`"
    lines = sums.read_text().splitlines()
    again = f"delete {folder}, then prepare {source.name} again"
    for line in lines:
        wanted, _, name = line.partition("  ")
        path = folder.parent / name
        if not path.exists():
            raise UserError(f"{path} is missing: {again}")
        if _sha256(path) != wanted:
            raise UserError(f"{path} is not as it was downloaded: {again}")
    return f"{folder}: {len(lines):,} files match their checksums"


@contextmanager
def _staging(folder: Path, name: str) -> Iterator[Path]:
    """Hold an empty folder that is removed afterwards, whatever happens."""
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another process is preparing {name}: wait for it") from error
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _fill(source: Source, staging: Path, echo: Callable[[str], None]) -> None:
    try:
        files = [fetch(archive, staging.parent, echo) for archive in source.archives]
        for archive, file in zip(source.archives, files, strict=True):
            echo(f"unpacking {file.name[1:]}")
            _unpack(file, staging / archive.subdir)
    except NoAnswer as error:
        if source.mirror is None:
            raise
        echo(f"{error}; trying another source")
        folder = staging / source.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        source.mirror(folder)


def fetch(archive: Archive, root: Path, echo: Callable[[str], None] = print) -> Path:
    """Download one file into ``root``, going on where an earlier attempt stopped.

    Raises:
        UserError: no answer, cut off (what has come is kept), or a wrong checksum (nothing is).
    """
    import pooch
    import requests

    file = _download_of(archive, root)
    part = _partial_of(file)

    def resumed(url: str, output: str, _) -> None:
        with part.open("ab") as stream:
            done = stream.tell()

            def whole(response, **_) -> None:
                # A server that cannot go on in the middle sends everything from the start.
                if response.status_code == 200:
                    stream.truncate(0)

            headers = {"Range": f"bytes={done}-"} if done else {}
            if done < archive.size or archive.hash is None:
                pooch.HTTPDownloader(progressbar=True, headers=headers, hooks={"response": whole})(
                    url, stream, None
                )
        part.replace(output)

    if part.exists():
        echo(f"going on with {archive.url} at {part.stat().st_size / 1e6:,.0f} MB")
    try:
        pooch.retrieve(archive.url, archive.hash, file.name, root, downloader=resumed)
    except requests.RequestException as error:
        done = part.stat().st_size if part.exists() else 0
        if not done:
            part.unlink(missing_ok=True)
        raise NoAnswer(
            f"{archive.url} stopped after {done / 1e6:,.1f} of {archive.size / 1e6:,.1f} MB "
            f"({type(error).__name__}): the same command goes on from there"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{archive.url} has a wrong checksum and was deleted: try again, or fetch it elsewhere "
            f"(expected {archive.hash})"
        ) from error
    return file


def _download_of(archive: Archive, root: Path) -> Path:
    return root / f".{archive.url.rpartition('/')[2]}"


def _partial_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def _downloads(source: Source, root: Path) -> list[Path]:
    files = [_download_of(archive, root) for archive in source.archives]
    return files + [_partial_of(file) for file in files]


def _unpack(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)
        else:
            with tarfile.open(file) as archive:
                archive.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
        file.unlink()
        raise UserError(
            f"{file.name[1:]} is not a whole archive ({error}) and was deleted: run it again"
        ) from error


def _check_space(source: Source, root: Path) -> None:
    done = sum(file.stat().st_size for file in _downloads(source, root) if file.exists())
    wanted = source.unpacked + sum(archive.size for archive in source.archives) - done
    free = shutil.disk_usage(root).free
    if free < wanted:
        raise UserError(
            f"{source.name} needs {wanted / 1e9:,.1f} GB in {root} while it is unpacked, and "
            f"{free / 1e9:,.1f} GB are free: make room, or set $TOPGAP_DATA to another disk"
        )


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{root} is full: make room, then run the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"{root} cannot be written to: set $TOPGAP_DATA to a folder that can"
            ) from error
        raise


def _sums_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.sha256")


def _sums(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{_sha256(path)}  {path.relative_to(folder.parent)}\n" for path in files)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
