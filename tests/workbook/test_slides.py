"""Executed notebooks as talks: what is shown, what is spoken, what stays at home."""

import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, writes

from topgap_nb import UserError
from topgap_nb.store.layout import executed_folder
from topgap_nb.workbook.notebooks import all_notebooks
from topgap_nb.workbook.slides import COLUMNS_OF_A_TABLE, slides_of, write_slides

PICTURE = new_output("display_data", {"image/png": "AA==", "text/plain": "a figure"})


def talk(*cells):
    found = slides_of(new_notebook(cells=list(cells))).cells
    return [(part.metadata.slideshow.slide_type, part.source) for part in found]


def table_of(columns):
    cells = "".join(f"<th>c{i}</th>" for i in range(columns))
    return new_output(
        "display_data", {"text/html": f"<table><tr>{cells}</tr><tr>{cells}</tr></table>"}
    )


def test_headings_and_formulas_are_shown_and_prose_is_spoken():
    cell = new_markdown_cell("## Why\n\nLong words.\n\n$$a = b$$\n\n- $a$: one\n\nMore words.")
    assert talk(cell) == [
        ("slide", "## Why\n\n$$a = b$$\n\n- $a$: one"),
        ("notes", "Long words.\n\nMore words."),
    ]


def test_a_heading_is_not_left_alone():
    cell = new_markdown_cell("### A ceiling\n\nThe minimum is a score. Many maps have it.")
    assert talk(cell) == [
        ("slide", "### A ceiling\n\nThe minimum is a score."),
        ("notes", "The minimum is a score. Many maps have it."),
    ]


def test_a_picture_joins_the_heading_above_it_and_leaves_its_code_behind():
    (heading, picture, second) = talk(
        new_markdown_cell("### Figure 2"), new_code_cell("draw()", outputs=[PICTURE]),
        new_code_cell("draw()", outputs=[PICTURE]),
    )  # fmt: skip
    assert (heading, picture, second) == (("slide", "### Figure 2"), ("-", ""), ("slide", ""))


def test_short_code_is_a_slide_and_bookkeeping_is_not():
    method = "def gap(x):\n    return x.mean()"
    shown = talk(
        new_code_cell("import torch"), new_code_cell(method), new_code_cell("my_guess = None"),
        new_code_cell("A = 1", metadata={"tags": ["parameters"]}), new_code_cell("x = 1\n" * 40),
        new_markdown_cell("| Parameter | Meaning |\n|---|---|\n| A | b |"),
    )  # fmt: skip
    assert shown == [("slide", f"```python\n{method}\n```")]


def test_sentences_are_spoken_and_verdicts_are_shown():
    said = [new_output("execute_result", {"text/markdown": "It is 3."}, execution_count=1)]
    cells = [new_code_cell(source, outputs=said) for source in ("study.say(x)", "study.verdicts()")]
    assert talk(*cells) == [("notes", "It is 3."), ("slide", "It is 3.")]


def test_a_table_that_fits_is_shown():
    wide, narrow = table_of(COLUMNS_OF_A_TABLE + 1), table_of(COLUMNS_OF_A_TABLE)
    assert talk(new_code_cell("t", outputs=[wide])) == []
    ((kind, source),) = talk(new_code_cell("t", outputs=[narrow]))
    assert kind == "slide"
    assert source.count("c8") == 2


def test_the_talk_ends_before_the_exercises():
    exercises = [new_markdown_cell("## Exercises"), new_markdown_cell("## A secret")]
    assert talk(new_markdown_cell("# Title"), *exercises) == [("slide", "# Title")]


def test_every_notebook_becomes_a_page_with_its_pictures_inside(runs):
    folder = executed_folder("demo")
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"00_tour.ipynb is missing: `topgap run --profile demo`"):
        write_slides("demo")
    book = new_notebook(
        cells=[new_markdown_cell("# Why?"), new_code_cell("d()", outputs=[PICTURE])]
    )
    for path in all_notebooks():
        (folder / path.name).write_text(writes(book))
    pages = write_slides("demo")
    assert [page.stem for page in pages] == [path.stem for path in all_notebooks()]
    text = pages[0].read_text()
    assert re.search(r"<section>\s*<section>.*Why\?", text, flags=re.DOTALL)
    assert "data:image/png;base64,AA==" in text
    assert "d()" not in text
