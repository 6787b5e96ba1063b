"""``Study``: what a notebook talks to, so that its cells show the experiment and no bookkeeping."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display
from torch import Tensor

from topgap_nb.data.image_set import Splits
from topgap_nb.errors import UserError
from topgap_nb.results.figures import save_figure, set_style
from topgap_nb.results.records import Record, Verdict, save_records
from topgap_nb.results.statistics import Estimate, mean_interval, paired_difference
from topgap_nb.results.tables import paper_effect, readable, result_table
from topgap_nb.store.layout import own_folder, runs_root
from topgap_nb.store.machine import hardware, versions
from topgap_nb.store.store import write_atomic
from topgap_nb.training.gauge import gauge
from topgap_nb.training.loop import TrainedNetwork, train_or_load
from topgap_nb.training.profile import Recipe, load_profile

Value = Estimate | float | np.ndarray | Tensor


class Study:
    """The experiment of one notebook: its recipes and networks in, records, tables, verdicts out.

    Args:
        notebook: its file name without the suffix.
        profile: name of the profile; its recipes say how networks are trained.
        results: folder for tables, figures and records. Empty is ``runs/<profile>/interactive``, so
            that playing changes no result; ``topgap run`` names the folder that it collects from.
        data_folder: a person's own folder of images, whose results are kept apart.
    """

    def __init__(self, notebook: str, profile: str, results: str = "", data_folder: str = ""):
        self.notebook, self.profile = notebook, load_profile(profile)
        runs = runs_root() / profile
        # What a person runs writes apart from the results of the runner.
        self.folder = Path(results).expanduser() if results else runs / "interactive"
        # For what is made and neither shown nor committed, such as networks.
        self.work = runs / "work" / notebook
        if data_folder:
            self.work = own_folder(data_folder)
            self.folder = self.folder if results else self.work
        self.entries: list[Record | Verdict] = []
        torch.set_num_threads(self.profile.threads or torch.get_num_threads())
        set_style()

    def recipe(self, dataset: str, **changes) -> Recipe:
        """Return the profile's recipe for a data set; see ``Profile.recipe``."""
        return self.profile.recipe(dataset, **changes)

    def train(
        self,
        recipe: Recipe,
        data: Splits | None = None,
        seeds: Iterable[int] = (0,),
        folds: int = 0,
    ) -> dict[str, list[TrainedNetwork]]:
        """Return the standard and the Top-GAP networks of a recipe, {method: one per training}.

        Args:
            recipe: how to train; see ``recipe``.
            data: what to train on; by default what the recipe names.
            seeds: one training for each.
            folds: cross-validation instead: one training for each of so many folds.

        Raises:
            UserError: both folds and data.
        """
        if folds and data is not None:
            raise UserError("folds are cut from what the recipe names: give folds, or data")
        runs, seeds = {"standard": [], "topgap": []}, tuple(seeds)
        for spec, trainings in zip((recipe.standard, recipe.spec), runs.values(), strict=True):
            if folds:
                # One at a time in memory.
                opened = (recipe.open(fold=fold, folds=folds) for fold in range(folds))
                trainings += [train_or_load(spec, fold) for fold in opened]
            else:
                data = data or recipe.open()
                trainings += [train_or_load(spec.replace(seed=seed), data) for seed in seeds]
        return runs

    def gauge(
        self, runs: Mapping[str, Iterable[TrainedNetwork]], data: Splits, **settings
    ) -> pd.DataFrame:
        """Record, and return as a table, how far networks are from Equation 1's optimum.

        Args:
            runs: {method: its trainings}, as from ``train``.
            data: what they were trained on.
            settings: what else the rows are about.
        """
        for method, trainings in runs.items():
            found = pd.DataFrame([gauge(run, data) for run in trainings])
            means = found.astype(float).mean().dropna().to_dict()
            about = {"method": method, **settings, "n_trainings": len(found)}
            self.row(f"{self.notebook[:2]}_gauge", means, n=len(data.train), **about)
        return self.table(f"{self.notebook[:2]}_gauge")

    def converged(self, runs: Mapping[str, Iterable[TrainedNetwork]], data: Splits) -> bool:
        """Return whether every network behind a verdict has worked on Equation 1; see ``gauge``."""
        return all(gauge(run, data).converged for group in runs.values() for run in group)

    def row(self, table: str, values: Mapping[str, Value], n: int = 0, **settings) -> None:
        """Record numbers that stand in one row of a table.

        Args:
            table: in the paper's numbering, ``6`` or ``a4``; or a name of our own.
            values: {column: number}. An array is a mean with its interval: (N,) over test images,
                or (R, N) over R trainings and N test images. An ``Estimate`` brings its own
                interval, a plain number has none.
            n: test images behind plain numbers.
            settings: what the row is about; ``n_trainings`` where the values do not show it.
        """
        known = settings.pop("n_trainings", None)
        # numpy's and torch's numbers are no JSON.
        settings = {k: v.item() if hasattr(v, "item") else v for k, v in settings.items()}
        for column, value in values.items():
            found = _estimate(value, n)
            self._add(
                Record(
                    self.notebook, table, column, *found[:4],
                    found.n_trainings if known is None else known,
                    self.profile.name, settings, hardware(), versions(),
                )
            )  # fmt: skip

    def compare(
        self,
        claim: str,
        topgap: np.ndarray | Tensor,
        standard: np.ndarray | Tensor,
        table: str = "",
        column: str = "",
        rule: str = "",
        threshold: float = 0.0,
        paper: Sequence[float] | float | str | None = "table",
        smallest_effect: float = 0.0,
        converged: bool | None = None,
        claim_of_paper: bool = True,
        why: str = "",
        unit: str = "",
        **settings,
    ) -> Markdown:
        """Record both sides of a comparison, and what it says of a claim; return the verdict.

        Args:
            claim: a sentence, true if Top-GAP's values are larger by more than the threshold.
            topgap, standard: per test image, (N,) or (R, N) over R trainings on the same images.
            table, column: where the numbers stand, as ``standard_<column>`` and
                ``topgap_<column>``; nowhere if empty.
            rule: of the verdict, in words; by default that the interval lies above the threshold.
            threshold: what the interval of the paired difference is held against.
            paper: the ``paper_effect`` of ``verdict``; by default that of the table and column.
            smallest_effect, converged, claim_of_paper, why: see ``Verdict``.
            unit: by default the column.
            settings: what the row is about.
        """
        if table:
            both = {f"standard_{column}": standard, f"topgap_{column}": topgap}
            self.row(table, both, **settings)
        paper = paper_effect(table, column) if isinstance(paper, str) else paper
        is_hit = "bool" in str(topgap.dtype)
        effect = paired_difference(topgap, standard) if is_hit else mean_interval(topgap - standard)
        measured = f" in {column}" if column else ""
        rule = rule or f"95 % interval of the paired difference{measured} above {threshold:g}"
        return self.verdict(
            claim, rule, effect, threshold, settings.get("n_trainings"), paper, smallest_effect,
            converged, claim_of_paper, why, unit or column,
        )  # fmt: skip

    def verdict(
        self,
        hypothesis: str,
        rule: str,
        effect: Estimate,
        threshold: float = 0.0,
        n_trainings: int | None = None,
        paper_effect: Sequence[float] | float | None = None,
        smallest_effect: float = 0.0,
        converged: bool | None = None,
        claim_of_paper: bool = True,
        why: str = "",
        unit: str = "",
    ) -> Markdown:
        """Record what became of a hypothesis, and return it as a sentence.

        Args:
            hypothesis: a sentence, true if the effect lies above the threshold.
            rule, effect, threshold: see ``Verdict``, as for what follows ``paper_effect``.
            n_trainings: by default those of the effect.
            paper_effect: the paper's, in each row of its table; None where it measures another
                quantity.

        Raises:
            UserError: a negative smallest effect.
        """
        if smallest_effect < 0:
            raise UserError(f"smallest_effect is {smallest_effect:g}: give a size, 0 or more")
        rows = pd.Series(paper_effect, dtype=float).dropna()
        entry = Verdict(
            self.notebook, hypothesis, rule, *effect[:3], threshold, effect.n,
            effect.n_trainings if n_trainings is None else n_trainings, self.profile.name,
            *(rows.agg(["mean", "min", "max"]) if len(rows) else [None] * 3), hardware(),
            smallest_effect, None if converged is None else bool(converged), claim_of_paper, why,
            unit, effect.trainings_share,
        )  # fmt: skip
        self._add(entry)
        return Markdown(_sentence(entry))

    def verdicts(self) -> Markdown:
        """Return all verdicts so far, a paragraph each."""
        entries = [entry for entry in self.entries if isinstance(entry, Verdict)]
        return Markdown("\n\n".join(map(_sentence, entries)))

    @property
    def records(self) -> pd.DataFrame:
        """The numbers so far, one row each."""
        numbers = [vars(entry) for entry in self.entries if isinstance(entry, Record)]
        return pd.DataFrame(numbers, columns=[f.name for f in fields(Record)])

    def table(self, number: str) -> pd.DataFrame:
        """Save a table from the records so far as CSV, above the paper's rows; return its view."""
        frame = result_table([e for e in self.entries if isinstance(e, Record)], number)
        self.save(f"table_{number}", frame)
        # Row numbers mean nothing to a reader.
        return readable(frame).set_axis([""] * len(frame))

    def save(self, name: str, frame: pd.DataFrame) -> None:
        """Write a data frame as ``<name>.csv`` beside the tables."""
        write_atomic(self.folder / f"{name}.csv", frame.to_csv(index=False))

    def figure(self, fig: plt.Figure, name: str, alt: str) -> None:
        """Save a figure with its description, and show it once."""
        save_figure(fig, self.folder / name, alt)
        display(fig, metadata={"image/png": {"alt": alt, "figure": name}})
        plt.close(fig)

    def provenance(self, number: str = "") -> str:
        """Return in one line how the numbers of a table, or all so far, were made."""
        rows = [e for e in self.entries if isinstance(e, Record) and number in ("", e.table)]
        if not rows:
            raise UserError(f"no record stands in table {number!r}")
        trainings = "/".join(map(str, sorted({row.n_trainings for row in rows})))
        return (
            f"Profile {self.profile.name}; trainings per number: {trainings}; intervals 95 %; "
            f"hardware: {hardware()}."
        )

    def say(self, text: str) -> Markdown:
        """Return prose whose numbers were filled in from records."""
        return Markdown(text)

    def _add(self, entry: Record | Verdict) -> None:
        self.entries.append(entry)
        # Written each time: an interrupted notebook leaves the records of what it finished.
        save_records(self.entries, self.folder / "records" / f"{self.notebook}.jsonl")


def _estimate(value: Value, n: int) -> Estimate:
    if isinstance(value, Estimate):
        return value
    if getattr(value, "ndim", 0):
        return mean_interval(value)
    return Estimate(float(value), float(value), float(value), int(n))


def _sentence(entry: Verdict) -> str:
    word = entry.outcome.capitalize()
    if entry.outcome == "supported" and entry.claim_of_paper:
        word += ", before the correction for many claims"
    relevant = f", relevant from {entry.smallest_effect:.3f}" if entry.smallest_effect else ""
    if entry.outcome == "no effect of relevant size":
        relevant += ", within which the 90 % interval lies"
    return (
        f"**{word}.** Claim: *{entry.hypothesis}* Effect {entry.effect:+.3f} "
        f"[{entry.low:+.3f}, {entry.high:+.3f}] against a threshold of {entry.threshold:+.3f}"
        f"{relevant}; n = {entry.n}, trainings = {entry.n_trainings}. {entry.why}"
    ).rstrip()
