"""The book as a site: terms linked, links that hold."""

import re
import shutil

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_markdown_cell

from topgap_nb import UserError
from topgap_nb.store.layout import PROJECT, executed_folder
from topgap_nb.workbook.book import build_book, link_terms
from topgap_nb.workbook.notebooks import all_notebooks

TERMS = ["attack distance", "robust accuracy", "attack budget", "IoU", "Square"]


def test_terms_are_linked_once_and_only_in_prose():
    text = (
        "# Attack distance\n\nThe attack distance; `attack distance`, $attack distance$, "
        "[attack distance](x), Robust accuracy and the attack distance.\n| attack budget |\n"
        "$$\nattack budget\n$$\n```\nattack budget\n```"
    )
    unseen = {term.lower(): term for term in TERMS}
    assert link_terms(text, unseen) == (
        "# Attack distance\n\nThe {term}`attack distance <attack distance>`; "
        "`attack distance`, $attack distance$, [attack distance](x), "
        "{term}`Robust accuracy <robust accuracy>` and the attack distance.\n| attack budget |\n"
        "$$\nattack budget\n$$\n```\nattack budget\n```"
    )
    assert list(unseen.values()) == ["attack budget", "IoU", "Square"]
    # An IoU is a term; the "iou" within another word is not, nor is every square an attack.
    assert link_terms("previous, curious, a square", unseen) == "previous, curious, a square"


@pytest.fixture
def executed(runs):
    """All notebooks where the executed ones are expected, so that nothing has to run."""
    folder = executed_folder("demo")
    folder.mkdir(parents=True)
    for path in all_notebooks():
        shutil.copy(path, folder)
    return folder


@pytest.mark.slow
def test_the_book_is_whole_and_fetches_nothing(executed):
    first = build_book("demo")
    site, contents = first.parent, first.read_text()
    for path in all_notebooks():
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
        link = re.search(rf'href="{path.stem}.html">(.*?)</a>', contents)[1]
        assert link.replace("’", "'") == f"{path.name[:2]} · {title}"
    # The verdicts are those of the committed results.
    assert re.search(r'<img alt="Every effect[^"]*" src="_images/scoreboard.png"', contents)
    for row in pd.read_csv(PROJECT / "figures" / "demo" / "scoreboard.csv").itertuples():
        assert f"{row.effect:+.3f} [{row.effect_low:+.3f},\xa0{row.effect_high:+.3f}]" in contents
    method = (site / "01_method.html").read_text()
    assert "<math" in method
    assert "$" not in re.sub(r"<(script|pre|style).*?</\1>", "", method, flags=re.DOTALL)
    assert 'href="functions/topgap_nb.top_k_pool.html' in (site / "functions.html").read_text()
    assert 'href="functions/topgap_nb.top_k_pool.html' in (site / "glossary.html").read_text()
    attacks = (site / "04_adversarial_attacks.html").read_text()
    assert 'href="glossary.html#term-attack-distance"' in attacks
    explorers = (site / "explorers.html").read_text()
    assert re.findall(r'data-explorer="(\w+)"', explorers) == ["freeMaps", "saturation"]
    assert '<script src="_static/explorers.js"></script>' in explorers
    assert (site / "_static" / "explorers.js").exists()
    assert (site / "searchindex.js").stat().st_size > 10_000
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//', text)
        assert not re.search(r'<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//', text)


@pytest.mark.slow
def test_a_link_that_leads_nowhere_is_refused(executed):
    path = executed / "00_tour.ipynb"
    book = nbformat.read(path, as_version=4)
    book.cells.insert(1, new_markdown_cell("[a](nowhere.md), {term}`no word` and ![b](no.png)"))
    nbformat.write(book, path)
    with pytest.raises(UserError, match="could not be built") as caught:
        build_book("demo")
    for lost in ("nowhere.md", "no word", "no.png"):
        assert lost in str(caught.value)


def test_what_was_not_executed_is_named(executed):
    (executed / "03_effective_receptive_field.ipynb").unlink()
    with pytest.raises(UserError, match=r"03_effective\S+ is missing: .*--profile demo"):
        build_book("demo")
