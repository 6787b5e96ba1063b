"""``Study``: what a notebook says becomes records, tables, verdicts and pictures."""

import json
from dataclasses import fields

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from topgap_nb import (
    Estimate,
    Study,
    UserError,
    load_records,
    mean_interval,
    paired_difference,
    paper_effect,
)
from topgap_nb.results.records import Record
from topgap_nb.store import layout

PROFILE = """
threads: 3
recipes:
  planted: {backbone: test_efficientnet, image_size: 32, epochs: 1, batch_size: 16, k: 3,
            sparsity_weight: 0.5, pretrained: false, options: {images: 32, classes: 4},
            standard: {lr: 0.002}}
notebooks: {}
"""
RIGHT = np.array([[1, 1, 1, 0, 1, 1], [1, 1, 0, 0, 1, 1]]) > 0
WRONG = np.array([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1]]) > 0


@pytest.fixture
def project(tmp_path, runs, monkeypatch):
    """A project folder with one profile, ``tiny``."""
    profiles = tmp_path / "project" / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "tiny.yaml").write_text(PROFILE)
    data = tmp_path / "project" / "data"
    data.mkdir()
    (data / "paper").symlink_to(layout.paper_root())
    monkeypatch.setenv("TOPGAP_PROJECT", str(tmp_path / "project"))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    with plt.rc_context():
        yield tmp_path / "project"


@pytest.fixture
def study(project, tmp_path):
    return Study("04_some", "tiny", str(tmp_path / "results"))


def last(study):
    path = study.folder / "records" / "04_some.jsonl"
    return json.loads(path.read_text().splitlines()[-1])


# Where it writes


def test_a_run_by_hand_leaves_the_results_of_the_profile_alone(project, runs):
    played = Study("04_some", "tiny")
    played.row("9", {"accuracy": 0.5})
    played.table("9")
    played.save("more", pd.DataFrame({"a": [1]}))
    assert {path.relative_to(runs).as_posix() for path in runs.rglob("*.*")} == {
        f"tiny/interactive/{name}" for name in ("records/04_some.jsonl", "table_9.csv", "more.csv")
    }
    assert not (project / "figures").exists()
    with pytest.raises(UserError, match="no records of profile 'tiny' yet"):
        load_records("tiny")


def test_results_on_ones_own_images_are_kept_apart(project, runs, tmp_path):
    first, other = (
        Study("10_x", "tiny", data_folder=str(tmp_path / place / "leaves")) for place in "ab"
    )
    assert first.folder == first.work == layout.own_folder(tmp_path / "a" / "leaves")
    assert first.folder.parent == other.folder.parent == runs / "own"
    assert first.folder != other.folder
    first.row("t", {"accuracy": 0.5})
    assert (first.folder / "records" / "10_x.jsonl").exists()
    assert not (runs / "tiny").exists()
    # The runner collects what is written, and still leaves networks with the images.
    collected = Study("10_x", "tiny", str(tmp_path / "results"), str(tmp_path / "a" / "leaves"))
    assert (collected.folder, collected.work) == (tmp_path / "results", first.work)


def test_a_study_works_with_the_threads_of_its_profile(project, monkeypatch):
    counts = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    Study("04_some", "tiny")
    assert counts == [3]


# Numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.25, (0.25, 0.25, 0.25, 40, 1)),
        (np.float32(0.25), (0.25, 0.25, 0.25, 40, 1)),
        (torch.tensor(0.25), (0.25, 0.25, 0.25, 40, 1)),
        (Estimate(0.5, 0.4, 0.6, 12), (0.5, 0.4, 0.6, 12, 1)),
        (Estimate(0.5, 0.4, 0.6, 12, 5), (0.5, 0.4, 0.6, 12, 5)),
        (RIGHT, (*mean_interval(RIGHT)[:3], 6, 2)),
        (torch.from_numpy(RIGHT[0]), (*mean_interval(RIGHT[0])[:3], 6, 1)),
    ],
    ids=["plain", "numpy", "torch", "estimate", "estimate of five", "trainings", "images"],
)
def test_a_number_is_recorded_with_its_interval_and_what_it_rests_on(study, value, expected):
    study.row("3", {"clean": value}, n=np.int64(40), method="Standard", k=np.int64(7))
    row = last(study)
    assert (row["value"], row["low"], row["high"], row["n"], row["n_trainings"]) == expected
    assert (row["table"], row["quantity"]) == ("3", "clean")
    assert row["settings"] == {"method": "Standard", "k": 7}
    assert row["profile"] == "tiny"
    assert row["hardware"]
    assert row["versions"]["torch"]


def test_trainings_that_the_values_do_not_show_are_given(study):
    study.row("6", {"standard_std": 0.01}, n=9, n_trainings=3, dataset="planted")
    assert (last(study)["n_trainings"], last(study)["settings"]) == (3, {"dataset": "planted"})


