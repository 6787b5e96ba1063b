"""Slides from executed notebooks: headings, formulas, code, pictures and verdicts, one per slide.

Running text becomes the speaker's notes, which reveal.js shows in its own window (key S).
"""

import re
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from topgap_nb.errors import UserError
from topgap_nb.store.layout import executed_folder, runs_root
from topgap_nb.store.store import write_atomic
from topgap_nb.workbook.notebooks import all_notebooks
from topgap_nb.workbook.reading_edition import SENTENCES, markdown_table, readable_copy

# What fits on a slide at a size that the last row can read.
LINES_OF_CODE = 22
ROWS_OF_A_TABLE = 10
COLUMNS_OF_A_TABLE = 9
# Of a Markdown cell, what is shown; the other paragraphs are spoken.
SHOWN = re.compile(r"#|\$\$|- |\d+\. |\*\*Predict first")
# Shown where a heading would be alone; the whole paragraph is spoken.
FIRST_SENTENCE = re.compile(r"[^|$`]+?[.?!](?=\s|$)")
# Tables that say how a notebook is run.
BOOKKEEPING = re.compile(r"\| (At a glance|Parameter)")


def write_slides(profile: str = "demo") -> list[Path]:
    """Write a presentation for each executed notebook, ``runs/<profile>/slides/NN.html``.

    Pictures and text are inside; the page loads reveal.js and MathJax when it is shown.

    Args:
        profile: ``topgap run --profile`` must have run it.

    Raises:
        UserError: a notebook has not been executed.
    """
    written = []
    for path in all_notebooks():
        executed = executed_folder(profile) / path.name
        if not executed.exists():
            raise UserError(f"{executed} is missing: `topgap run --profile {profile}` makes it")
        talk = slides_of(nbformat.read(executed, as_version=4))
        exporter = SlidesExporter(reveal_theme="simple", reveal_scroll=True, exclude_input=True)
        exporter.exclude_output_prompt = True
        page, _ = exporter.from_notebook_node(talk)
        target = runs_root() / profile / "slides" / f"{path.stem}.html"
        write_atomic(target, page)
        written.append(target)
    return written


def slides_of(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return an executed notebook as a talk, up to its exercises; ``slideshow`` marks slides."""
    talk, heading_alone = [], False
    for cell in readable_copy(book).cells:
        if cell.source.startswith("## Exercises"):
            break
        parts = _from_markdown(cell) if cell.cell_type == "markdown" else _from_code(cell)
        for kind, part in parts:
            if kind == "slide":
                # What stands under a heading joins it.
                kind = "-" if heading_alone and not part.source.startswith("#") else "slide"
                heading_alone = bool(re.fullmatch("#.*", part.source))
            part.id, part.metadata["slideshow"] = f"part-{len(talk)}", {"slide_type": kind}
            talk.append(part)
    return new_notebook(cells=talk, metadata=book.metadata)


def _from_markdown(cell: nbformat.NotebookNode) -> list[tuple[str, nbformat.NotebookNode]]:
    paragraphs = [p for p in re.split(r"\n\s*\n", cell.source) if not BOOKKEEPING.match(p)]
    shown = [p for p in paragraphs if SHOWN.match(p.lstrip())]
    spoken = [p for p in paragraphs if p not in shown]
    if len(shown) == 1 and spoken and (first := FIRST_SENTENCE.match(spoken[0])):
        shown.append(first[0])
    parts = [("slide", new_markdown_cell("\n\n".join(shown)))] if shown else []
    return parts + _notes("\n\n".join(spoken))


def _from_code(cell: nbformat.NotebookNode) -> list[tuple[str, nbformat.NotebookNode]]:
    said = [out.data["text/markdown"] for out in cell.outputs if "text/markdown" in _data(out)]
    if "verdicts()" in cell.source:
        return [("slide", new_markdown_cell("\n\n".join(said)))]
    if SENTENCES in cell.source:
        return _notes("\n\n".join(said))
    parts = []
    for output in cell.outputs:
        data = _data(output)
        if "image/png" in data:
            # Without its code: the picture fills the slide.
            picture = new_code_cell("", outputs=[output])
            parts.append(("slide", picture))
        elif "<table" in data.get("text/html", ""):
            table = markdown_table(data["text/html"])
            head, _, *rows = table.splitlines()
            if len(rows) <= ROWS_OF_A_TABLE and head.count("|") <= COLUMNS_OF_A_TABLE + 1:
                parts.append(("slide", new_markdown_cell(table)))
    tags = {"parameters", "injected-parameters", "hide-input"} & set(cell.metadata.get("tags", []))
    guess = cell.source.startswith("my_")
    if not (cell.outputs or tags or guess) and cell.source.count("\n") < LINES_OF_CODE:
        parts.append(("slide", new_markdown_cell(f"```python\n{cell.source}\n```")))
    return parts


def _data(output: nbformat.NotebookNode) -> dict:
    return output.get("data", {})


def _notes(text: str) -> list[tuple[str, nbformat.NotebookNode]]:
    return [("notes", new_markdown_cell(text))] if text.strip() else []
