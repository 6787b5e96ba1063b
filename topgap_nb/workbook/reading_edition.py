"""Executed notebooks for readers: pages of Markdown beside their figures, and what the book shows.

The reading edition can be read wherever the repository is hosted, with nothing installed.
Pictures are the committed figures, tables are Markdown, and solutions stay in the notebooks.
"""

import ast
import io
import os
import re
from base64 import b64decode
from collections.abc import Container
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from nbconvert import MarkdownExporter
from nbformat.v4 import new_markdown_cell

from topgap_nb.results.figures import small_png
from topgap_nb.store.fingerprint import parse
from topgap_nb.store.layout import notebooks_root
from topgap_nb.store.store import write_atomic
from topgap_nb.workbook.notebooks import all_notebooks
from topgap_nb.workbook.student import exercise_part

WIDGET = "application/vnd.jupyter.widget-view+json"
# A cell that calls this fills numbers into sentences.
SENTENCES = "study.say("
# What such cells, and those that draw and tabulate, show is the point: their code is folded.
FOLDED = re.compile(r"study\.(say|figure|table|row|compare|verdict)s?\(")
TEMPLATE = """{% extends "markdown/index.md.j2" %}
{% block input %}
{% if "hide-input" in cell.metadata.get("tags", []) %}
<details><summary>Show the code</summary>

{{ super() }}
</details>
{% else %}
{{ super() }}
{% endif %}
{% endblock input %}
"""
# A link to a file of the project; addresses and places on the same page stay as they are.
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")

FORMULA = re.compile(
    r"```.*?```|`[^`\n]*`|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", flags=re.DOTALL
)


def write_page(
    book: nbformat.NotebookNode, name: str, folder: Path, about: str, pages: Container[str] = ()
) -> Path:
    """Write an executed notebook as a page of Markdown, ``NN_*.md``; return the file.

    Pictures that ``Study.figure`` has not saved, such as stills of explorers, go beside it.

    Args:
        book: with its outputs.
        name: of the notebook, such as ``04_adversarial_attacks``.
        folder: where the page and the figures stand; links start there.
        about: how the numbers were made, below the title.
        pages: names of the notebooks that have a page there, or are to have one; a link to another
            leads to the notebook itself.
    """
    page, stills = readable_copy(book), []
    page.cells = [c for c in page.cells if exercise_part(c) not in ("solution", "check")]
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = _prose(cell.source, folder, pages)
            if cell.source.startswith("## Exercises"):
                cell.source += "\n\n*Answers and checks stand in the notebook.*"
            continue
        for output in cell.outputs:
            data = output.get("data", {})
            picture = output.get("metadata", {}).get("image/png", {})
            if "image/png" in data:
                file = picture.get("figure") or f"{name[:2]}_still_{len(stills) + 1}"
                alt = picture.get("alt", "A picture.")
                if "figure" not in picture:
                    stills.append(small_png(io.BytesIO(b64decode(data["image/png"])), alt))
                    write_new(folder / f"{file}.png", stills[-1])
                output.data = {"text/markdown": f"![{alt}]({file}.png)"}
            elif "text/markdown" in data:
                data["text/markdown"] = _prose(data["text/markdown"], folder, pages)
            elif "<table" in data.get("text/html", ""):
                output.data = {"text/markdown": markdown_table(data["text/html"])}
    source = os.path.relpath(notebooks_root() / f"{name}.ipynb", folder)
    title, _, rest = page.cells[0].source.partition("\n")
    intro = f"*{about} The notebook itself: [{name}.ipynb]({source}).*"
    page.cells[0].source = f"{title.replace('# ', f'# {name[:2]} · ', 1)}\n\n{intro}\n{rest}"
    page.cells.append(new_markdown_cell(_neighbours(name, pages), id="neighbours"))
    body, _ = MarkdownExporter(raw_template=TEMPLATE).from_notebook_node(page)
    text = re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"
    write_new(folder / f"{name}.md", text.encode())
    return folder / f"{name}.md"


def write_new(target: Path, content: bytes) -> None:
    """Write a file unless it has this content already."""
    if not target.exists() or target.read_bytes() != content:
        write_atomic(target, content)


