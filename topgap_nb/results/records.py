"""Records: one JSON line per measured number, and everything needed to judge it.

Tables, figures, prose and the scoreboard are drawn from records alone.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pandas as pd

from topgap_nb.errors import UserError
from topgap_nb.results.statistics import Estimate
from topgap_nb.store.layout import records_folder
from topgap_nb.store.store import write_atomic

# Fewer say too little of how trainings differ.
MIN_TRAININGS = 3


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
    """What became of a hypothesis, by a rule written down before the data was seen.

    Attributes:
        notebook, hypothesis, rule: where what was tested, and by which rule, in words.
        effect, low, high: the effect with its 95 % interval.
        threshold: what the interval is held against, in the unit of the effect.
        n, n_trainings: test images and independent trainings behind it; 0 trainings for a statement
            of arithmetic, which needs none.
        profile, hardware: what it was made with.
        paper_effect, paper_low, paper_high: mean, smallest and largest over the rows of the paper's
            table; None where the paper measures another quantity.
        smallest_effect: that is relevant, at least 0, in the unit of the effect; 0: not stated.
        converged: whether every network behind it has, by a stated rule; None: not known.
        claim_of_paper: False for another reading of a claim, and for an ablation.
        why: one line on why it came out so.
        unit: the quantity that the effect is a difference of.
        trainings_share: see ``Estimate``.
    """

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
    paper_low: float | None = None
    paper_high: float | None = None
    hardware: str = ""
    smallest_effect: float = 0.0
    converged: bool | None = None
    claim_of_paper: bool = True
    why: str = ""
    unit: str = ""
    trainings_share: float = 0.0

    @property
    def p_value(self) -> float:
        """One-sided, against an effect of at most the threshold; 1.0 where none can be given.

        The claim is supported where it is below 0.025. Corrected for many claims by ``holm``, the
        chance of supporting any untrue one is 0.025.
        """
        if self.converged is False or 0 < self.n_trainings < MIN_TRAININGS:
            return 1.0
        return self._estimate.p_above(self.threshold)

    @property
    def outcome(self) -> str:
        """One of five outcomes; see ``outcome``."""
        below, above = (self._estimate.p_above(s * self.smallest_effect) for s in (-1, 1))
        return outcome(
            self.low, self.high, self.threshold,
            negligible=max(below, 1 - above) < 0.05,
            converged=self.converged, n_trainings=self.n_trainings,
        )  # fmt: skip

    @property
    def _estimate(self) -> Estimate:
        bounds = self.effect, self.low, self.high
        return Estimate(*bounds, self.n, self.n_trainings, self.trainings_share)


def outcome(
    low: float,
    high: float,
    threshold: float = 0.0,
    negligible: bool = False,
    converged: bool | None = None,
    n_trainings: int = 0,
) -> str:
    """Return what an interval says of an effect that is to lie above a threshold.

    The first that holds: ``not converged``; ``inconclusive`` for one or two trainings; ``no effect
    of relevant size`` where it is negligible, unless the threshold is below 0, as in "at least as
    good"; ``supported`` when the whole interval lies above the threshold, ``not supported`` when it
    lies below; ``no effect of relevant size`` where it is negligible; ``inconclusive``.

    Args:
        low, high: ends of the 95 % interval.
        threshold: in the unit of the interval.
        negligible: whether two one-sided tests at 5 % show the effect to lie within the smallest
            relevant one of 0, that is, its 90 % interval does.
        converged: whether every network behind it has; None: not known.
        n_trainings: independent trainings behind it; 0 where it depends on none.

    Source: Schuirmann 1987, https://doi.org/10.1007/BF01068419, for the two one-sided tests.

    Example:
        >>> outcome(0.01, 0.2), outcome(-0.3, -0.1), outcome(-0.1, 0.1)
        ('supported', 'not supported', 'inconclusive')
        >>> outcome(0.01, 0.02, negligible=True), outcome(0.01, 0.2, n_trainings=2)
        ('no effect of relevant size', 'inconclusive')
    """
    if converged is False:
        return "not converged"
    if 0 < n_trainings < MIN_TRAININGS:
        return "inconclusive"
    if negligible and threshold >= 0:
        return "no effect of relevant size"
    if low > threshold:
        return "supported"
    if high < threshold:
        return "not supported"
    return "no effect of relevant size" if negligible else "inconclusive"


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
    return pd.DataFrame(_load(profile, Record), columns=[f.name for f in fields(Record)])


def load_verdicts(profile: str) -> pd.DataFrame:
    """Return every verdict of a profile's last run, one row each.

    Columns are the attributes of ``Verdict`` with its ``outcome`` and ``p_value``.

    Raises:
        UserError: there are no records yet.
    """
    names = [*(f.name for f in fields(Verdict)), "outcome", "p_value"]
    rows = [[getattr(entry, name) for name in names] for entry in _load(profile, Verdict)]
    return pd.DataFrame(rows, columns=names)


def _load(profile: str, kind: type) -> list:
    files = sorted(records_folder(profile).glob("*.jsonl"))
    if not files:
        raise UserError(
            f"no records of profile {profile!r} yet: `topgap run --profile {profile}` makes them"
        )
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    names = {f.name for f in fields(kind)}
    # What a line of an earlier edition lacks has its default.
    return [
        kind(**{name: value for name, value in line.items() if name in names})
        for line in lines
        if line["kind"] == kind.__name__
    ]
