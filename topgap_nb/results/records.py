"""Records: one JSON line per measured number, and everything needed to judge it.

Tables, figures, prose and the scoreboard are drawn from records alone.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pandas as pd

from topgap_nb.errors import UserError
from topgap_nb.store.layout import records_folder
from topgap_nb.store.store import write_atomic


@dataclass(frozen=True)
class Record:
    """One measured number.

    Attributes:
        notebook: which notebook measured it, for example ``02_training``.
        table: the table or figure it stands in, in the paper's numbering: ``6``, ``a4``, ``fig4``.
        quantity: the column it stands in, named as in ``data/paper/*.csv``.
        value, low, high: the number and its 95 % interval (equal when there is none).
        n: test images it rests on.
        n_trainings: independent trainings it rests on (seeds or folds).
        profile: the profile it was measured under.
        settings: data set, architecture, k, ...: what else tells it from its neighbours.
        hardware, versions: what it was made with.
    """

    notebook: str
    table: str
    quantity: str
    value: float
    low: float
    high: float
    n: int
    n_trainings: int
    profile: str
    settings: dict = field(default_factory=dict)
    hardware: str = ""
    versions: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What became of a hypothesis, by a rule written down before the data was seen."""

    notebook: str
    hypothesis: str
    rule: str
    effect: float
    low: float
    high: float
    threshold: float
    n: int
    n_trainings: int
    profile: str
    paper_effect: float | None = None
    hardware: str = ""

    @property
    def outcome(self) -> str:
        """``supported``, ``not supported`` or ``inconclusive``; see ``outcome``."""
        return outcome(self.low, self.high, self.threshold)


def outcome(low: float, high: float, threshold: float = 0.0) -> str:
    """Return what an interval says of an effect that is to lie above a threshold.

    ``supported`` when the whole interval lies above it, ``not supported`` when the whole interval
    lies below, ``inconclusive`` when it holds the threshold.

    Example:
        >>> outcome(0.01, 0.2), outcome(-0.3, -0.1), outcome(-0.1, 0.1)
        ('supported', 'not supported', 'inconclusive')
    """
    if low > threshold:
        return "supported"
    return "not supported" if high < threshold else "inconclusive"


def save_records(entries: Iterable[Record | Verdict], path: Path) -> None:
    """Write a notebook's records, replacing those of its last run."""
    lines = [json.dumps({"kind": type(entry).__name__, **asdict(entry)}) for entry in entries]
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def load_records(profile: str) -> pd.DataFrame:
    """Return every measured number of a profile's last run, one row each, in the book's order.

    Columns are the attributes of ``Record``; ``settings`` as dictionaries.

    Raises:
        UserError: there are no records yet.
    """
    return _load(profile, Record)


def load_verdicts(profile: str) -> pd.DataFrame:
    """Return every verdict of a profile's last run, one row each, with its ``outcome``.

    Raises:
        UserError: there are no records yet.
    """
    frame = _load(profile, Verdict)
    bounds = zip(frame.low, frame.high, frame.threshold, strict=True)
    return frame.assign(outcome=[outcome(*bound) for bound in bounds])


def _load(profile: str, kind: type) -> pd.DataFrame:
    files = sorted(records_folder(profile).glob("*.jsonl"))
    if not files:
        raise UserError(
            f"no records of profile {profile!r} yet: `topgap run --profile {profile}` makes them"
        )
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    names = [f.name for f in fields(kind)]
    return pd.DataFrame([e for e in lines if e["kind"] == kind.__name__], columns=names)
