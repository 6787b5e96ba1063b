"""The book as a site, and the glossary that its terms link to."""

import re
import shutil

import nbformat
import pandas as pd
import pytest

import topgap_nb
from topgap_nb import UserError
from topgap_nb.files import ROOT
from topgap_nb.workbook.glossary import WORDS, anchor, glossary_page, with_links
from topgap_nb.workbook.runner import all_notebooks
from topgap_nb.workbook.site import WIDGET, broken_links, build_book, readable_copy


def test_every_word_has_a_function_and_an_anchor_of_its_own():
    anchors = [anchor(word.term) for word in WORDS]
    assert len(set(anchors)) == len(anchors) == glossary_page().count("\n## ")
    for word in WORDS:
        assert hasattr(topgap_nb, word.home), word


def test_terms_are_linked_once_and_only_in_prose():
    text = (
        "# Attack distance\n\nThe attack distance; `attack distance`, $attack distance$, "
        "[attack distance](x), ROBUST ACCURACY and the attack distance.\n| attack budget |"
    )
    seen = set()
    assert with_links(text, seen) == (
        "# Attack distance\n\nThe [attack distance](glossary.md#attack-distance); "
        "`attack distance`, $attack distance$, [attack distance](x), "
        "[ROBUST ACCURACY](glossary.md#robust-accuracy) and the attack distance.\n"
        "| attack budget |"
    )
    assert seen == {"attack distance", "robust accuracy"}
    # An IoU is a term; the "iou" within another word is not.
    assert with_links("previous, curious", set()) == "previous, curious"


def test_widgets_become_stills_and_progress_bars_go():
    def output(data, **metadata):
        return nbformat.v4.new_output("display_data", data, metadata=metadata)

    cell = nbformat.v4.new_code_cell(metadata={"tags": ["solution"]})
    cell.outputs = [
        output({WIDGET: {}, "text/plain": "0%"}),
        output({WIDGET: {}, "image/png": "AA=="}, **{"image/png": {"alt": "a still"}}),
    ]
    book = readable_copy(nbformat.v4.new_notebook(cells=[cell]))
    (kept,) = book.cells[0].outputs
    assert set(kept.data) == {"image/png"}
    assert book.cells[0].metadata.mystnb.image.alt == "a still"
    assert "hide-cell" in book.cells[0].metadata.tags


def test_readers_see_results_before_imports_and_parameters_once():
    def code(source, *tags):
        return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})

    cells = [
        code("import torch"),
        code("PROFILE = 'demo'\nIMAGES = 8", "parameters"),
        code('# Parameters\nPROFILE = "demo"', "injected-parameters"),
        code("table"),
    ]
    table = "<td>0.251 [-0.233, 0.269]</td><td>a [list, of, three]</td>"
    cells[-1].outputs = [nbformat.v4.new_output("display_data", {"text/html": table})]
    imports, declared, last = readable_copy(nbformat.v4.new_notebook(cells=cells)).cells
    assert imports.metadata.tags == ["hide-input"]
    assert imports.metadata.mystnb.code_prompt_show == "Show the imports"
    assert declared.source == cells[1].source
    assert last.outputs[0].data["text/html"] == table.replace("-0.233, ", "-0.233,&nbsp;")
    # What was not run as declared is shown.
    cells[2].source = '# Parameters\nPROFILE = "paper"'
    assert len(readable_copy(nbformat.v4.new_notebook(cells=cells)).cells) == 4


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<a id="x" href="b.html#y"></a><a href="#x"></a>')
    (tmp_path / "b.html").write_text('<p id="y"><a href="a.html"></a><img src="no.png">')
    assert broken_links(tmp_path) == ["b.html: no.png"]
    (tmp_path / "b.html").write_text('<a href="https://example.org/gone"></a>')
    assert broken_links(tmp_path) == ["a.html: b.html#y"]


def test_the_book_is_whole_and_fetches_nothing(runs):
    with pytest.raises(UserError, match=r"00_tour.ipynb has not been executed: .*--profile demo"):
        build_book("demo")
    executed = runs / "demo" / "executed"
    executed.mkdir(parents=True)
    for path in all_notebooks():
        shutil.copy(path, executed)
    first = build_book("demo")
    site = first.parent
    assert broken_links(site) == []
    contents = first.read_text()
    for path in all_notebooks():
        assert f'href="{path.stem}.html"' in contents
    assert "04 · The network is harder to fool" in contents
    # The verdicts are those of the committed results.
    assert re.search(r'<img alt="Every effect[^"]*" src="_images/scoreboard.png"', contents)
    for row in pd.read_csv(ROOT / "figures" / "demo" / "scoreboard.csv").itertuples():
        assert f"{row.effect:+.3f} [{row.effect_low:+.3f},\xa0{row.effect_high:+.3f}]" in contents
    method = (site / "01_method.html").read_text()
    assert "<math" in method
    assert "$" not in re.sub(r"<(script|pre|style).*?</\1>", "", method, flags=re.DOTALL)
    assert 'href="functions.html#topgap_nb.top_k_pool"' in (site / "glossary.html").read_text()
    assert (
        'href="glossary.html#attack-distance"' in (site / "04_adversarial_attacks.html").read_text()
    )
    assert (site / "searchindex.js").stat().st_size > 10_000
    for page in site.glob("*.html"):
        assert not re.search(r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//', page.read_text())
        assert not re.search(
            r'<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//', page.read_text()
        )
