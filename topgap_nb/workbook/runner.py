"""The strict papermill runner: parameters that a notebook knows, outputs that it promised.

papermill only warns about a parameter that a notebook does not know, and has no idea of caching or
promised outputs. Here a run fails on an unknown, unread or wrongly typed parameter and on a missing
output. An executed notebook is an entry of the store: it is executed again only when its source,
its parameters, the code that it imports, its data or the paper's numbers have changed.
"""

import inspect
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import nbformat

from topgap_nb.data.registry import data_sets
from topgap_nb.errors import NotebookFailed, UserError
from topgap_nb.store import layout, store
from topgap_nb.store.fingerprint import code_fingerprint, imported_modules, source_hash
from topgap_nb.store.machine import hardware, versions
from topgap_nb.training.profile import DATA_FIELDS, DEFAULT, Profile, load_profile
from topgap_nb.workbook.notebooks import (
    all_notebooks,
    check_parameters,
    chosen_notebooks,
    declared_parameters,
    promised_outputs,
)
from topgap_nb.workbook.reading_edition import write_new, write_page

# The notebook that reads the others' records, and so runs after them.
SCOREBOARD = "90"
WHOLE = "whole"
# Feature maps come and go by the hundred megabytes. With large pages, and memory kept rather than
# returned to the system each time, an attack takes about 0.7 of its time (benchmarks/memory.py).
# A C library that does not know these words passes over them.
ALLOCATION = ":".join(
    f"glibc.malloc.{name}"
    for name in ("hugetlb=1", f"mmap_threshold={2**30}", f"trim_threshold={2**32}")
)


class Executed(NamedTuple):
    """An executed notebook: a folder with ``notebook.ipynb``, ``records/`` and its outputs."""

    folder: Path
    seconds: float


def _write(executed: Executed, folder: Path) -> None:
    shutil.copytree(executed.folder, folder, dirs_exist_ok=True)
    (folder / "seconds.json").write_text(json.dumps(round(executed.seconds, 1)))


def _read(folder: Path) -> Executed:
    return Executed(folder, json.loads((folder / "seconds.json").read_text()))


NOTEBOOKS = store.Kind("notebooks", _write, _read)


def run_book(
    profile_name: str,
    only: tuple[str, ...] = (),
    force: bool = False,
    jobs: int | None = None,
    echo: Callable[[str], None] = print,
) -> None:
    """Execute notebooks, several at a time; start none after one has failed.

    A notebook alone leaves a core idle while it imports and draws, and a network trains faster on
    two cores as two networks on one each. They share trained networks: a notebook that needs one
    that another is training waits for it. They start in order, but for those that the profile puts
    first when several run at a time. The scoreboard reads what all others wrote, so it runs last.

    Args:
        profile_name: for example ``smoke``, ``demo`` or ``paper``.
        only: beginnings of notebook names; empty runs all that the profile is for.
        force: also execute notebooks for which nothing changed.
        jobs: how many run at a time; by default as many as there are cores for, or one on a GPU.
        echo: where the progress lines go.

    Raises:
        UserError: bad profile, notebook name or parameter; or the outputs cannot be written.
        NotebookFailed: names the notebook, the cell, the error, and the executed copy.
    """
    profile = load_profile(profile_name)
    _check_names(profile)
    books = [
        (path, nbformat.read(path, as_version=4)) for path in chosen_notebooks(only or profile.only)
    ]
    for path, book in books:
        _parameters(path, book, profile)
    _check_writable(layout.results_folder(profile.name), layout.runs_root() / profile.name)
    if note := layout.first_edition_note():
        echo(note)
    start = time.perf_counter()
    failed = threading.Event()
    from_nothing = not only and not (layout.runs_root() / "networks").exists()

    def run_one(number: int, path: Path, book: nbformat.NotebookNode) -> bool:
        if failed.is_set():
            return False
        label = f"[{number}/{len(books)}] {path.stem}"
        made = []

        def execute(_: Path) -> Executed:
            echo(f"{label:<40} running ...")
            made.append(_execute(path, book, profile))
            return made[0]

        try:
            key = _key(path, book, profile)
            if force:
                shutil.rmtree(store.entry_of(NOTEBOOKS, path.stem, key), ignore_errors=True)
            executed = store.get_or_make(NOTEBOOKS, path.stem, key, execute)
            with _writing:
                _publish(executed, path, book, profile, [path.stem for path, _ in books])
        except BaseException:
            failed.set()
            raise
        finally:
            # Not before: what a full disk kept out of the store stands only there.
            for run in made:
                shutil.rmtree(run.folder, ignore_errors=True)
        if made:
            _note_minutes(profile, path.stem, executed.seconds, from_nothing)
        end = f"done in {executed.seconds / 60:.1f} min" if made else "unchanged, skipped"
        echo(f"{label:<40} {end}")
        return bool(made)

    jobs = jobs or side_by_side(profile, len(books))
    numbered = [(number, *pair) for number, pair in enumerate(books, start=1)]
    last = [task for task in numbered if task[1].stem.startswith(SCOREBOARD)]
    if jobs > 1:
        numbered.sort(key=lambda task: task[1].stem not in profile.first)
    ran = []
    for together in ([task for task in numbered if task not in last], last):
        pool = ThreadPoolExecutor(jobs)
        futures = [pool.submit(run_one, *task) for task in together]
        try:
            ran += [future.result() for future in as_completed(futures)]
        except BaseException as error:
            # Ctrl-C does not wait for the notebooks that are running.
            pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
            raise
        pool.shutdown()
    seconds = time.perf_counter() - start
    if all(ran) and not only:
        _note_minutes(profile, WHOLE, seconds, from_nothing)
    echo(f"{len(books)} notebooks in {seconds / 60:.1f} min")


