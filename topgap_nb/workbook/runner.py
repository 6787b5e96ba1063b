"""The strict papermill runner: what a notebook was promised, it gets; what it promised, it gives.

papermill only warns about a parameter that a notebook does not know, and has no idea of caching or
promised outputs. Here a run fails on an unknown, unread or wrongly typed parameter and on a missing
output, and a notebook is skipped when nothing it depends on has changed since it last succeeded.
"""

import ast
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat

from topgap_nb.data import identity
from topgap_nb.errors import UserError
from topgap_nb.experiments.recipes import (
    LAST,
    NUMBERED,
    profile_file,
    read_profile,
    side_by_side,
    threads_of,
)
from topgap_nb.files import ROOT, runs_root, write_atomic
from topgap_nb.workbook.book import BY_RUNNER, outputs_folder

NOTEBOOKS = ROOT / "notebooks"
WHOLE = "whole"
# Feature maps come and go by the hundred megabytes. With large pages, and memory kept rather than
# given back to the system each time, an attack takes about 0.7 of its time (benchmarks/memory.py).
# A C library that does not know these words passes over them.
ALLOCATION = ":".join(
    f"glibc.malloc.{name}"
    for name in ("hugetlb=1", f"mmap_threshold={2**30}", f"trim_threshold={2**32}")
)


class NotebookFailed(RuntimeError):
    """A notebook raised, ran too long, or did not write what it promised."""


@dataclass(frozen=True)
class Profile:
    """What a profile says: a time limit per cell, recipes, and each notebook's parameters.

    ``first`` names the notebooks that take longest: started last, one of them would run on alone.
    ``only`` names the notebooks that it is for, by their beginnings; empty is all.
    """

    name: str
    cell_seconds: int
    parameters: dict[str, dict]
    recipes: dict[str, dict]
    first: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


def load_profile(name: str) -> Profile:
    """Read ``notebooks/profiles/<name>.yaml``.

    Raises:
        UserError: no such profile, not valid YAML, or an entry that names no notebook.
    """
    content = read_profile(name)
    path = profile_file(name)
    try:
        parameters = {key: value or {} for key, value in content["notebooks"].items()}
        seconds = int(content["cell_seconds"])
        first, only = (tuple(content.get(key, ())) for key in ("first", "only"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path} needs `cell_seconds` and `notebooks` (name: parameters): {error!r}"
        ) from error
    unknown = {*parameters, *first} - {path.stem for path in all_notebooks()}
    if unknown:
        raise UserError(f"{path} names {sorted(unknown)}, which are no notebooks")
    return Profile(name, seconds, parameters, content["recipes"], first, only)


def all_notebooks() -> list[Path]:
    """Return the numbered notebooks in reading order."""
    return sorted(NOTEBOOKS.glob(NUMBERED))


def chosen_notebooks(only: tuple[str, ...]) -> list[Path]:
    """Return the notebooks whose names start with one of ``only``; all when it is empty.

    Raises:
        UserError: a name fits no notebook.
    """
    names = all_notebooks()
    for wanted in only:
        if not any(path.stem.startswith(wanted) for path in names):
            raise UserError(
                f"no notebook starts with {wanted!r}: there are "
                f"{', '.join(path.stem for path in names)}"
            )
    return [p for p in names if not only or any(p.stem.startswith(w) for w in only)]


def declared_parameters(book: nbformat.NotebookNode) -> dict:
    """Return the names and default values of the cell tagged ``parameters``.

    Raises:
        UserError: there is no such cell, or it holds anything but literals.
    """
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", []):
            break
    else:
        raise UserError("the notebook has no cell tagged `parameters`")
    found = {}
    for node in ast.parse(cell.source).body:
        try:
            (target,) = node.targets
            found[target.id] = ast.literal_eval(node.value)
        except (AttributeError, ValueError) as error:
            raise UserError(
                f"line {node.lineno} of the parameters cell is not `NAME = literal`"
            ) from error
    return found


