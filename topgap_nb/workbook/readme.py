"""The tables of the README and of the teacher's page, drawn from committed results and minutes."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import nbformat
import pandas as pd
import yaml

from topgap_nb.errors import UserError
from topgap_nb.store.layout import NOTEBOOKS, PROJECT, results_folder
from topgap_nb.store.store import write_atomic
from topgap_nb.workbook.exercises import HEADING
from topgap_nb.workbook.notebooks import all_notebooks
from topgap_nb.workbook.quotations import effect_words, quotations
from topgap_nb.workbook.runner import WHOLE, made_by

# The trial of the paper's claims; the demo is a first look at them.
TRIAL = "evidence/planted"
# What a verdict of an edition before this one does not say.
UNSAID = {
    "claim_of_paper": True, "unit": "", "smallest_effect": 0.0, "why": "", "alone": "",
    "p_holm": float("nan"), "paper_low": float("nan"), "paper_high": float("nan"),
}  # fmt: skip
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
    made = made_by(profile)
    for name in (*(path.stem for path in all_notebooks()), WHOLE):
        if name not in made:
            raise UserError(f"no run of {name} yet: `topgap run --profile {profile} --force`")
    took = {name: entry["seconds"] / 60 for name, entry in made.items()}
    hardware = made[WHOLE]["hardware"]
    shown = shown_profile(profile)
    pictures = f"figures/{shown}"
    readme = {
        "open": open_row(),
        "hero": (
            "![The first test images, Grad-CAM of the standard network, and the Top-GAP network's "
            f"own map]({pictures}/tour.png)"
        ),
        "shown": shown_words(shown),
        "quotations": quotation_list(shown),
        "verdicts": verdict_table(results_folder(shown), brief=True) + first_looks(profile, shown),
        "board": (
            "![The effect behind each claim with its interval, its threshold, and the paper's "
            f"range]({pictures}/scoreboard.png)"
        ),
        "evidence": evidence_table(results_folder("evidence")),
        "real": real_table(results_folder("real")),
        "notebooks": notebook_table(took, shown),
        "total": f"{took[WHOLE]:.0f}",
        "hardware": hardware,
    }
    _fill(PROJECT / "README.md", readme)
    teaching = {"ways": ways_table(took), "exercises": exercise_table(), "hardware": hardware}
    _fill(NOTEBOOKS / "README.md", teaching)


def _fill(path: Path, blocks: dict[str, str]) -> None:
    text = path.read_text()
    for name, content in blocks.items():
        gap = "\n" if "\n" in content else ""
        text = re.sub(
            f"(<!-- {name} -->).*?(<!-- end {name} -->)",
            lambda found, body=f"{gap}{content}{gap}": found[1] + body + found[2],
            text,
            flags=re.DOTALL,
        )
    write_atomic(path, text)


def _table(head: str, rows: list[str]) -> str:
    """Return a Markdown table; cells are separated by `` | ``."""
    return "\n".join(
        [f"| {head} |", "|---" * (head.count("|") + 1) + "|", *map("| {} |".format, rows)]
    )


def open_row(citation: Path = PROJECT / "CITATION.cff") -> str:
    """Return the "open in" badges; none until CITATION.cff names a repository on GitHub."""
    address = yaml.safe_load(citation.read_text()).get("repository-code", "")
    if not (found := re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(?:\.git)?/?", address)):
        return ""
    name, tour = found[1], quote("notebooks/00_tour.ipynb", safe="")
    binder = f"https://mybinder.org/v2/gh/{name}/HEAD?labpath={tour}"
    return (
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder}) "
        f"[Open in nbviewer](https://nbviewer.org/github/{name}/tree/HEAD/notebooks) "
        f"[Open on GitHub](https://github.com/{name})"
    )


def shown_profile(profile: str) -> str:
    """Return the profile whose verdicts the README shows: the trial, where it has been run."""
    return TRIAL if (results_folder(TRIAL) / "scoreboard.csv").exists() else profile


def shown_words(profile: str) -> str:
    """Return what came of the paper's claims in a profile, in a sentence."""
    hardware = {entry["hardware"] for entry in made_by(profile).values()}
    made = f"profile `{profile}`" + (f", {'; '.join(sorted(hardware))}" if hardware else "")
    kind = "The trial" if profile == TRIAL else "A first look, not the trial"
    board = read_board(results_folder(profile))
    claims = board[board.claim_of_paper]
    counts = ", ".join(f"{n} *{word}*" for word, n in claims.verdict.value_counts().items())
    alone = int((claims.alone.eq("supported") & claims.verdict.ne("supported")).sum())
    words = f"**{kind}** ({made}): of {len(claims)} claims of the paper {counts}."
    if alone:
        words += f" By itself, without the correction for many, {alone} more would be *supported*."
    return words


