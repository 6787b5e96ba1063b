import json
import os
from dataclasses import replace

import pandas as pd
import pytest

from topgap_nb.errors import UserError
from topgap_nb.experiments.records import Record, Verdict, load_records, records_file, save_records
from topgap_nb.files import write_atomic
from topgap_nb.measures.scores import Estimate
from topgap_nb.workbook.tables import paper_table, readable, result_table, save_table, shown

RECORD = Record(
    notebook="02_training",
    table="6",
    quantity="topgap_accuracy",
    value=0.9512345678,
    low=0.9321,
    high=0.9654,
    n=624,
    seeds=3,
    profile="smoke",
    paper=0.868,
    settings={"dataset": "Pneumonia", "architecture": "EfficientNet-Lite0", "k": 64},
    hardware="CPU, one, 2 cores",
    versions={"torch": "2.1"},
)
VERDICT = Verdict(
    notebook="02_training",
    hypothesis="Top-GAP is at least as accurate.",
    rule="paired difference",
    effect=0.01,
    low=-0.002,
    high=0.02,
    threshold=-0.01,
    n=624,
    seeds=3,
    profile="smoke",
    paper_effect=0.015,
)
STANDARD = replace(RECORD, quantity="standard_accuracy", value=0.94, low=0.92, high=0.955)


# Records


def test_records_come_back_from_their_file_as_they_were(runs):
    entries = [RECORD, VERDICT, replace(RECORD, paper=None, settings={})]
    path = save_records(entries, "smoke", "02_training")
    assert path == runs / "smoke" / "records" / "02_training.jsonl"
    assert load_records("smoke", "02_training") == entries
    assert len(path.read_text().splitlines()) == 3


def test_every_line_is_json_and_says_what_it_is(runs):
    lines = save_records([RECORD, VERDICT], "smoke", "x").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["record", "verdict"]


def test_a_second_run_of_a_notebook_replaces_its_records(runs):
    save_records([RECORD, VERDICT], "smoke", "02_training")
    save_records([VERDICT], "smoke", "02_training")
    assert load_records("smoke") == [VERDICT]


def test_all_records_come_in_the_order_of_the_book(runs):
    for notebook in ("10_late", "02_training", "01_method"):
        save_records([replace(RECORD, notebook=notebook)], "smoke", notebook)
    save_records([replace(RECORD, notebook="01_other")], "demo", "01_other")
    notebooks = [entry.notebook for entry in load_records("smoke")]
    assert notebooks == ["01_method", "02_training", "10_late"]


@pytest.mark.parametrize("notebook", [None, "02_training"])
def test_without_records_the_command_that_makes_them_is_named(runs, notebook):
    save_records([RECORD], "demo", "02_training")
    with pytest.raises(UserError, match="`topgap run --profile smoke` makes them"):
        load_records("smoke", notebook)


def test_a_record_gives_its_estimate():
    assert RECORD.estimate == Estimate(0.9512345678, 0.9321, 0.9654, 624)


def test_records_of_a_profile_and_notebook_have_one_place(runs):
    assert records_file("demo", "05_x") == runs / "demo" / "records" / "05_x.jsonl"


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.01, 0.2, "supported"),
        (-0.2, -0.01, "not supported"),
        (-0.1, 0.1, "inconclusive"),
        (0.0, 0.1, "inconclusive"),
        (-0.1, 0.0, "inconclusive"),
    ],
)
@pytest.mark.parametrize("threshold", [0.0, -0.01, 0.5])
def test_the_verdict_follows_from_where_the_interval_lies(low, high, outcome, threshold):
    verdict = replace(VERDICT, low=threshold + low, high=threshold + high, threshold=threshold)
    assert verdict.outcome == outcome


# Tables


def test_a_table_has_our_row_and_then_the_papers():
    frame, paper = result_table([STANDARD, RECORD], "6"), paper_table("6")
    assert frame["source"].tolist() == ["ours"] + ["paper"] * len(paper)
    ours = frame.iloc[0]
    assert ours["dataset"] == "Pneumonia"
    assert ours["architecture"] == "EfficientNet-Lite0"
    assert ours["topgap_accuracy"] == RECORD.value
    assert ours["topgap_accuracy_low"] == RECORD.low
    assert ours["topgap_accuracy_high"] == RECORD.high
    assert ours["standard_accuracy"] == STANDARD.value
    assert (ours["n"], ours["seeds"]) == (624, 3)
    theirs = frame.iloc[1:][list(paper)].reset_index(drop=True)
    pd.testing.assert_frame_equal(theirs, paper, check_dtype=False)
    assert frame.iloc[1:][["n", "seeds", "topgap_accuracy_low"]].isna().all(axis=None)


def test_table_6_has_the_papers_columns_with_intervals():
    assert list(result_table([STANDARD, RECORD], "6")) == [
        "source", "dataset", "architecture",
        "standard_accuracy", "standard_accuracy_low", "standard_accuracy_high", "standard_std",
        "topgap_accuracy", "topgap_accuracy_low", "topgap_accuracy_high", "topgap_std",
        "n", "seeds",
    ]  # fmt: skip


def test_table_a4_has_the_papers_columns_with_intervals():
    records = [replace(RECORD, table="a4", quantity=f"{m}_l1") for m in ("standard", "topgap")]
    assert list(result_table(records, "a4")) == [
        "source", "dataset", "architecture",
        "standard_l1", "standard_l1_low", "standard_l1_high",
        "topgap_l1", "topgap_l1_low", "topgap_l1_high",
        "n", "seeds",
    ]  # fmt: skip


