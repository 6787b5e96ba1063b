"""Records: what is measured once is read back as it was."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from helpers.records import RECORD

from topgap_nb import UserError, load_records, load_verdicts, mean_interval, outcome
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
    assert verdict == {**asdict(VERDICT), "outcome": "supported", "p_value": VERDICT.p_value}


def test_verdicts_written_before_there_were_other_outcomes_are_read(runs):
    added = "paper_low paper_high smallest_effect converged claim_of_paper why unit trainings_share"
    path = save(VERDICT, replace(VERDICT, n_trainings=2))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    old = [{k: v for k, v in line.items() if k not in added.split()} for line in lines]
    path.write_text("".join(json.dumps({**line, "retired": 1}) + "\n" for line in old))
    frame = load_verdicts("smoke")
    assert frame.outcome.tolist() == ["supported", "inconclusive"]
    assert frame.claim_of_paper.all()
    assert frame.p_value[0] < 0.025
    assert frame.p_value[1] == 1
    assert (frame.smallest_effect == 0).all()


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
    judged = replace(VERDICT, effect=(low + high) / 2, low=low, high=high, threshold=threshold)
    assert judged.outcome == expected
    assert (judged.p_value < 0.025) == (expected == "supported")


SAME = "no effect of relevant size"


@pytest.mark.parametrize(
    ("effect", "half", "threshold", "expected"),
    [
        # With many images and no spread of trainings the 90 % interval is 0.839 times as wide.
        (0.0, 0.0118, 0.0, SAME),
        (0.0, 0.0120, 0.0, "inconclusive"),
        (0.004, 0.003, 0.0, SAME),
        (-0.004, 0.003, 0.0, SAME),
        (0.008, 0.003, 0.0, "supported"),
        (-0.008, 0.003, 0.0, "not supported"),
        (0.0, 0.005, 0.05, SAME),
        (0.02, 0.005, 0.05, "not supported"),
        # Below 0, the threshold is that of being no worse, which an effect of 0 supports.
        (0.0, 0.005, -0.01, "supported"),
        (-0.005, 0.002, -0.002, "not supported"),
        (-0.002, 0.003, -0.002, SAME),
    ],
)
def test_an_effect_of_no_relevant_size_is_told_from_one_that_is_not_known(
    effect, half, threshold, expected
):
    judged = replace(
        VERDICT, effect=effect, low=effect - half, high=effect + half, threshold=threshold,
        smallest_effect=0.01, n=100_000,
    )  # fmt: skip
    assert judged.outcome == expected
    assert replace(judged, smallest_effect=0.0).outcome != SAME


def test_the_90_percent_interval_is_that_of_the_trainings():
    # With three trainings, 4.303 and 2.920 standard errors: 0.679 times as wide.
    judged = replace(VERDICT, effect=0.0, low=-0.014, high=0.014, trainings_share=1.0, threshold=0)
    assert replace(judged, smallest_effect=0.0096).outcome == SAME
    assert replace(judged, smallest_effect=0.0094).outcome == "inconclusive"


def test_what_forbids_a_verdict_comes_first():
    words = {
        (converged, trainings): replace(VERDICT, converged=converged, n_trainings=trainings)
        for converged in (True, None, False)
        for trainings in (0, 1, 2, 3)
    }
    for (converged, trainings), judged in words.items():
        expected = "inconclusive" if trainings in (1, 2) else "supported"
        expected = "not converged" if converged is False else expected
        assert judged.outcome == expected
        assert (judged.p_value == 1) == (expected != "supported")
        alike = replace(judged, smallest_effect=1.0, threshold=0.0)
        assert alike.outcome == (SAME if expected == "supported" else expected)


@pytest.mark.parametrize(("of_run", "of_image"), [(0.02, 0.01), (0.002, 0.1), (0.005, 0.02)])
def test_a_relevant_effect_is_seldom_called_irrelevant(of_run, of_image):
    rng, said = np.random.default_rng(0), []
    for _ in range(2000):
        runs, images = of_run * rng.standard_normal((3, 1)), of_image * rng.standard_normal((1, 64))
        values = runs + images + 0.02 * rng.standard_normal((3, 64))
        # A true effect that is just relevant, and one of nothing.
        said.append([judged(mean_interval(values + effect), 0.03) == SAME for effect in (0.03, 0)])
    wrong, right = np.mean(said, axis=0)
    print(f"{of_run}, {of_image}: relevant effects called irrelevant {wrong:.3f}, none {right:.3f}")
    # 0.05 in the long run; 0.01 is two standard errors of 2000 draws.
    assert wrong <= 0.06
    assert right > 0.9 or of_run == 0.02 or of_image == 0.1


def judged(found, smallest_effect):
    return replace(
        VERDICT, effect=found.value, low=found.low, high=found.high, n=found.n, threshold=0.0,
        n_trainings=found.n_trainings, trainings_share=found.trainings_share,
        smallest_effect=smallest_effect,
    ).outcome  # fmt: skip
