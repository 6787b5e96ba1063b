"""The book as a site: executed notebooks, the glossary and the functions, readable without a net.

Sphinx makes the pages (navigation, search); formulas become MathML, so nothing is fetched.
"""

import ast
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat

import topgap_nb
from topgap_nb.errors import UserError
from topgap_nb.files import ROOT, runs_root
from topgap_nb.workbook.book import outputs_folder
from topgap_nb.workbook.glossary import glossary_page, with_links
from topgap_nb.workbook.readme import verdict_table
from topgap_nb.workbook.runner import all_notebooks, declared_parameters
from topgap_nb.workbook.student import tag_of

WIDGET = "application/vnd.jupyter.widget-view+json"
INDEX = """# The Top-GAP workbook

*Top-GAP* (Nieradzik, Stephani, Keuper, ECCV workshops 2024) claims that a classifier which may use
only the k strongest positions of a class map looks at the object. Each chapter is an executed
notebook that tests one of its claims by a rule that it states. Its title is the claim; whether it
held is said by its verdict, and the last chapter collects them. Pictures with sliders are stills
here: open the notebook in JupyterLab (`make lab`) to move them.

{results}

```{{toctree}}
:caption: Notebooks
:maxdepth: 1

{notebooks}
```

```{{toctree}}
:caption: Around the notebooks
:maxdepth: 1

teaching
glossary
functions
```
"""


def build_book(profile: str = "demo", target: Path | None = None) -> Path:
    """Build the site from a profile's executed notebooks; return its first page.

    Args:
        profile: ``topgap run --profile`` must have run it.
        target: where the site goes; by default ``runs/<profile>/book``.

    Raises:
        UserError: a notebook has not been executed, a page could not be made, or a link is broken.
    """
    executed = runs_root() / profile / "executed"
    books = [executed / path.name for path in all_notebooks()]
    if missing := [path.name for path in books if not path.exists()]:
        raise UserError(
            f"{missing[0]} has not been executed: `topgap run --profile {profile}` does that"
        )
    target = target or runs_root() / profile / "book"
    source = runs_root() / profile / "book_source"
    for folder in (source, target):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    entries = []
    for path in books:
        copy = readable_copy(nbformat.read(path, as_version=4))
        nbformat.write(copy, source / path.name)
        title = copy.cells[0].source.splitlines()[0].lstrip("# ")
        entries.append(f"{path.stem[:2]} · {title} <{path.stem}>")
    teaching = (ROOT / "notebooks" / "README.md").read_text()
    for name, text in {
        "index": INDEX.format(notebooks="\n".join(entries), results=_results(profile, source)),
        "teaching": teaching.replace("(../README.md", "(index.md"),
        "glossary": glossary_page(),
        "functions": functions_page(),
    }.items():
        (source / f"{name}.md").write_text(text)
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html",
         "-c", str(ROOT / "docs"), str(source), str(target)],
        capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode:
        raise UserError(f"the book could not be built:\n{made.stderr.strip()}")
    if broken := broken_links(target):
        raise UserError("the book has broken links:\n" + "\n".join(broken))
    return target / "index.html"


def _results(profile: str, source: Path) -> str:
    """Return the verdicts as Markdown, each linked to its notebook; empty where there are none."""
    folder = outputs_folder(profile)
    if not (folder / "scoreboard.csv").exists():
        return ""
    pages = {path.stem[:2]: path.name for path in all_notebooks()}
    table = re.sub(
        r"^\| (\d\d) \|",
        lambda found: f"| [{found[1]}]({pages[found[1]]}) |",
        verdict_table(folder),
        flags=re.MULTILINE,
    )
    shutil.copy(folder / "scoreboard.png", source)
    made = (folder / "scoreboard.md").read_text().splitlines()[-1]
    alt = "Every effect with its interval, its threshold, and the paper's effect"
    return (
        f"## What came out\n\n*Supported*: the 95 % interval of the effect lies above the rule's "
        f"threshold; *not supported*: below; *inconclusive*: it straddles it.\n\n"
        f"![{alt}](scoreboard.png)\n\n{_unbroken(table)}\n\n{made}"
    )


def readable_copy(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Prepare an executed notebook for readers.

    Stills for widgets, imports and solutions folded, links to the glossary, and no second cell of
    parameters that only repeats the first.
    """
    seen: set[str] = set()
    book.metadata.pop("widgets", None)
    book.cells = [cell for cell in book.cells if not _repeats(cell, book)]
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = with_links(cell.source, seen)
            continue
        tags = cell.metadata.get("tags", [])
        if tag_of(cell) == "solution":
            cell.metadata["tags"] = [*tags, "hide-cell"]
        elif tag_of(cell) == "check" or cell.source.startswith(("import ", "from ")):
            what = "check" if tag_of(cell) else "imports"
            cell.metadata["tags"] = [*tags, "hide-input"]
            cell.metadata["mystnb"] = {
                "code_prompt_show": f"Show the {what}", "code_prompt_hide": f"Hide the {what}",
            }  # fmt: skip
        # A widget without a still is a progress bar.
        cell.outputs = [
            out for out in cell.get("outputs", [])
            if WIDGET not in out.get("data", {}) or "image/png" in out["data"]
        ]  # fmt: skip
        for out in cell.outputs:
            data = out.get("data", {})
            data.pop(WIDGET, None)
            if "text/html" in data:
                data["text/html"] = _unbroken(data["text/html"])
            if alt := out.get("metadata", {}).get("image/png", {}).get("alt"):
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
    return book


def _unbroken(text: str) -> str:
    """Keep intervals on one line: a narrow column may break before them, not inside."""
    return re.sub(r"\[(\S+), (\S+)\]", r"[\1,&nbsp;\2]", text)


def _repeats(cell: nbformat.NotebookNode, book: nbformat.NotebookNode) -> bool:
    """Return whether a cell holds injected parameters that are the declared ones."""
    if "injected-parameters" not in cell.metadata.get("tags", []):
        return False
    given, declared = ast.parse(cell.source).body, declared_parameters(book)
    return all(ast.literal_eval(n.value) == declared[n.targets[0].id] for n in given)


def functions_page() -> str:
    """Return the page of all public names, by the room that they live in."""
    lines = [
        "# Functions",
        "",
        "Everything that `topgap_nb` offers, in the order of the method.",
        "",
    ]
    for module, names in topgap_nb._HOMES.items():
        lines += [f"## {module.removeprefix('topgap_nb.')}", ""]
        for name in names:
            value = getattr(topgap_nb, name)
            if isinstance(value, type):
                directive = f".. autoclass:: topgap_nb.{name}\n   :members:"
            elif callable(value):
                directive = f".. autofunction:: topgap_nb.{name}"
            else:
                directive = f".. py:data:: topgap_nb.{name}"
            lines += ["```{eval-rst}", directive, "```", ""]
    return "\n".join(lines)


class _Page(HTMLParser):
    """The links and the anchors of one page."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links += [given[key] for key in ("href", "src") if given.get(key)]


def broken_links(site: Path) -> list[str]:
    """Return ``page: link`` for every local link of a site that leads nowhere."""
    pages = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            goal = goal / "index.html" if goal.is_dir() else goal
            anchor = unquote(parts.fragment)
            lost = anchor and goal in pages and anchor not in pages[goal].anchors
            if not goal.exists() or lost:
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken
