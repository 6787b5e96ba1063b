"""The README's tables, drawn from records and committed results."""

import re
from pathlib import Path
from urllib.parse import quote

import nbformat
import pandas as pd
import yaml

from topgap_nb.errors import UserError
from topgap_nb.experiments.records import Verdict, load_records
from topgap_nb.files import ROOT, write_atomic
from topgap_nb.workbook.book import outputs_folder
from topgap_nb.workbook.runner import WHOLE, all_notebooks, minutes, promised_outputs

README = ROOT / "README.md"
CITATION = ROOT / "CITATION.cff"
TEACHING = ROOT / "notebooks" / "README.md"
# Three ways through the book, by the numbers of the notebooks.
WAYS = {
    "one lecture": ("00", "01", "90"),
    "one week": ("00", "01", "02", "03", "04", "06", "90"),
    "one term": None,
}


def fill_readme(profile: str = "demo") -> None:
    """Rewrite the blocks of the README and of the teacher's page from the last run of a profile.

    A block stands between ``<!-- name -->`` and ``<!-- end name -->``.

    Raises:
        UserError: a notebook of the profile has not been run.
    """
    took = minutes(profile)
    missing = [name for name in (*(p.stem for p in all_notebooks()), WHOLE) if name not in took]
    if missing:
        raise UserError(
            f"no run of {missing[0]} yet: `topgap run --profile {profile} --force` runs all"
        )
    hardware = next(e.hardware for e in load_records(profile) if isinstance(e, Verdict))
    _fill(
        README,
        {
            "open": open_row(),
            "verdicts": verdict_table(outputs_folder(profile)),
            "real": real_table(outputs_folder("real")),
            "notebooks": notebook_table(took),
            "total": f"{took[WHOLE]:.0f}",
            "hardware": hardware,
        },
    )
    _fill(
        TEACHING,
        {"ways": ways_table(took), "exercises": exercise_table(), "hardware": hardware},
    )


def _fill(path: Path, blocks: dict[str, str]) -> None:
    text = path.read_text()
    for name, content in blocks.items():
        gap = "\n" if "|" in content else ""
        text = re.sub(
            f"(<!-- {name} -->).*?(<!-- end {name} -->)",
            lambda found, body=f"{gap}{content}{gap}": found[1] + body + found[2],
            text,
            flags=re.DOTALL,
        )
    write_atomic(path, text)


def open_row() -> str:
    """Return the "open in" badges; none until CITATION.cff names a repository on GitHub."""
    address = yaml.safe_load(CITATION.read_text()).get("repository-code", "")
    if not (found := re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(?:\.git)?/?", address)):
        return ""
    name, tour = found[1], "notebooks/00_tour.ipynb"
    binder = f"https://mybinder.org/v2/gh/{name}/HEAD?labpath={quote(tour, safe='')}"
    return (
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder}) "
        f"[Open in nbviewer](https://nbviewer.org/github/{name}/tree/HEAD/notebooks) "
        f"[Open on GitHub](https://github.com/{name})"
    )


def real_table(folder: Path) -> str:
    """Return the verdicts on real data sets side by side: one column per folder of results."""
    boards = {
        path.parent.name: pd.read_csv(path) for path in sorted(folder.glob("*/scoreboard.csv"))
    }
    if not boards:
        return ""
    cells: dict[str, dict[str, str]] = {}
    for name, board in boards.items():
        # Some notebooks add the planted worlds, which are no photographs.
        for row in board[~board.hypothesis.str.contains("planted")].itertuples():
            claim = row.hypothesis.replace(name, "photographs")
            cells.setdefault(f"{row.notebook[:2]} | {claim}", {})[name] = (
                f"**{row.verdict}** {row.effect:+.3f} [{row.effect_low:+.3f}, "
                f"{row.effect_high:+.3f}], n = {row.n} × {row.seeds}"
            )
    lines = [f"| | claim | {' | '.join(boards)} |", "|---|---|" + "---|" * len(boards)]
    clean = [_clean_accuracies(folder / name) for name in boards]
    centre = [_overlaps(folder / name / "table_7.csv") for name in boards]
    lines.append(
        f"| 04 | Clean accuracy, standard and Top-GAP (no verdict) | {' | '.join(clean)} |"
    )
    for claim in sorted(cells, key=lambda text: text[:2]):
        found = [cells[claim].get(name, "–") for name in boards]
        lines.append(f"| {claim} | {' | '.join(found)} |")
    claim = "IoU of Top-GAP's map, and of a map of nothing but the image's centre (no verdict)"
    lines.append(f"| 06 | {claim} | {' | '.join(centre)} |")
    return "\n".join(lines)


def _overlaps(path: Path) -> str:
    """Return the IoU of Top-GAP's maps and that of the yardstick; a dash without masks."""
    if not path.exists():
        return "–"
    row = pd.read_csv(path).iloc[0]
    return f"{row.topgap_iou:.3f}, {row.centre_iou:.3f}, n = {row.n:.0f}"


def _clean_accuracies(folder: Path) -> str:
    """Return the accuracies of both networks on unchanged test images."""
    if (folder / "table_5.csv").exists():
        row = pd.read_csv(folder / "table_5.csv").set_index("shift").loc["surroundings none"]
        accuracies = row.standard_accuracy, row.topgap_accuracy
    else:
        table = pd.read_csv(folder / "table_3.csv").set_index(["source", "method"])
        rows = [table.loc[("ours", method)] for method in ("Standard", "Top-GAP (here)")]
        row, accuracies = rows[0], [row.clean for row in rows]
    return f"{accuracies[0]:.3f}, {accuracies[1]:.3f}, n = {row.n:.0f} × {row.seeds:.0f}"


def verdict_table(folder: Path) -> str:
    """Return the scoreboard of committed results as a Markdown table."""
    board = pd.read_csv(folder / "scoreboard.csv")
    lines = ["| | claim | verdict | effect [95 %] | threshold | paper ◇ | n × trainings |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in board.itertuples():
        paper = "–" if pd.isna(row.paper_effect) else f"{row.paper_effect:+.3f}"
        lines.append(
            f"| {row.notebook[:2]} | {row.hypothesis} | **{row.verdict}** | {row.effect:+.3f} "
            f"[{row.effect_low:+.3f}, {row.effect_high:+.3f}] | {row.threshold:+.2f} | {paper} | "
            f"{row.n} × {row.seeds} |"
        )
    return "\n".join(lines)


def notebook_table(took: dict[str, float]) -> str:
    """Return the table notebook, claim, outputs, minutes."""
    lines = ["| notebook | claim | writes | minutes |", "|---|---|---|---|"]
    for path in all_notebooks():
        book = nbformat.read(path, as_version=4)
        title = book.cells[0].source.splitlines()[0].lstrip("# ")
        outputs = ", ".join(name.split(".")[0] for name in promised_outputs(book))
        link = f"[{path.stem}](notebooks/{path.name})"
        lines.append(f"| {link} | {title} | {outputs} | {took[path.stem]:.1f} |")
    return "\n".join(lines)


def ways_table(took: dict[str, float]) -> str:
    """Return the table of the ways through the book, with a column of minutes per notebook."""
    lines = ["| notebook | minutes | exercises | " + " | ".join(WAYS) + " |"]
    lines.append("|---" * (3 + len(WAYS)) + "|")
    names = [path.stem for path in all_notebooks()]
    counts = {path.stem: len(_exercises(path)) for path in all_notebooks()}
    on = {way: [n for n in names if only is None or n[:2] in only] for way, only in WAYS.items()}
    for name in names:
        marks = " | ".join("✓" if name in chosen else "" for chosen in on.values())
        lines.append(
            f"| [{name}]({name}.ipynb) | {took[name]:.1f} | {counts[name] or ''} | {marks} |"
        )
    sums = " | ".join(f"{sum(took[name] for name in chosen):.0f} min" for chosen in on.values())
    return "\n".join([*lines, f"| together, in that run | | | {sums} |"])


def exercise_table() -> str:
    """Return the table of all exercises: what each asks and what it practises."""
    lines = ["| exercise | kind | practises |", "|---|---|---|"]
    for path in all_notebooks():
        for number, title, kind, practised in _exercises(path):
            lines.append(f"| [{number}]({path.name}) {title} | {kind} | {practised} |")
    return "\n".join(lines)


def _exercises(path: Path) -> list[tuple[str, ...]]:
    """Return (number, title, kind, what it practises) of a notebook's exercises."""
    pattern = r"### Exercise (\d\d\.\d) · (.+)\n\n\*(.+)\. Practises: (.+)\.\*"
    cells = nbformat.read(path, as_version=4).cells
    return [found.groups() for cell in cells if (found := re.match(pattern, cell.source))]