def test_the_numbers_so_far_are_a_frame(study):
    assert list(study.records) == [field.name for field in fields(Record)]
    study.row("3", {"clean": 0.5, "fgsm": 0.25}, method="Standard")
    study.verdict("It is accurate.", "rule", Estimate(0.1, 0.05, 0.2, 9))
    assert study.records.quantity.tolist() == ["clean", "fgsm"]


def test_an_interrupted_notebook_leaves_the_records_of_what_it_finished(study):
    study.row("3", {"clean": 0.5})
    study.row("3", {"fgsm": 0.25})
    assert last(study)["quantity"] == "fgsm"


def test_the_provenance_names_profile_trainings_and_hardware(study):
    with pytest.raises(UserError, match="no record stands in table '3'"):
        study.provenance("3")
    study.row("3", {"clean": RIGHT, "fgsm": 0.25})
    study.row("9", {"clean": 0.5}, n_trainings=5)
    assert study.provenance("3").startswith("Profile tiny; trainings per number: 1/2; intervals")
    assert "trainings per number: 1/2/5;" in study.provenance()


# Comparisons


def test_a_comparison_records_both_sides_and_the_verdict(study):
    shown = study.compare(
        "Top-GAP is more accurate.", RIGHT, WRONG, table="a3", column="accuracy",
        dataset="planted", architecture="EfficientNet-Lite0",
    )  # fmt: skip
    numbers = study.records.set_index("quantity")
    assert numbers.value.to_dict() == {
        "standard_accuracy": WRONG.mean(), "topgap_accuracy": RIGHT.mean(),
    }  # fmt: skip
    assert numbers.settings.iloc[0] == {"dataset": "planted", "architecture": "EfficientNet-Lite0"}
    verdict, effect = last(study), paired_difference(RIGHT, WRONG)
    names = ["effect", "low", "high", "n", "n_trainings", "trainings_share"]
    assert tuple(verdict[name] for name in names) == effect
    assert verdict["n_trainings"] == 2
    theirs = paper_effect("a3", "accuracy")
    for name, number in {"low": min(theirs), "effect": theirs.mean(), "high": max(theirs)}.items():
        assert verdict[f"paper_{name}"] == pytest.approx(number)
    assert verdict["unit"] == "accuracy"
    assert verdict["rule"] == "95 % interval of the paired difference in accuracy above 0"
    assert shown.data.startswith("**")
    assert f"*Top-GAP is more accurate.* Effect {effect.value:+.3f} [" in shown.data
    assert shown.data.endswith("against a threshold of +0.000; n = 6, trainings = 2.")


def test_a_comparison_of_measurements_is_of_their_mean_difference(study):
    first, second = np.array([0.5, 0.75, 1.0]), np.array([0.25, 0.5, 0.25])
    study.compare("It is larger.", first, second, threshold=0.1, paper=0.2)
    effect, verdict = mean_interval(first - second), last(study)
    assert (verdict["effect"], verdict["low"], verdict["high"], verdict["n"]) == effect[:4]
    assert (verdict["threshold"], verdict["paper_effect"]) == (0.1, 0.2)
    assert verdict["rule"] == "95 % interval of the paired difference above 0.1"
    # Nothing stands in a table that was not named.
    assert len(study.records) == 0


def test_networks_that_agree_on_every_image_leave_it_open(study):
    shown = study.compare("It is more robust.", torch.zeros(8) > 1, torch.zeros(8) > 1)
    assert shown.data.startswith("**Inconclusive.**")


def test_the_papers_effect_is_given_or_absent_or_that_of_the_table(study):
    pair = (RIGHT, WRONG)
    kept = {
        words: last(study)
        for words, paper in {
            "rows": pd.Series([0.1, np.nan, 0.3, 0.5]), "one": 0.2, "absent": None, "empty": [],
            "blank": [np.nan], "no such table": "table",
        }.items()
        if study.compare("It is.", *pair, column="accuracy", paper=paper)
    }  # fmt: skip
    found = {
        words: [entry[f"paper_{name}"] for name in ("low", "effect", "high")]
        for words, entry in kept.items()
    }
    assert found.pop("rows") == pytest.approx([0.1, 0.3, 0.5])
    assert found.pop("one") == [0.2] * 3
    assert set(map(tuple, found.values())) == {(None,) * 3}
    # The quantity of the paper's table is another one.
    study.compare("It is.", *pair, table="a3", column="accuracy", paper=None, dataset="planted")
    assert last(study)["paper_effect"] is None