def _prose(text: str, folder: Path, pages: Container[str]) -> str:
    """Return Markdown with links from the page, and formulas as hosts of repositories want them.

    Between ``$`` and a backtick they leave backslashes alone; elsewhere they would take ``\\,``
    for an escaped comma.
    """

    def formula(found: re.Match) -> str:
        if found["block"]:
            return f"```math\n{found['block'].strip()}\n```"
        return f"$`{found['inline']}`$" if found["inline"] else found[0]

    text = LINK.sub(lambda found: _link(found[1], folder, pages), text)
    return FORMULA.sub(formula, text)


def markdown_table(html: str) -> str:
    """Return the first table of a page as Markdown; a first column of blanks is left out."""
    lines = BeautifulSoup(html, "html.parser").table.find_all("tr")
    rows = [
        [
            " ".join(cell.get_text().split()).replace("|", "\\|")
            for cell in line.find_all(["th", "td"])
        ]
        for line in lines
    ]
    if not any(row[0] for row in rows):
        rows = [row[1:] for row in rows]
    # Words of a column's name, which Markdown may break.
    rows[0] = [name.replace("_", " ") for name in rows[0]]
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def _link(target: str, folder: Path, pages: Container[str]) -> str:
    """Return a notebook's link as one from the page: to another page, where there is one."""
    file = notebooks_root() / target
    if file.suffix == ".ipynb" and file.stem in pages:
        return f"{file.stem}.md"
    return os.path.relpath(file, folder)


def _neighbours(name: str, pages: Container[str]) -> str:
    names = [path.stem for path in all_notebooks() if path.stem in pages or path.stem == name]
    place = names.index(name)
    before = [f"[← {other}]({other}.md)" for other in names[:place][-1:]]
    after = [f"[{other} →]({other}.md)" for other in names[place + 1 :][:1]]
    return "---\n\n" + " · ".join([*before, *after])


def readable_copy(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Prepare an executed notebook for readers.

    Stills stand for widgets; imports, solutions and what draws, tabulates or fills in sentences are
    folded; of the injected parameters, those remain that differ from the declared ones.
    """
    declared = []
    book.metadata.pop("widgets", None)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            continue
        tags, part = cell.metadata.get("tags", []), exercise_part(cell)
        if "parameters" in tags:
            declared = _statements(cell.source)
        if "injected-parameters" in tags:
            # Where the results went is a matter of this machine.
            changed = [line for line in _statements(cell.source) if line not in declared]
            changed = [line for line in changed if not line.startswith("RESULTS =")]
            cell.source = "\n".join(["# What this run changes:", *changed]) if changed else ""
        if part == "solution":
            cell.metadata["tags"] = [*tags, "hide-cell"]
        elif part == "check" or _only_imports(cell.source) or FOLDED.search(cell.source):
            cell.metadata["tags"] = [*tags, "hide-input"]
            about = {"code_prompt_show": "Show the code", "code_prompt_hide": "Hide the code"}
            cell.metadata["mystnb"] = about
        # A widget without a still is a progress bar.
        cell.outputs = [
            out for out in cell.outputs
            if WIDGET not in out.get("data", {}) or "image/png" in out.data
        ]  # fmt: skip
        for out in cell.outputs:
            data = out.get("data", {})
            data.pop(WIDGET, None)
            if "text/html" in data:
                data["text/html"] = unbroken(data["text/html"])
            if alt := out.get("metadata", {}).get("image/png", {}).get("alt"):
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
    book.cells = [cell for cell in book.cells if cell.source]
    return book


def unbroken(text: str) -> str:
    """Keep intervals on one line: a narrow column may break before them, not inside."""
    return re.sub(r"\[(\S+), (\S+)\]", r"[\1,&nbsp;\2]", text)


def _only_imports(source: str) -> bool:
    return all(isinstance(node, ast.Import | ast.ImportFrom) for node in parse(source).body)


def _statements(source: str) -> list[str]:
    return [ast.unparse(node) for node in parse(source).body]