def side_by_side(profile: Profile, count: int) -> int:
    """Return how many of ``count`` notebooks run at a time: as the cores allow, one on a GPU."""
    import torch

    if torch.cuda.is_available() or not profile.threads:
        return 1
    return max(1, min(count, (os.cpu_count() or 1) // profile.threads))


def made_by(profile: str) -> dict[str, dict]:
    """Return {notebook: seconds, hardware and versions} of a profile's committed results.

    The seconds are those of the last run that began without any network, or the most since: those
    of a notebook that trained its networks. Under ``WHOLE`` stands the whole book.
    """
    file = layout.results_folder(profile) / "made.json"
    return json.loads(file.read_text()) if file.exists() else {}


# Results are written by one notebook at a time.
_writing = threading.Lock()


def _note_minutes(profile: Profile, name: str, seconds: float, from_nothing: bool) -> None:
    with _writing:
        entries = made_by(profile.name)
        before = entries.get(name, {})
        # A notebook whose networks were there already takes less than one that trains them.
        same_machine = before.get("hardware") == hardware() and not from_nothing
        slowest = max(seconds, before.get("seconds", 0) if same_machine else 0)
        about = {"seconds": round(slowest, 1), "hardware": hardware(), "versions": versions()}
        file = layout.results_folder(profile.name) / "made.json"
        store.write_atomic(file, json.dumps({**entries, name: about}, indent=1, sort_keys=True))


def _execute(path: Path, book: nbformat.NotebookNode, profile: Profile) -> Executed:
    # papermill takes half a second to import; --help should not wait for it.
    import papermill
    from jupyter_client import AsyncKernelManager
    from papermill.exceptions import PapermillException

    class LocalKernel(AsyncKernelManager):
        """A kernel on local sockets: no open ports, and no warnings about them."""

        transport = "ipc"

        async def start_kernel(self, **options):
            """Start it beside the notebooks, on its share of the cores, with its own sockets."""
            self.ip = f"{sockets}/kernel"
            # Not papermill's `cwd`, which moves this process and its other threads as well.
            options["cwd"] = str(layout.notebooks_root())
            ours = layout.environment()
            if profile.threads:
                ours["OMP_NUM_THREADS"] = str(profile.threads)
            options["env"] = {"GLIBC_TUNABLES": ALLOCATION, **os.environ, **ours}
            # It is interrupted before it is shut down, and would call that an error.
            quiet = [*options.get("extra_arguments", []), "--IPKernelApp.log_level=50"]
            options["extra_arguments"] = quiet
            return await super().start_kernel(**options)

    # Not under runs/: the path of a socket may have at most a hundred characters.
    sockets = tempfile.mkdtemp(prefix="topgap-")
    work = layout.runs_root() / profile.name
    work.mkdir(parents=True, exist_ok=True)
    results = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=work))
    executed, failed = results / "notebook.ipynb", work / "failed" / path.name
    parameters = {**_parameters(path, book, profile), "RESULTS": str(results)}
    done, start = False, time.perf_counter()
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        papermill.execute_notebook(
            str(path), str(executed), parameters=parameters, kernel_name="python3",
            progress_bar=False, execution_timeout=profile.cell_seconds,
            log_output=False, kernel_manager_class=LocalKernel,
        )  # fmt: skip
        outputs = promised_outputs(book, always=True)
        if missing := [name for name in outputs if not (results / name).exists()]:
            raise NotebookFailed(
                f"{path.name} did not write what it promises: {', '.join(missing)}\n"
                f"  executed copy: {failed}"
            )
        done = True
        return Executed(results, time.perf_counter() - start)
    except (PapermillException, TimeoutError, RuntimeError) as error:
        failed.parent.mkdir(exist_ok=True)
        if executed.exists():
            shutil.move(executed, failed)
        if isinstance(error, NotebookFailed):
            raise
        cell = getattr(error, "exec_count", None)
        what = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"
        raise NotebookFailed(
            f"{path.name}, cell [{cell or '?'}]: {what.strip()}\n  executed copy: {failed}"
        ) from error
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
        if not done:
            shutil.rmtree(results, ignore_errors=True)


