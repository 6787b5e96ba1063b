"""Records: one JSON line per measured number, and everything needed to judge it.

Tables, figures, prose and the scoreboard are drawn from records alone.
"""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from topgap_nb.errors import UserError
from topgap_nb.experiments.recipes import profile_file
from topgap_nb.files import runs_root, write_atomic
from topgap_nb.measures.scores import Estimate

PACKAGES = ("torch", "timm", "torchattacks", "numpy")


@dataclass(frozen=True)
class Record:
    """One measured number.

    Attributes:
        notebook: which notebook measured it, as ``02_training``.
        table: the table or figure it stands in, in the paper's numbering: ``6``, ``a4``, ``fig4``.
        quantity: the column it stands in, in the words of ``data/paper/*.csv``.
        value, low, high: the number and its 95 % interval (equal when there is none).
        n: test images it rests on.
        seeds: independent trainings it rests on (seeds or folds).
        paper: the paper's number for the same cell, where there is one.
        settings: data set, architecture, k, ...: what else tells it from its neighbours.
        profile, hardware, versions: how it was made.
    """

    notebook: str
    table: str
    quantity: str
    value: float
    low: float
    high: float
    n: int
    seeds: int
    profile: str
    paper: float | None = None
    settings: dict = field(default_factory=dict)
    hardware: str = ""
    versions: dict = field(default_factory=dict)

    @property
    def estimate(self) -> Estimate:
        """The value with its interval."""
        return Estimate(self.value, self.low, self.high, self.n)


@dataclass(frozen=True)
class Verdict:
    """What became of a hypothesis, by a rule written down before the data was seen.

    ``supported`` when the interval of the effect lies above the threshold, ``not supported`` when
    it lies below, ``inconclusive`` when it straddles it.
    """

    notebook: str
    hypothesis: str
    rule: str
    effect: float
    low: float
    high: float
    threshold: float
    n: int
    seeds: int
    profile: str
    paper_effect: float | None = None
    hardware: str = ""

    @property
    def outcome(self) -> str:
        """``supported``, ``not supported`` or ``inconclusive``."""
        if self.low > self.threshold:
            return "supported"
        return "not supported" if self.high < self.threshold else "inconclusive"


@cache
def hardware() -> str:
    """Return a short name of the machine: its GPU, or its processor and core count."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [li for li in cpuinfo.read_text().splitlines() if li.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return f"CPU, {name}, {os.cpu_count()} cores"


@cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that numbers depend on."""
    return {name: version(name) for name in PACKAGES}


def records_file(profile: str, notebook: str) -> Path:
    """Return where a notebook's records stand."""
    return runs_root() / profile / "records" / f"{notebook}.jsonl"


def save_records(
    entries: Iterable[Record | Verdict], profile: str, notebook: str, path: Path | None = None
) -> Path:
    """Write all of a notebook's records, to ``path`` if given, replacing those of its last run."""
    lines = [
        json.dumps({"kind": type(entry).__name__.lower(), **asdict(entry)}) for entry in entries
    ]
    path = path or records_file(profile, notebook)
    write_atomic(path, "\n".join([*lines, ""]))
    return path


def load_records(profile: str, notebook: str | None = None) -> list[Record | Verdict]:
    """Return the records of one notebook, or of all in the order of the book.

    Raises:
        UserError: there is no such profile, or there are no records yet.
    """
    profile_file(profile, must_exist=True)
    pattern = f"{notebook or '*'}.jsonl"
    files = sorted((runs_root() / profile / "records").glob(pattern))
    if not files:
        raise UserError(
            f"no records of profile {profile!r} yet: `topgap run --profile {profile}` makes them"
        )
    kinds = {"record": Record, "verdict": Verdict}
    entries = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return [kinds[entry.pop("kind")](**entry) for entry in entries]
