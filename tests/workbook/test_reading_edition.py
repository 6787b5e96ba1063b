"""Executed notebooks for readers: what is folded, and pages with pictures and tables."""

import io
import os
import re
from base64 import b64encode

import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from topgap_nb.workbook.notebooks import all_notebooks
from topgap_nb.workbook.reading_edition import (
    WIDGET,
    markdown_table,
    readable_copy,
    write_page,
)


def code(source, *tags, outputs=()):
    return new_code_cell(source, metadata={"tags": list(tags)}, outputs=list(outputs))


def cells(*sources):
    return readable_copy(new_notebook(cells=list(sources))).cells


def test_widgets_become_stills_and_progress_bars_go():
    still = new_output("display_data", {WIDGET: {}, "image/png": "AA=="})
    still.metadata = {"image/png": {"alt": "a still"}}
    bar = new_output("display_data", {WIDGET: {}, "text/plain": "0%"})
    (cell,) = cells(code("explore()", "solution", outputs=[bar, still]))
    assert [set(output.data) for output in cell.outputs] == [{"image/png"}]
    assert cell.metadata.mystnb.image.alt == "a still"
    assert "hide-cell" in cell.metadata.tags


def test_imports_and_checks_are_folded_and_experiments_are_not():
    imports = "import torch\n\nfrom topgap_nb import (\n    attack,\n    pgd,\n)\n"
    folded, check, mixed = cells(
        code(imports), code("check_answer(a, {})", "check"), code("import torch\ntorch.ones(2)")
    )
    assert "hide-input" in folded.metadata.tags
    assert "hide-input" in check.metadata.tags
    assert mixed.metadata.tags == []


def test_parameters_are_shown_once():
    declared = code("PROFILE = 'demo'\nIMAGES = 8\nRESULTS = ''", "parameters")
    same = code('# Parameters\nPROFILE = "demo"\nRESULTS = "/tmp/x"', "injected-parameters")
    other = code('# Parameters\nPROFILE = "demo"\nIMAGES = 9\n', "injected-parameters")
    assert [cell.source for cell in cells(declared, same)] == [declared.source]
    # What was not run as declared is shown.
    _, shown = cells(declared, other)
    assert shown.source == "# What this run changes:\nIMAGES = 9"


def test_intervals_are_not_broken():
    table = "<td>0.251 [-0.233, 0.269]</td><td>a [list, of, three]</td>"
    (cell,) = cells(code("table", outputs=[new_output("display_data", {"text/html": table})]))
    assert cell.outputs[0].data["text/html"] == table.replace("-0.233, ", "-0.233,&nbsp;")


ALL = [path.stem for path in all_notebooks()]


def page_of(tmp_path, *sources, name="04_adversarial_attacks", pages=ALL):
    book = new_notebook(cells=[new_markdown_cell("# A title?\n\nProse."), *sources])
    return write_page(book, name, tmp_path, "Made here.", pages).read_text()


def picture(**about):
    drawn = io.BytesIO()
    Image.linear_gradient("L").save(drawn, "PNG")
    output = new_output("display_data", {"image/png": b64encode(drawn.getvalue()).decode()})
    output.metadata = {"image/png": about}
    return output


def test_figures_are_linked_and_stills_are_written_beside_the_page(tmp_path):
    known = code("one", outputs=[picture(figure="figure_1", alt="a line")])
    still = code("two", outputs=[picture(alt="a slider")])
    page = page_of(tmp_path, known, still)
    assert "![a line](figure_1.png)" in page
    assert "![a slider](04_still_1.png)" in page
    with Image.open(tmp_path / "04_still_1.png") as saved:
        assert saved.size == (256, 256)
        assert saved.text["Description"] == "a slider"
    # What ``Study.figure`` saved is not written again.
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".png"}
    assert len(list(tmp_path.iterdir())) == 2


def test_formulas_are_kept_from_the_escapes_of_markdown(tmp_path):
    text = "Let $a\\,b$ be `$x$`.\n\n$$\nc\\,d\n$$\n\n```\n$y$\n```"
    said = [new_output("execute_result", {"text/markdown": "So $z$."}, execution_count=1)]
    page = page_of(tmp_path, new_markdown_cell(text), code("s", outputs=said))
    assert "Let $`a\\,b`$ be `$x$`.\n\n```math\nc\\,d\n```\n\n```\n$y$\n```" in page
    assert "So $`z`$." in page