def test_what_was_stated_before_the_data_stands_in_the_verdict(study):
    values = np.random.default_rng(0).normal(0, 0.01, (3, 40))
    stated = {
        "smallest_effect": 0.1, "converged": True, "claim_of_paper": False, "why": "Alike.",
        "unit": "IoU",
    }  # fmt: skip
    shown = study.compare("It is larger.", values, 0 * values, **stated).data
    assert {name: last(study)[name] for name in stated} == stated
    assert shown.startswith("**No effect of relevant size.** Claim: *It is larger.*")
    within = "relevant from 0.100, within which the 90 % interval lies"
    assert shown.endswith(f", {within}; n = 40, trainings = 3. Alike.")
    # A network that has not converged, by numpy's word.
    shown = study.compare("It is larger.", values, 0 * values, converged=np.bool_(False)).data
    assert shown.startswith("**Not converged.**")
    with pytest.raises(UserError, match=r"smallest_effect is -0\.1: give a size"):
        study.compare("It is larger.", values, 0 * values, smallest_effect=-0.1)


BEFORE = ", before the correction for many claims"


def test_a_verdict_takes_three_trainings_or_none(study):
    clear = np.random.default_rng(0).normal(1, 0.01, (3, 40))
    for values, word in ((clear[:1], "Inconclusive"), (clear[:2], "Inconclusive"),
                         (clear, f"Supported{BEFORE}"), (clear[0], "Inconclusive")):  # fmt: skip
        assert study.compare("It is.", values, 0 * values).data.startswith(f"**{word}.**")
    effect = mean_interval(clear[0])
    given = {"effect": effect, "n_trainings": 0}
    found = study.verdict("It is.", "rule", **given).data
    assert found.startswith(f"**Supported{BEFORE}.**")
    assert last(study)["n_trainings"] == 0
    # What is no claim of the paper is not corrected for the number of its claims.
    found = study.verdict("It is.", "rule", **given, claim_of_paper=False).data
    assert found.startswith("**Supported.**")


def test_all_verdicts_are_shown_in_order(study):
    study.verdict("It is accurate.", "rule", Estimate(0.1, 0.05, 0.2, 9, 3))
    study.verdict("It is sparse.", "rule", Estimate(0.0, -0.1, 0.1, 9), 0.2, n_trainings=3)
    first, second = study.verdicts().data.split("\n\n")
    assert first.startswith(
        f"**Supported{BEFORE}.** Claim: *It is accurate.* Effect +0.100 [+0.050, +0.200]"
    )
    assert second.startswith("**Not supported.** Claim: *It is sparse.*")
    assert second.endswith("threshold of +0.200; n = 9, trainings = 3.")


# Tables, figures


def test_a_table_is_saved_with_its_numbers_and_shown_with_its_intervals(study):
    study.row("3", {"clean": RIGHT}, method="Standard")
    view = study.table("3")
    saved = pd.read_csv(study.folder / "table_3.csv")
    ours = saved[saved.source == "ours"].iloc[0]
    assert (ours.clean, ours.clean_low, ours.n) == (*mean_interval(RIGHT)[:2], 6)
    assert len(saved) == len(view) > 1
    assert view.iloc[0]["clean"].startswith("0.750 [")
    assert set(view.index) == {""}


def test_a_figure_is_saved_and_closed(study):
    fig, axis = plt.subplots()
    axis.plot([0, 1])
    study.figure(fig, "figure_3", alt="a line")
    assert {path.name for path in study.folder.iterdir()} == {"figure_3.png", "figure_3.pdf"}
    assert not plt.fignum_exists(fig.number)


def test_prose_is_markdown(study):
    assert study.say("IoU 0.5").data == "IoU 0.5"


# Trainings


def test_both_networks_are_trained_for_every_seed_and_kept(study):
    recipe = study.recipe("planted")
    # Seeds may be read only once.
    found = study.train(recipe, seeds=iter([0, 1]))
    assert {method: [run.spec.seed for run in runs] for method, runs in found.items()} == {
        "standard": [0, 1], "topgap": [0, 1],
    }  # fmt: skip
    standard, topgap = found["standard"][1].spec, found["topgap"][1].spec
    assert standard == recipe.standard.replace(seed=1)
    assert topgap == recipe.spec.replace(seed=1)
    assert (standard.head, standard.k, standard.sparsity_weight) == ("standard", 1.0, 0.0)
    assert (standard.lr, topgap.k, topgap.threads) == (0.002, 3, 3)
    again = study.train(recipe, recipe.open(), seeds=[1])
    assert again["topgap"][0].folder == found["topgap"][1].folder


def test_folds_are_other_data_and_not_both(study):
    recipe = study.recipe("planted")
    found = study.train(recipe, folds=2)
    assert [len(runs) for runs in found.values()] == [2, 2]
    assert len({run.folder for runs in found.values() for run in runs}) == 4
    with pytest.raises(UserError, match="give folds, or data"):
        study.train(recipe, recipe.open(), folds=2)
