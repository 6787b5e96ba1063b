import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from topgap_nb.workbook.readme import notebook_table, verdict_table
from topgap_nb.workbook.runner import all_notebooks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DEMO = ROOT / "figures" / "demo"


def _block(name):
    return re.search(f"<!-- {name} -->(.*?)<!-- end {name} -->", README, re.DOTALL)[1].strip()


def test_the_verdicts_are_those_of_the_committed_scoreboard():
    assert _block("verdicts") == verdict_table(DEMO)


def test_the_notebooks_are_those_of_the_book():
    shown = _block("notebooks").splitlines()
    drawn = notebook_table({path.stem: 0.0 for path in all_notebooks()}).splitlines()
    without_minutes = [row.rsplit("|", 2)[0] for row in shown]
    assert without_minutes == [row.rsplit("|", 2)[0] for row in drawn]


def test_the_whole_takes_longer_than_its_longest_notebook_and_less_than_their_sum():
    rows = _block("notebooks").splitlines()[2:]
    minutes = [float(row.rsplit("|", 2)[1]) for row in rows]
    assert max(minutes) - 0.5 <= int(_block("total")) <= sum(minutes) + 0.5


def test_every_local_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target


@pytest.mark.parametrize("command", re.findall(r"^    make (\w+)", README, re.MULTILINE))
def test_the_commands_are_targets_of_the_makefile(command):
    assert f"\n{command}:" in (ROOT / "Makefile").read_text()


def test_committed_results_name_profile_trainings_and_hardware():
    for table in DEMO.glob("*.md"):
        last = table.read_text().strip().splitlines()[-1]
        assert last.startswith("Profile demo;")
        assert "hardware: " in last
        assert not last.endswith("hardware: .")


def test_committed_pictures_say_what_they_show():
    pictures = sorted(DEMO.glob("*.png"))
    assert len(pictures) >= 12
    for picture in pictures:
        assert len(Image.open(picture).text["Description"]) > 40
        assert picture.with_suffix(".pdf").exists()


def test_committed_numbers_lie_within_their_intervals():
    numbers = pd.read_csv(DEMO / "numbers.csv").dropna(subset=["value_low"])
    assert len(numbers) > 100
    assert (numbers.value_low <= numbers.value + 1e-9).all()
    assert (numbers.value <= numbers.value_high + 1e-9).all()