def _parameters(path: Path, book: nbformat.NotebookNode, profile: Profile) -> dict:
    """Return what a notebook is given, checked; where its results go is known when it runs."""
    given = {"PROFILE": profile.name, "RESULTS": "", **profile.notebooks.get(path.stem, {})}
    return check_parameters(book, given, path.name)


def _publish(
    executed: Executed, path: Path, book: nbformat.NotebookNode, profile: Profile, run: list[str]
) -> None:
    """Copy what a notebook of a run made to where it is read: results, records, executed copy."""
    own = profile.notebooks.get(path.stem, {}).get("DATA_FOLDER")
    results = layout.own_folder(own) if own else layout.results_folder(profile.name)
    # The results on a person's own images are not among those that the scoreboard reads.
    records = results / "records" if own else layout.records_folder(profile.name)
    for name in promised_outputs(book):
        # Of data with masks, where the last run had some and this one has none.
        if not (executed.folder / name).exists():
            (results / name).unlink(missing_ok=True)
    for file in sorted(executed.folder.rglob("*")):
        if file.is_dir() or file.name in (store.ABOUT, "seconds.json"):
            continue
        if file.name == "notebook.ipynb":
            target = layout.executed_folder(profile.name) / path.name
        elif file.parent.name == "records":
            target = records / file.name
        else:
            target = results / file.relative_to(executed.folder)
        write_new(target, file.read_bytes())
    # Last: a page links the figures that are there.
    done = nbformat.read(executed.folder / "notebook.ipynb", as_version=4)
    about = f"Made by `topgap run --profile {profile.name}` on {hardware()}."
    write_page(
        done, path.stem, results, about, {*run, *(page.stem for page in results.glob("*.md"))}
    )


def _key(path: Path, book: nbformat.NotebookNode, profile: Profile) -> dict:
    """Return everything that a notebook's results depend on."""
    sources = [cell.source for cell in book.cells]
    own = profile.notebooks.get(path.stem, {})
    parameters = {n: v for n, v in _parameters(path, book, profile).items() if n in own}
    words = {**declared_parameters(book), **parameters}.values()
    named = {*profile.recipes, *(word for word in words if isinstance(word, str))} - {DEFAULT}
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    modules, inputs = [*imported_modules(code)], {}
    for name, data_set in data_sets().items():
        if name in named:
            # Data sets are found by name, so that no import leads to them.
            modules.append(data_set.open.__module__)
            given = profile.recipe(name).data
            options = {key: value for key, value in given.items() if key not in DATA_FIELDS}
            inputs[name] = [data_set.complete(options), *data_set.inputs(options)]
            file = Path(inspect.getfile(data_set.open))
            if not file.is_relative_to(layout.PACKAGE):
                inputs[name].append(source_hash(file.read_text()))
    if data_folder := parameters.get("DATA_FOLDER"):
        inputs["DATA_FOLDER"] = [Path(data_folder).expanduser()]
    if path.stem.startswith(SCOREBOARD):
        records = sorted(layout.records_folder(profile.name).glob("*.jsonl"))
        inputs["records"] = [file for file in records if file.stem != path.stem]
    return {
        "sources": sources,
        "parameters": parameters,
        "recipes": profile.recipes,
        "settings": [profile.threads, profile.precision],
        "inputs": inputs,
        "code": code_fingerprint(*modules),
        "paper": sorted(layout.paper_root().glob("*.csv")),
        "versions": layout.lock_file(),
        "machine": hardware(),
    }


def _check_names(profile: Profile) -> None:
    known = {path.stem for path in all_notebooks()}
    if unknown := {*profile.notebooks, *profile.first} - known:
        raise UserError(f"profile {profile.name!r} names {sorted(unknown)}, which are no notebooks")


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
