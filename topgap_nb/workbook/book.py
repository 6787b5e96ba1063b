"""The book: executed notebooks, the glossary and the functions as a site that needs no net.

``docs/`` holds Sphinx's settings and the pages that are written by hand.
"""

import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import nbformat

from topgap_nb.errors import UserError
from topgap_nb.store.fingerprint import public_names
from topgap_nb.store.layout import NOTEBOOKS, PROJECT, executed_folder, results_folder, runs_root
from topgap_nb.workbook.notebooks import all_notebooks
from topgap_nb.workbook.reading_edition import readable_copy, unbroken
from topgap_nb.workbook.readme import verdict_table

DOCS = PROJECT / "docs"
NO_PROSE = (
    r"(?s:```.*?```)|\$\$[^$]+\$\$|\$[^$\n]+\$|`[^`\n]*`|\[[^\]]*\]\([^)]*\)|<[^>]*>|^[#|].*$"
)
FLAGS = re.MULTILINE | re.IGNORECASE


def build_book(profile: str = "demo", target: Path | None = None) -> Path:
    """Build the site from a profile's executed notebooks; return its first page.

    Args:
        profile: ``topgap run --profile`` must have run it.
        target: where the site goes; by default ``runs/<profile>/book``.

    Raises:
        UserError: a notebook has not been executed, or Sphinx warns, for example of a broken link.
    """
    executed, results = executed_folder(profile), results_folder(profile)
    chapters = [executed / path.name for path in all_notebooks()]
    pictured = results / "scoreboard.png"
    for path in (*chapters, pictured, results / "scoreboard.csv"):
        if not path.exists():
            raise UserError(f"{path} is missing: `topgap run --profile {profile}` makes it")
    target = target or runs_root() / profile / "book"
    source = runs_root() / profile / "book_source"
    for folder in (source, target):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, source)
    shutil.copy(pictured, source)
    terms = re.findall(r"^(\S.*)\n  ", (DOCS / "glossary.md").read_text(), flags=re.MULTILINE)
    for path in chapters:
        unseen = {term.lower(): term for term in terms}
        page = readable_copy(nbformat.read(path, as_version=4))
        for cell in page.cells:
            if cell.cell_type == "markdown":
                cell.source = link_terms(cell.source, unseen)
        page.cells[0].source = page.cells[0].source.replace("# ", f"# {path.name[:2]} · ", 1)
        nbformat.write(page, source / path.name)
    teaching = (NOTEBOOKS / "README.md").read_text().replace("(../README.md", "(index.md")
    # The book is for the class, too; that page has the answers.
    teaching = teaching.replace("[teacher.md](teacher.md)", "`notebooks/teacher.md`")
    (source / "teaching.md").write_text(teaching)
    (source / "verdicts.md").write_text(unbroken(verdict_table(results, notebooks="")))
    (source / "functions.md").write_text(functions_page())
    sphinx = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    built = subprocess.run([*sphinx, str(source), str(target)], capture_output=True, text=True)
    if built.returncode:
        raise UserError(f"the book could not be built:\n{built.stderr.strip()}")
    return target / "index.html"


def functions_page() -> str:
    """Return the page of all public names, by room, for Sphinx's autosummary."""
    page = "# Functions\n\nEverything that can be imported from `topgap_nb`, by room.\n"
    for room, names in groupby(public_names().items(), key=lambda item: item[1].split(".")[1]):
        listed = "\n".join(f"   ~topgap_nb.{name}" for name, _ in names)
        page += (
            f"\n## {room}\n\n```{{eval-rst}}\n.. autosummary::\n   :toctree: functions\n"
            f"   :template: entry.rst\n   :nosignatures:\n\n{listed}\n```\n"
        )
    return page


def link_terms(text: str, unseen: dict[str, str]) -> str:
    """Return Markdown prose with the first mention of each term as a ``{term}`` of the glossary.

    Headings, tables, code, formulas and existing links stay as they are.

    Args:
        text: the source of one Markdown cell.
        unseen: {term in lower case: term}; those that are linked are taken out.
    """

    def link(found: re.Match) -> str:
        term = unseen.pop((found["term"] or "").lower(), None)
        return f"{{term}}`{found[0]} <{term}>`" if term else found[0]

    # A name with capitals is not the word: Square, and a square.
    wanted = "|".join(
        re.escape(term) if term.islower() else f"(?-i:{re.escape(term)})"
        for term in sorted(unseen.values(), key=len, reverse=True)
    )
    return re.sub(rf"{NO_PROSE}|(?<![\w-])(?P<term>{wanted})(?![\w-])", link, text, flags=FLAGS)