def quotation_list(profile: str) -> str:
    """Return the sentences to quote of the trial as a list; nothing of any other profile."""
    folder = results_folder(profile)
    found = quotations(folder, read_board(folder)) if profile == TRIAL else []
    lead = (
        "To quote, about networks fine-tuned on made-up objects whose backgrounds tell nothing of "
        "the class:\n\n"
    )
    return lead + "\n".join(f"- {sentence}" for sentence in found) if found else ""


def verdict_table(folder: Path, notebooks: str = "notebooks/", brief: bool = False) -> str:
    """Return the scoreboard of a folder of results: the paper's claims, then everything else.

    Args:
        folder: with ``scoreboard.csv``.
        notebooks: where a page finds the notebooks that it links to.
        brief: for a first page: without the reasons, and everything else on a click.
    """
    board = read_board(folder)
    claims, others = board[board.claim_of_paper], board[~board.claim_of_paper]
    text = claims_table(claims, notebooks, reasons=not brief)
    if len(others):
        intro = "Other readings of these claims, ablations, and questions of our own"
        table = claims_table(others, notebooks, reasons=not brief)
        text += _fold(intro, table) if brief else f"\n\n{intro}:\n\n{table}"
    return text


def _fold(summary: str, content: str) -> str:
    return f"\n\n<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def first_looks(profile: str, shown: str) -> str:
    """Return where a profile has verdicts on notebooks that the shown one leaves out, in words."""
    boards = [read_board(results_folder(name)) for name in (profile, shown)]
    left = boards[0][~boards[0].notebook.isin(boards[1].notebook)]
    if not len(left):
        return ""
    numbers = ", ".join(sorted({name[:2] for name in left.notebook}))
    return (
        f"\n\nNot on trial yet: notebooks {numbers}. [A first look at "
        f"them](figures/{profile}/90_scoreboard.md), after short trainings, says little."
    )


def read_board(folder: Path) -> pd.DataFrame:
    """Return ``scoreboard.csv`` of a folder of results; one of an earlier edition says less."""
    # A column of empty words alone would be read as numbers.
    words = {name: str for name, value in UNSAID.items() if isinstance(value, str)}
    board = pd.read_csv(folder / "scoreboard.csv", dtype=words)
    for name, value in UNSAID.items():
        board[name] = board[name].fillna(value) if name in board else value
    return board.astype({"claim_of_paper": bool})


def claims_table(
    board: pd.DataFrame,
    notebooks: str = "",
    took: Mapping[str, float] | None = None,
    reasons: bool = True,
) -> str:
    """Return verdicts as a Markdown table: the paper says, we find, why.

    Args:
        board: rows of a scoreboard, see ``read_board``.
        notebooks: where a page finds the notebooks.
        took: {notebook: minutes}, for a column of them.
        reasons: with the column "why".
    """
    said = "the paper says" if board.claim_of_paper.all() else "claim"
    columns = ["", said, "we find", *(["why"] if reasons else []), "images × trainings"]
    rows = []
    for row in board.itertuples():
        number = f"[{row.notebook[:2]}]({notebooks}{row.notebook}.ipynb)"
        cells = [number, f"{row.hypothesis}{_paper_says(row)}", _we_find(row)]
        cells += [row.why or "–"] if reasons else []
        cells.append(f"{row.n} × {row.n_trainings}")
        if took is not None:
            cells.append(f"{took[row.notebook]:.1f}" if row.notebook in took else "–")
        rows.append(" | ".join(cell.replace("|", "\\|") for cell in cells))
    columns += [] if took is None else ["minutes"]
    return _table(" | ".join(columns).lstrip(), rows)


