import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from topgap_nb.workbook import readme
from topgap_nb.workbook.readme import (
    exercise_table,
    notebook_table,
    open_row,
    real_table,
    verdict_table,
    ways_table,
)
from topgap_nb.workbook.runner import all_notebooks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TEACHING = (ROOT / "notebooks" / "README.md").read_text()
DEMO = ROOT / "figures" / "demo"


def _block(name, page=README):
    return re.search(f"<!-- {name} -->(.*?)<!-- end {name} -->", page, re.DOTALL)[1].strip()


def test_the_verdicts_are_those_of_the_committed_scoreboard():
    assert _block("verdicts") == verdict_table(DEMO)


def test_the_verdicts_on_real_data_are_those_of_their_committed_scoreboards():
    assert _block("real") == real_table(ROOT / "figures" / "real")


@pytest.mark.parametrize("address", ["https://github.com/a/b", "https://github.com/a/b.git"])
def test_badges_open_the_repository_that_the_citation_names(tmp_path, monkeypatch, address):
    assert _block("open") == open_row()
    citation = tmp_path / "CITATION.cff"
    citation.write_text(f"title: some\nrepository-code: {address}\n")
    monkeypatch.setattr(readme, "CITATION", citation)
    assert "/gh/a/b/HEAD?labpath=notebooks%2F00_tour.ipynb)" in open_row()
    citation.write_text("title: some\n")
    assert open_row() == ""


def test_the_notebooks_are_those_of_the_book():
    shown = _block("notebooks").splitlines()
    drawn = notebook_table({path.stem: 0.0 for path in all_notebooks()}).splitlines()
    without_minutes = [row.rsplit("|", 2)[0] for row in shown]
    assert without_minutes == [row.rsplit("|", 2)[0] for row in drawn]


def test_the_whole_takes_longer_than_its_longest_notebook_and_less_than_their_sum():
    rows = _block("notebooks").splitlines()[2:]
    minutes = [float(row.rsplit("|", 2)[1]) for row in rows]
    assert max(minutes) - 0.5 <= int(_block("total")) <= sum(minutes) + 0.5


def test_the_exercises_are_those_of_the_notebooks():
    assert _block("exercises", TEACHING) == exercise_table()


def test_the_ways_through_the_book_add_up():
    names = [path.stem for path in all_notebooks()]
    table = ways_table({name: 10.0**index for index, name in enumerate(names)}).splitlines()
    last = [cell.strip() for cell in table[-1].split("|")[4:-1]]
    # One minute for 00, ten for 01, and the scoreboard's power of ten.
    assert last[0] == f"{11 + 10 ** (len(names) - 1)} min"
    assert last[2] == f"{int('1' * len(names))} min"
    shown = [row.split("|")[1] for row in _block("ways", TEACHING).splitlines()]
    assert shown == [row.split("|")[1] for row in table]


@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_every_local_link_leads_somewhere(folder):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / folder / "README.md").read_text()):
        assert "://" in target or (ROOT / folder / target).exists(), target


@pytest.mark.parametrize("command", re.findall(r"^    make (\w+)", README, re.MULTILINE))
def test_the_commands_are_targets_of_the_makefile(command):
    assert f"\n{command}:" in (ROOT / "Makefile").read_text()


RESULTS = sorted(path.parent for path in (ROOT / "figures").rglob("scoreboard.csv"))


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_committed_results_name_profile_trainings_and_hardware(folder):
    tables = sorted(folder.glob("*.md"))
    assert len(tables) >= 4
    for table in tables:
        last = table.read_text().strip().splitlines()[-1]
        assert last.startswith(f"Profile {folder.relative_to(ROOT / 'figures')};")
        assert "hardware: " in last
        assert not last.endswith("hardware: .")


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_committed_pictures_say_what_they_show(folder):
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) >= 3
    for picture in pictures:
        assert len(Image.open(picture).text["Description"]) > 40
        assert picture.with_suffix(".pdf").exists()


def test_committed_numbers_lie_within_their_intervals():
    numbers = pd.read_csv(DEMO / "numbers.csv").dropna(subset=["value_low"])
    assert len(numbers) > 100
    assert (numbers.value_low <= numbers.value + 1e-9).all()
    assert (numbers.value <= numbers.value_high + 1e-9).all()
