"""What a notebook writes into: its records, tables, figures and verdicts."""

import os
from hashlib import sha256
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown, display

from topgap_nb.experiments.recipes import threads_of
from topgap_nb.experiments.records import (
    Record,
    Verdict,
    hardware,
    save_records,
    versions,
)
from topgap_nb.files import ROOT, runs_root
from topgap_nb.measures.scores import Estimate
from topgap_nb.workbook.figures import save_figure, set_style
from topgap_nb.workbook.tables import readable, result_table, save_table

# Set in the kernels that ``topgap run`` starts.
BY_RUNNER = "TOPGAP_RUNNER"


def outputs_folder(profile: str, data_folder: str = "") -> Path:
    """Return where a profile's tables and figures go; smoke numbers never reach ``figures/``.

    What is made from a person's own ``data_folder`` goes to ``runs/own/<its name>-<a hash>``, so
    that it is neither committed nor mixed with the workbook's results.
    """
    if data_folder:
        path = Path(data_folder).expanduser().resolve()
        return runs_root() / "own" / f"{path.name}-{sha256(str(path).encode()).hexdigest()[:6]}"
    return runs_root() / "smoke" / "figures" if profile == "smoke" else ROOT / "figures" / profile


class Book:
    """The results of one notebook run.

    What ``topgap run`` executes writes the results of its profile. What a person runs, perhaps with
    other parameters, goes to ``runs/<profile>/interactive``, so that playing changes no result.

    Args:
        notebook: its file name without the suffix.
        profile: the profile it runs under; names the folders that results go to.
        data_folder: a person's own folder of images, whose results are kept apart.
    """

    def __init__(self, notebook: str, profile: str, data_folder: str = ""):
        self.notebook, self.profile = notebook, profile
        self.folder, self.records = outputs_folder(profile, data_folder), None
        if data_folder:
            self.records = self.folder / "records.jsonl"
        elif BY_RUNNER not in os.environ:
            self.folder = runs_root() / profile / "interactive"
            self.records = self.folder / "records" / f"{notebook}.jsonl"
        # For what is made and neither shown nor committed, as networks.
        self.workplace = self.folder if data_folder else runs_root() / profile / "work" / notebook
        self.entries: list[Record | Verdict] = []
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads_of(profile))
        set_style()

    def record(
        self,
        table: str,
        quantity: str,
        value: Estimate | float,
        n: int = 0,
        seeds: int = 1,
        paper: float | None = None,
        **settings,
    ) -> Record:
        """Record one measured number. A plain number has no interval; give its ``n``."""
        if not isinstance(value, Estimate):
            value = Estimate(float(value), float(value), float(value), n)
        entry = Record(
            self.notebook, table, quantity, *value, seeds, self.profile, paper, settings,
            hardware(), versions(),
        )  # fmt: skip
        self._add(entry)
        return entry

    def verdict(
        self,
        hypothesis: str,
        rule: str,
        effect: Estimate,
        threshold: float = 0.0,
        seeds: int = 1,
        paper_effect: float | None = None,
    ) -> Markdown:
        """Record and show what became of a hypothesis."""
        entry = Verdict(
            self.notebook, hypothesis, rule, effect.value, effect.low, effect.high, threshold,
            effect.n, seeds, self.profile, paper_effect, hardware(),
        )  # fmt: skip
        self._add(entry)
        return Markdown(
            f"**{entry.outcome.capitalize()}.** {hypothesis} Effect {effect.value:+.3f} "
            f"[{effect.low:+.3f}, {effect.high:+.3f}] against a threshold of {threshold:+.3f}; "
            f"n = {effect.n}, trainings = {seeds}."
        )

    def table(self, number: str, keep: bool = True) -> pd.DataFrame:
        """Save the table of the paper's ``number`` from the records so far, and return its view."""
        frame = result_table([e for e in self.entries if isinstance(e, Record)], number)
        if keep:
            save_table(frame, self.folder, f"table_{number}", self.provenance(number))
        # Row numbers mean nothing to a reader.
        return readable(frame).set_axis([""] * len(frame))

    def figure(self, fig: plt.Figure, name: str, alt: str) -> None:
        """Save a figure as PNG and PDF with its description, and show it once."""
        save_figure(fig, self.folder / name, alt)
        display(fig, metadata={"image/png": {"alt": alt}})
        plt.close(fig)

    def provenance(self, number: str) -> str:
        """Say how the numbers of a table were made, in one line."""
        rows = [e for e in self.entries if isinstance(e, Record) and e.table == number]
        seeds = sorted({r.seeds for r in rows})
        trainings = "/".join(map(str, seeds))
        return (
            f"Profile {self.profile}; trainings per number: {trainings}; "
            f"intervals 95 %; hardware: {hardware()}."
        )

    def say(self, text: str) -> Markdown:
        """Return prose whose numbers were filled in from records."""
        return Markdown(text)

    def _add(self, entry: Record | Verdict) -> None:
        self.entries.append(entry)
        # Written each time: an interrupted notebook leaves the records of what it finished.
        save_records(self.entries, self.profile, self.notebook, self.records)