def test_a_table_becomes_markdown_with_every_cell():
    frame = pd.DataFrame(
        {"n_trainings": ["3", "5"], "a|b": ["0.1 [0.0, 0.2]", "–"], "name": ["x_y", ""]}
    )
    shown = frame.set_axis(["", ""])
    assert markdown_table(shown.to_html()).splitlines() == [
        "| n trainings | a\\|b | name |",
        "|---|---|---|",
        "| 3 | 0.1 [0.0, 0.2] | x_y |",
        "| 5 | – |  |",
    ]
    # A first column that says something stays.
    assert (
        markdown_table(frame.set_axis(["u", "v"]).to_html()).splitlines()[2].startswith("| u | 3")
    )


def test_links_lead_from_the_page_to_the_same_places(tmp_path):
    links = (
        "[a](05_distribution_shifts.ipynb) [b](../README.md#x) [c](https://e.org/a.ipynb) [d](#e)"
    )
    page = page_of(tmp_path, new_markdown_cell(links))
    found = re.search(r"\[a\]\((.*?)\) \[b\]\((.*?)\) \[c\]\((.*?)\) \[d\]\((.*?)\)", page).groups()
    assert found[0] == "05_distribution_shifts.md"
    assert found[2:] == ("https://e.org/a.ipynb", "#e")
    said = [new_output("execute_result", {"text/markdown": links}, execution_count=1)]
    assert links.replace(".ipynb)", ".md)", 1).split(" ")[0] in page_of(
        tmp_path, code("s", outputs=said)
    )
    target, _, place = found[1].partition("#")
    assert place == "x"
    assert (tmp_path / target).resolve() == all_notebooks()[0].parents[1] / "README.md"
    notebook = re.search(r"\[04_adversarial_attacks.ipynb\]\((.*?)\)", page)[1]
    assert notebook == os.path.relpath(all_notebooks()[4], tmp_path)


def test_solutions_stay_in_the_notebook_and_exercises_do_not(tmp_path):
    page = page_of(
        tmp_path, new_markdown_cell("How many?", metadata={"tags": ["exercise"]}),
        code("answer = 42", "solution"), code("check_answer(answer, {})", "check"),
    )  # fmt: skip
    assert "How many?" in page
    assert "answer =" not in page
    assert "check_answer" not in page
    assert "stand in the notebook" in page_of(tmp_path, new_markdown_cell("## Exercises"))


def test_the_code_of_sentences_is_folded_and_the_method_is_not(tmp_path):
    said = [
        new_output("stream", name="stdout", text="printed"),
        new_output("execute_result", {"text/markdown": "It is **3**."}, execution_count=1),
    ]
    page = page_of(tmp_path, code('study.say(f"It is **{n}**.")', outputs=said), code("x = 1"))
    folded = re.search(r"<details>.*?</details>", page, flags=re.DOTALL)
    assert "study.say" in folded[0]
    assert re.search(r"printed\s+It is \*\*3\*\*\.", page[folded.end() :])
    assert "x = 1" in page[folded.end() :]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("00_tour", None, "01_method"), ("90_scoreboard", "10_your_own_data", None)],
)
def test_pages_are_chained(tmp_path, name, before, after):
    foot = page_of(tmp_path, name=name).rpartition("---")[2]
    found = re.findall(r"\((\w+)\.md\)", foot)
    assert found == [other for other in (before, after) if other]


def test_a_notebook_without_a_page_is_linked_itself(tmp_path):
    links = "[a](05_distribution_shifts.ipynb) [b](03_effective_receptive_field.ipynb)"
    page = page_of(tmp_path, new_markdown_cell(links), pages=["03_effective_receptive_field"])
    assert "[b](03_effective_receptive_field.md)" in page
    assert f"[a]({os.path.relpath(all_notebooks()[5], tmp_path)})" in page
    assert page.rstrip().endswith(
        "[← 03_effective_receptive_field](03_effective_receptive_field.md)"
    )