def _paper_says(row) -> str:
    """Return the paper's effect in brackets, with its range over the rows of its table."""
    if pd.isna(row.paper_effect):
        return ""
    low, high = row.paper_low, row.paper_high
    spread = f" ({low:+.3f} to {high:+.3f})" if low < high else ""
    return f" *Paper: {row.paper_effect:+.3f}{spread}.*"


def _we_find(row) -> str:
    """Return the verdict, the effect that it is about, and what it is held against."""
    what = f" in {row.unit.replace('_', ' ')}" if row.unit else ""
    against = [f"threshold {row.threshold:+.2f}"] if row.threshold else []
    if row.verdict == "no effect of relevant size":
        against.append(f"90 % interval within ±{row.smallest_effect:.2f}")
    elif row.smallest_effect:
        against.append(f"relevant from {row.smallest_effect:.2f}")
    # Of networks that have not converged no test is made.
    if pd.notna(row.p_holm) and row.verdict != "not converged":
        against.append("p < 0.001" if row.p_holm < 0.001 else f"p = {row.p_holm:.3f}")
    return f"{_verdict(row)} {effect_words(row)}{what}" + (
        f"; {', '.join(against)}" if against else ""
    )


def _verdict(row) -> str:
    """Return the verdict, and how it stands to the correction for many claims."""
    if row.alone and row.alone != row.verdict:
        return f"**{row.verdict}** (alone: {row.alone})"
    is_uncorrected = not row.claim_of_paper and row.verdict in ("supported", "not supported")
    return f"**{row.verdict}**" + (" (uncorrected)" if is_uncorrected else "")


def evidence_table(folder: Path) -> str:
    """Return what came of the paper's claims, one row each, with one column per data set.

    Args:
        folder: of one folder of results per data set, which has the data set's name.
    """
    boards = {place: board[board.claim_of_paper] for place, board in _boards(folder).items()}
    linked = [f"[{p.name}](figures/{folder.name}/{p.name}/numbers.csv)" for p in boards]
    rows = [
        " | ".join([claim, *(cells.get(place, "–") for place in boards)])
        for claim, cells in _beside(boards, "the data set").items()
    ]
    return _table(" | ".join(["| the paper says", *linked]), rows) if len(boards) > 1 else ""


def _boards(folder: Path) -> dict[Path, pd.DataFrame]:
    """Return the scoreboards of the folders of results in a folder."""
    return {
        path.parent: read_board(path.parent) for path in sorted(folder.glob("*/scoreboard.csv"))
    }


def _beside(
    boards: Mapping[Path, pd.DataFrame], word: str, judged: bool = True
) -> dict[str, dict[Path, str]]:
    """Return {notebook and claim: {folder: effect}}; ``word`` stands for each data set's name.

    ``judged``: with the verdict before the effect.
    """
    claims: dict[str, dict[Path, str]] = {}
    for place, board in boards.items():
        for row in board.itertuples():
            claim = re.sub(rf"\b{re.escape(place.name)}\b", word, row.hypothesis)
            verdict = f"{_verdict(row)} " if judged else ""
            found = f"{verdict}{effect_words(row)}, n = {row.n} × {row.n_trainings}"
            claims.setdefault(f"{row.notebook[:2]} | {claim}", {})[place] = found
    return {claim: claims[claim] for claim in sorted(claims, key=lambda text: text[:2])}


def real_table(folder: Path) -> str:
    """Return the effects on real data sets side by side: one column per folder of results."""
    # Some notebooks add the planted worlds, which are no photographs.
    boards = {
        place: board[~board.hypothesis.str.contains("planted")]
        for place, board in _boards(folder).items()
    }
    if not boards:
        return ""
    rows = {"04 | Clean accuracy, standard and Top-GAP (no verdict)": map(_accuracies, boards)}
    for claim, cells in _beside(boards, "photographs", judged=False).items():
        rows[claim] = [cells.get(place, "–") for place in boards]
    overlap = (
        "06 | IoU of Top-GAP's map, and of a map of nothing but the image's centre (no verdict)"
    )
    rows[overlap] = map(_overlaps, boards)
    head = " | ".join(["| claim", *(place.name for place in boards)])
    return _table(head, [" | ".join([claim, *cells]) for claim, cells in rows.items()])