def check_parameters(book: nbformat.NotebookNode, given: dict, where: str) -> None:
    """Refuse parameters that the notebook does not declare, does not read, or types otherwise.

    Raises:
        UserError: with the name, and what would be right.
    """
    try:
        declared = declared_parameters(book)
        read = {
            node.id
            for cell in book.cells
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
            for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
    except (UserError, SyntaxError) as error:
        raise UserError(f"{where}: {error}") from error
    for name, value in given.items():
        if name not in declared:
            raise UserError(
                f"{where}: parameter {name!r} is unknown; it declares {', '.join(declared)}"
            )
        if not _same_type(value, declared[name]):
            raise UserError(
                f"{where}: {name} = {value!r} is {type(value).__name__}, its default "
                f"{declared[name]!r} is {type(declared[name]).__name__}"
            )
    for name in declared:
        if name not in read:
            raise UserError(f"{where}: parameter {name} is declared and never read")


def _same_type(value, default) -> bool:
    if type(value) is not type(default):
        return type(value) is int and type(default) is float
    if isinstance(value, list) and value and default:
        return all(_same_type(item, default[0]) for item in value)
    return True


def promised_outputs(book: nbformat.NotebookNode, always: bool = False) -> list[str]:
    """Return the file names in the ``Outputs`` row of the at-a-glance table.

    Args:
        always: leave out those after the words "with masks", which some data sets do not have.
    """
    for cell in book.cells:
        row = re.search(r"^\|\s*Outputs\s*\|(.*)\|\s*$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and row:
            names = row[1].partition("with masks")[0] if always else row[1]
            return re.findall(r"`([\w.]+\.(?:csv|png|html))`", names)
    return []


def run_book(
    profile_name: str,
    only: tuple[str, ...] = (),
    force: bool = False,
    jobs: int | None = None,
    echo=print,
) -> None:
    """Execute notebooks, several at a time; start none after one has failed.

    A notebook alone leaves a core idle while it imports and draws, and a network trains faster on
    two cores as two networks on one each. They share trained networks: who needs one that another
    is training waits for it. They start in order, but for those that the profile puts first when
    several run at a time. The scoreboard reads what all others wrote, so it runs last.

    Args:
        profile_name: ``smoke``, ``demo`` or ``paper``.
        only: beginnings of notebook names; empty runs all that the profile is for.
        force: also run notebooks for which nothing changed.
        jobs: how many run at a time; by default one per core up to 4, or one where there is a GPU.
        echo: where the progress lines go.

    Raises:
        UserError: bad profile, notebook name or parameter; or the outputs cannot be written.
        NotebookFailed: names the notebook, the cell, the error, and the executed copy.
    """
    profile = load_profile(profile_name)
    books = [
        (path, nbformat.read(path, as_version=4)) for path in chosen_notebooks(only or profile.only)
    ]
    for path, book in books:
        check_parameters(book, profile.parameters.get(path.stem, {}), path.name)
    _check_writable(outputs_folder(profile.name), runs_root() / profile.name)
    start = time.perf_counter()
    failed = threading.Event()

    def is_current(path: Path, book: nbformat.NotebookNode, state: str) -> bool:
        stamp, results = _stamp(profile.name, path.stem), _results(profile, path.stem)
        return not force and _is_current(stamp, state, book, results)

    jobs = jobs or side_by_side(profile.name)

    def run_one(number: int, path: Path, book: nbformat.NotebookNode) -> bool:
        if failed.is_set():
            return False
        label = f"[{number}/{len(books)}] {path.stem}"
        state = _state(path, book, profile)
        if is_current(path, book, state):
            echo(f"{label:<40} unchanged, skipped")
            return False
        echo(f"{label:<40} running ...")
        try:
            seconds = _execute(path, book, profile)
        except BaseException:
            failed.set()
            raise
        _write_stamp(_stamp(profile.name, path.stem), seconds, state)
        echo(f"{label:<40} done in {seconds / 60:.1f} min")
        return True

    numbered = [(number, *pair) for number, pair in enumerate(books, start=1)]
    last = [entry for entry in numbered if entry[1].stem.startswith(LAST)]
    if jobs > 1:
        numbered.sort(key=lambda entry: entry[1].stem not in profile.first)
    ran = []
    for together in ([entry for entry in numbered if entry not in last], last):
        pool = ThreadPoolExecutor(jobs)
        futures = [pool.submit(run_one, *entry) for entry in together]
        try:
            ran += [future.result() for future in as_completed(futures)]
        except BaseException as error:
            # Ctrl-C does not wait for the notebooks that are running.
            pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
            raise
    seconds = time.perf_counter() - start
    if all(ran) and not only:
        _write_stamp(_stamp(profile.name, WHOLE), seconds)
    echo(f"{len(books)} notebooks in {seconds / 60:.1f} min")


def minutes(profile: str) -> dict[str, float]:
    """Return how many minutes each notebook took at most: when it had to train its networks.

    Under ``WHOLE`` stands the whole book, run without skipping any.
    """
    stamps = sorted((runs_root() / profile / "stamps").glob("*.json"))
    return {path.stem: json.loads(path.read_text())["slowest"] / 60 for path in stamps}


def _stamp(profile: str, name: str) -> Path:
    return runs_root() / profile / "stamps" / f"{name}.json"


def _write_stamp(stamp: Path, seconds: float, state: str = "") -> None:
    slowest = max(seconds, json.loads(stamp.read_text())["slowest"] if stamp.exists() else 0)
    write_atomic(stamp, json.dumps({"state": state, "slowest": round(slowest, 1)}))


def _execute(path: Path, book: nbformat.NotebookNode, profile: Profile) -> float:
    # papermill takes half a second to import; --help should not wait for it.
    import papermill
    from jupyter_client import AsyncKernelManager
    from papermill.exceptions import PapermillException

    class LocalKernel(AsyncKernelManager):
        """A kernel on local sockets: no open ports, and no warnings about them."""

        transport = "ipc"

        async def start_kernel(self, **options):
            """Start it on its share of the cores, with sockets of its own."""
            self.ip = f"{sockets}/kernel"
            ours = {"OMP_NUM_THREADS": str(threads_of(profile.name)), BY_RUNNER: "1"}
            options["env"] = {"GLIBC_TUNABLES": ALLOCATION, **os.environ, **ours}
            # It is interrupted before it is shut down, and would call that an error.
            quiet = [*options.get("extra_arguments", []), "--IPKernelApp.log_level=50"]
            options["extra_arguments"] = quiet
            return await super().start_kernel(**options)

    # Not under runs/: the path of a socket may have at most a hundred characters.
    sockets = tempfile.mkdtemp(prefix="topgap-")
    executed = runs_root() / profile.name / "executed" / path.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    given = {"PROFILE": profile.name, **profile.parameters.get(path.stem, {})}
    start = time.perf_counter()
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        papermill.execute_notebook(
            str(path), str(executed), parameters=given, cwd=str(NOTEBOOKS), kernel_name="python3",
            progress_bar=False, execution_timeout=profile.cell_seconds, log_output=False,
            kernel_manager_class=LocalKernel,
        )  # fmt: skip
    except (PapermillException, TimeoutError, RuntimeError) as error:
        cell = getattr(error, "exec_count", None)
        what = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"
        raise NotebookFailed(
            f"{path.name}, cell [{cell or '?'}]: {what.strip()}\n  executed copy: {executed}"
        ) from error
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    folder = _results(profile, path.stem)
    missing = [
        n for n in promised_outputs(book, always=True) if not _written_since(folder / n, start)
    ]
    if missing:
        raise NotebookFailed(
            f"{path.name} did not write what it promises: {', '.join(missing)} in "
            f"{folder}\n  executed copy: {executed}"
        )
    return time.perf_counter() - start


def _results(profile: Profile, notebook: str) -> Path:
    """Return where a notebook's outputs go: apart, where it was given a folder of images."""
    given = profile.parameters.get(notebook, {})
    return outputs_folder(profile.name, given.get("DATA_FOLDER", ""))


def _written_since(path: Path, start: float) -> bool:
    age_limit = time.time() - (time.perf_counter() - start) - 1
    return path.exists() and path.stat().st_mtime >= age_limit


def _state(path: Path, book: nbformat.NotebookNode, profile: Profile) -> str:
    """Hash everything a notebook's results depend on."""
    digest = hashlib.sha256(package_digest().encode())
    digest.update(json.dumps([cell.source for cell in book.cells]).encode())
    copies = [identity(name, **(r.get("options") or {})) for name, r in profile.recipes.items()]
    settings = [profile.parameters.get(path.stem, {}), profile.recipes, copies]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    if data_folder := profile.parameters.get(path.stem, {}).get("DATA_FOLDER"):
        for file in sorted(Path(data_folder).expanduser().rglob("*")):
            digest.update(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    if path.stem.startswith(LAST):
        for records in sorted((runs_root() / profile.name / "records").glob("*.jsonl")):
            if records.stem != path.stem:
                digest.update(records.read_bytes())
    return digest.hexdigest()


@cache
def package_digest() -> str:
    """Hash the package, the paper's numbers and the locked versions."""
    digest = hashlib.sha256()
    files = [*(ROOT / "topgap_nb").rglob("*.py"), *(ROOT / "data" / "paper").glob("*.csv")]
    for path in [*sorted(files), ROOT / "requirements.lock"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_current(stamp: Path, state: str, book: nbformat.NotebookNode, folder: Path) -> bool:
    if not stamp.exists() or json.loads(stamp.read_text())["state"] != state:
        return False
    return all((folder / name).exists() for name in promised_outputs(book, always=True))


def _check_writable(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"cannot write into {folder} ({error.strerror}): free it, or set TOPGAP_RUNS"
            ) from error
