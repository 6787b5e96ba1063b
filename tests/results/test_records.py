"""Records: what is measured once is read back as it was."""

import json
from dataclasses import asdict, replace

import pytest
from helpers.records import RECORD

from topgap_nb import UserError, load_records, load_verdicts, outcome
from topgap_nb.results.records import Verdict, save_records
from topgap_nb.store.layout import records_folder

VERDICT = Verdict(
    notebook="02_training",
    hypothesis="Top-GAP is at least as accurate.",
    rule="paired difference",
    effect=0.01,
    low=-0.002,
    high=0.02,
    threshold=-0.01,
    n=624,
    n_trainings=3,
    profile="smoke",
    paper_effect=0.015,
)


def save(*entries, notebook="02_training", profile="smoke"):
    path = records_folder(profile) / f"{notebook}.jsonl"
    save_records(entries, path)
    return path


def test_records_come_back_from_their_file_as_they_were(runs):
    save(RECORD, VERDICT, replace(RECORD, settings={}, value=0.1))
    assert load_records("smoke").to_dict("records") == [
        asdict(RECORD), asdict(replace(RECORD, settings={}, value=0.1)),
    ]  # fmt: skip
    (verdict,) = load_verdicts("smoke").to_dict("records")
    assert verdict == {**asdict(VERDICT), "outcome": "supported"}


def test_every_line_is_json_and_says_what_it_is(runs):
    lines = save(RECORD, VERDICT).read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["Record", "Verdict"]


def test_a_second_run_of_a_notebook_replaces_its_records(runs):
    save(RECORD, VERDICT)
    save(VERDICT)
    assert len(load_records("smoke")) == 0
    assert len(load_verdicts("smoke")) == 1


def test_all_records_come_in_the_order_of_the_book(runs):
    for notebook in ("10_late", "02_training", "01_method"):
        save(replace(RECORD, notebook=notebook), notebook=notebook)
    save(replace(RECORD, notebook="01_other"), notebook="01_other", profile="demo")
    assert load_records("smoke").notebook.tolist() == ["01_method", "02_training", "10_late"]


@pytest.mark.parametrize("load", [load_records, load_verdicts])
def test_without_records_the_command_that_makes_them_is_named(runs, load):
    save(RECORD, profile="demo")
    with pytest.raises(UserError, match="`topgap run --profile smoke` makes them"):
        load("smoke")


def test_a_profile_without_verdicts_has_all_columns_and_no_row(runs):
    save(RECORD)
    frame = load_verdicts("smoke")
    assert len(frame) == 0
    assert {"hypothesis", "paper_effect", "outcome"} <= set(frame)


def test_half_written_records_are_not_read(runs):
    path = save(RECORD)
    path.with_name(f".{path.name}.77").write_text('{"kind": "Rec')
    assert len(load_records("smoke")) == 1


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.2, "supported"),
        (-0.2, -0.01, "not supported"),
        (-0.1, 0.1, "inconclusive"),
        (0.0, 0.1, "inconclusive"),
        (-0.1, 0.0, "inconclusive"),
    ],
)
@pytest.mark.parametrize("threshold", [0.0, -0.01, 0.5])
def test_the_verdict_follows_from_where_the_interval_lies(low, high, expected, threshold):
    low, high = threshold + low, threshold + high
    assert outcome(low, high, threshold) == expected
    assert replace(VERDICT, low=low, high=high, threshold=threshold).outcome == expected