def _overlaps(folder: Path) -> str:
    """Return the IoU of Top-GAP's maps and that of the centre; a dash without masks."""
    if not (folder / "table_7.csv").exists():
        return "–"
    row = pd.read_csv(folder / "table_7.csv").iloc[0]
    return f"{row.topgap_iou:.3f}, {row.centre_iou:.3f}, {_size(row, 'topgap_iou', False)}"


def _accuracies(folder: Path) -> str:
    """Return the accuracies of both networks on unchanged test images."""
    if (folder / "table_5.csv").exists():
        row = pd.read_csv(folder / "table_5.csv").set_index("shift").loc["surroundings none"]
        standard, topgap, column = row.standard_accuracy, row.topgap_accuracy, "topgap_accuracy"
    else:
        table = pd.read_csv(folder / "table_3.csv").set_index(["source", "method"])
        row, column = table.loc[("ours", "Standard")], "clean"
        standard, topgap = row.clean, table.loc[("ours", "Top-GAP (here)")].clean
    return f"{standard:.3f}, {topgap:.3f}, {_size(row, column)}"


def _size(row: pd.Series, column: str, trainings: bool = True) -> str:
    """Return what a number of a table's row rests on: its own sizes, or those of the row."""
    sizes = (row.get(f"{column}_{size}", float("nan")) for size in ("n", "n_trainings"))
    n, n_trainings = (
        row[name] if pd.isna(own) else own
        for name, own in zip(("n", "n_trainings"), sizes, strict=True)
    )
    return f"n = {n:.0f} × {n_trainings:.0f}" if trainings else f"n = {n:.0f}"


def notebook_table(took: dict[str, float], profile: str = "demo") -> str:
    """Return the table of notebooks: title and minutes.

    Args:
        took: {notebook: minutes}.
        profile: whose pages of the reading edition the titles lead to, where they are made.
    """
    rows = []
    for path in all_notebooks():
        book = nbformat.read(path, as_version=4)
        title = book.cells[0].source.splitlines()[0].lstrip("# ")
        link = f"[{path.stem}](notebooks/{path.name})"
        if (results_folder(profile) / f"{path.stem}.md").exists():
            title = f"[{title}](figures/{profile}/{path.stem}.md)"
        rows.append(f"{link} | {title} | {took[path.stem]:.1f}")
    return _table("notebook | question | minutes", rows)


def ways_table(took: dict[str, float]) -> str:
    """Return the table of the ways through the book, with the minutes of each notebook."""
    rows, sums = [], dict.fromkeys(WAYS, 0.0)
    for path in all_notebooks():
        name, minutes = path.stem, took[path.stem]
        ways = [way for way, only in WAYS.items() if only is None or name[:2] in only]
        sums |= {way: sums[way] + minutes for way in ways}
        marks = " | ".join("✓" if way in ways else "" for way in WAYS)
        count = len(_exercises(path)) or ""
        rows.append(f"[{name}]({path.name}) | {minutes:.1f} | {count} | {marks}")
    total = " | ".join(f"{minutes:.0f} min" for minutes in sums.values())
    head = " | ".join(["notebook | minutes | exercises", *WAYS])
    return _table(head, [*rows, f"together, in that run | | | {total}"])


def exercise_table() -> str:
    """Return the table of all exercises: what each asks and what it practises."""
    rows = [
        f"[{number}]({path.name}) {title} | {kind} | {practised}"
        for path in all_notebooks()
        for number, title, kind, practised in _exercises(path)
    ]
    return _table("exercise | kind | practises", rows)


def _exercises(path: Path) -> list[tuple[str, ...]]:
    """Return (number, title, kind, what it practises) of a notebook's exercises."""
    cells = nbformat.read(path, as_version=4).cells
    return [found.groups() for cell in cells if (found := HEADING.match(cell.source))]