def test_a_number_without_an_interval_gets_no_interval_columns():
    frame = result_table([replace(RECORD, low=RECORD.value, high=RECORD.value)], "6")
    assert not [column for column in frame if column.endswith(("_low", "_high"))]


def test_our_data_sets_and_architectures_have_a_row_each():
    other = {**RECORD.settings, "dataset": "Planted"}
    frame = result_table([STANDARD, RECORD, replace(RECORD, settings=other, value=0.5)], "6")
    ours = frame[frame["source"] == "ours"].set_index("dataset")
    assert ours["topgap_accuracy"].to_dict() == {"Pneumonia": RECORD.value, "Planted": 0.5}
    assert pd.isna(ours.loc["Planted", "standard_accuracy"])


def test_a_table_of_our_own_is_keyed_by_all_settings():
    records = [
        replace(RECORD, table="erf", quantity="distance", value=value, settings=settings)
        for value, settings in [(0.1, {"k": 1}), (0.2, {"k": 1, "seed": 2}), (0.3, {"k": 4})]
    ]
    frame = result_table(records, "erf")
    assert list(frame)[:3] == ["source", "k", "seed"]
    assert frame["distance"].tolist() == [0.1, 0.2, 0.3]


def test_only_records_of_the_table_stand_in_it():
    frame = result_table([RECORD, replace(RECORD, table="7", value=0.1)], "6")
    assert frame["topgap_accuracy"].tolist()[0] == RECORD.value
    with pytest.raises(UserError, match="no record stands in table 'a4'"):
        result_table([RECORD], "a4")


def test_a_table_that_the_paper_does_not_have_is_refused():
    with pytest.raises(UserError, match="'8': it has 1 to 7 and A1 to A7"):
        paper_table("8")
    pd.testing.assert_frame_equal(paper_table("A4"), paper_table("a4"))


def test_numbers_are_shown_with_their_intervals_and_blanks_as_a_dash():
    view = readable(result_table([STANDARD, RECORD], "6"))
    assert view.iloc[0].to_dict() == {
        "source": "ours",
        "dataset": "Pneumonia",
        "architecture": "EfficientNet-Lite0",
        "standard_accuracy": "0.940 [0.920, 0.955]",
        "standard_std": "–",
        "topgap_accuracy": "0.951 [0.932, 0.965]",
        "topgap_std": "–",
        "n": "624",
        "seeds": "3",
    }
    assert view.iloc[1]["standard_accuracy"] == "0.801"
    assert view.iloc[1]["n"] == "–"


def test_settings_are_shown_short():
    frame = pd.DataFrame({"sparsity_weight": [1.0, 0.25], "k": [64, 2048], "n": [624.0, 12]})
    view = readable(frame)
    assert view["sparsity_weight"].tolist() == ["1", "0.25"]
    assert view["k"].tolist() == ["64", "2048"]
    assert view["n"].tolist() == ["624", "12"]
    # A seed is a name, though it is a number.
    assert readable(pd.DataFrame({"seed": [0, 1]}))["seed"].tolist() == ["0", "1"]


def test_prose_shows_an_interval_only_where_there_is_one():
    assert shown(RECORD) == "0.951 [0.932, 0.965]"
    assert shown(Estimate(0.5, 0.5, 0.5, 10)) == "0.500"


@pytest.fixture
def saved(tmp_path):
    frame = result_table([STANDARD, RECORD], "6")
    save_table(frame, tmp_path / "figures", "table_6", "Profile smoke; intervals 95 %.")
    return frame, tmp_path / "figures"


def test_a_table_is_saved_in_three_formats(saved):
    _, folder = saved
    written = {path.name for path in folder.iterdir()}
    assert written == {"table_6.csv", "table_6.md", "table_6.tex"}


def test_the_csv_holds_the_numbers(saved):
    frame, folder = saved
    again = pd.read_csv(folder / "table_6.csv")
    pd.testing.assert_frame_equal(again, frame, check_dtype=False, rtol=1e-6)


def test_the_markdown_holds_what_is_shown_and_where_it_is_from(saved):
    frame, folder = saved
    lines = (folder / "table_6.md").read_text().splitlines()
    columns = readable(frame).shape[1]
    assert [line.count("|") for line in lines[: len(frame) + 2]] == [columns + 1] * (len(frame) + 2)
    assert lines[0].startswith("| source | dataset | architecture | standard accuracy |")
    assert "| 0.951 [0.932, 0.965] |" in lines[2]
    assert lines[-1] == "Profile smoke; intervals 95 %."


def test_the_latex_holds_what_is_shown_and_where_it_is_from(saved):
    frame, folder = saved
    latex = (folder / "table_6.tex").read_text()
    assert latex.count(r"\\") == len(frame) + 1
    assert "0.951 [0.932, 0.965]" in latex
    assert "–" not in latex
    assert "_" not in latex
    assert latex.endswith("% Profile smoke; intervals 95 %.\n")


# Files


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "new" / "deep" / "file.txt"
    write_atomic(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_midway_leaves_the_old_file(tmp_path, monkeypatch, step):
    def full(*args):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file.txt"
    write_atomic(path, "old")
    monkeypatch.setattr(step, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"


def test_content_that_cannot_be_encoded_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"


def test_half_written_records_are_not_read(runs):
    path = save_records([RECORD], "smoke", "02_training")
    path.with_name(f".{path.name}.{os.getpid()}").write_text('{"kind": "rec')
    assert load_records("smoke") == [RECORD]
