"""Tables from records, beside the paper's; and the paper's tables against each other."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.records import RECORD

from topgap_nb import Estimate, UserError, format_interval, paper_effect, paper_table, readable
from topgap_nb.results.tables import as_latex, as_markdown, key_columns, result_table
from topgap_nb.store.layout import paper_root

STANDARD = replace(RECORD, quantity="standard_accuracy", value=0.94, low=0.92, high=0.955)


def test_a_table_has_our_row_and_then_the_papers():
    frame, paper = result_table([STANDARD, RECORD], "6"), paper_table("6")
    assert frame["source"].tolist() == ["ours"] + ["paper"] * len(paper)
    ours = frame.iloc[0]
    assert ours["dataset"] == "pneumonia"
    assert ours["architecture"] == "EfficientNet-Lite0"
    assert ours["topgap_accuracy"] == RECORD.value
    assert ours["topgap_accuracy_low"] == RECORD.low
    assert ours["topgap_accuracy_high"] == RECORD.high
    assert ours["standard_accuracy"] == STANDARD.value
    assert (ours["n"], ours["n_trainings"]) == (624, 3)
    theirs = frame.iloc[1:][list(paper)].reset_index(drop=True)
    pd.testing.assert_frame_equal(theirs, paper, check_dtype=False)
    assert frame.iloc[1:][["n", "n_trainings", "topgap_accuracy_low"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("number", "records", "columns"),
    [
        (
            "6",
            [STANDARD, RECORD],
            (
                "standard_accuracy standard_accuracy_low standard_accuracy_high standard_std "
                "topgap_accuracy topgap_accuracy_low topgap_accuracy_high topgap_std"
            ),
        ),
        (
            "a4",
            [replace(RECORD, table="a4", quantity=f"{m}_l1") for m in ("standard", "topgap")],
            "standard_l1 standard_l1_low standard_l1_high topgap_l1 topgap_l1_low topgap_l1_high",
        ),
    ],
)
def test_a_table_has_the_papers_columns_with_intervals(number, records, columns):
    expected = f"source dataset architecture {columns} n n_trainings".split()
    assert list(result_table(records, number)) == expected


def test_a_number_without_an_interval_gets_no_interval_columns():
    frame = result_table([replace(RECORD, low=RECORD.value, high=RECORD.value)], "6")
    assert not [column for column in frame if column.endswith(("_low", "_high"))]


def test_our_data_sets_and_architectures_have_a_row_each():
    other = {**RECORD.settings, "dataset": "planted"}
    frame = result_table([STANDARD, RECORD, replace(RECORD, settings=other, value=0.5)], "6")
    ours = frame[frame["source"] == "ours"].set_index("dataset")
    assert ours["topgap_accuracy"].to_dict() == {"pneumonia": RECORD.value, "planted": 0.5}
    assert pd.isna(ours.loc["planted", "standard_accuracy"])


def test_a_table_of_our_own_is_keyed_by_all_settings():
    records = [
        replace(RECORD, table="erf", quantity="distance", value=value, settings=settings)
        for value, settings in [(0.1, {"k": 1}), (0.2, {"k": 1, "seed": 2}), (0.3, {"k": 4})]
    ]
    frame = result_table(records, "erf")
    assert list(frame)[:3] == ["source", "k", "seed"]
    assert frame["distance"].tolist() == [0.1, 0.2, 0.3]


def test_two_numbers_for_one_cell_are_refused():
    # The paper's Table 6 has no column for k.
    other = replace(RECORD, value=0.5, settings={**RECORD.settings, "k": 9})
    with pytest.raises(UserError, match="two records disagree on it"):
        result_table([RECORD, other], "6")
    assert len(result_table([RECORD, RECORD], "6")) == 1 + len(paper_table("6"))


def test_only_records_of_the_table_stand_in_it():
    frame = result_table([RECORD, replace(RECORD, table="7", value=0.1)], "6")
    assert frame["topgap_accuracy"].tolist()[0] == RECORD.value
    with pytest.raises(UserError, match="no record stands in table 'a4'"):
        result_table([RECORD], "a4")


def test_a_table_that_the_paper_does_not_have_is_refused():
    with pytest.raises(UserError, match="'8': it has 1 to 7 and A1 to A7"):
        paper_table("8")
    pd.testing.assert_frame_equal(paper_table("A4"), paper_table("a4"))


def test_the_papers_effect_is_the_difference_in_each_row_of_its_table():
    # COCO, the first three rows: 0.803 - 0.801, 0.940 - 0.939, 0.868 - 0.853.
    effect = paper_effect("6", "accuracy")
    assert effect[:3].tolist() == pytest.approx([0.002, 0.001, 0.015])
    assert len(effect) == len(paper_table("6"))
    assert paper_effect("6", "speed") is None
    assert paper_effect("04_own", "accuracy") is None


FEWER = replace(RECORD, quantity="corner_erf", value=0.53, low=0.5, high=0.56, n=24)


def test_a_number_that_rests_on_fewer_images_than_its_row_says_so():
    frame = result_table([STANDARD, RECORD, FEWER], "6")
    ours = frame.iloc[0]
    assert (ours.n, ours.n_trainings, ours.corner_erf_n) == (624, 3, 24)
    assert list(frame)[-6:-2] == ["corner_erf", "corner_erf_low", "corner_erf_high", "corner_erf_n"]
    assert not {"corner_erf_n_trainings", "topgap_accuracy_n", "standard_accuracy_n"} & {*frame}
    view = readable(frame)
    assert view.iloc[0]["corner_erf"] == "0.530 [0.500, 0.560] (n = 24)"
    assert view.iloc[0]["topgap_accuracy"] == "0.951 [0.932, 0.965]"
    assert view.iloc[0]["n"] == "624"
    assert view.iloc[1]["corner_erf"] == "–"
    assert not [column for column in view if column.endswith("_n")]
    # Whichever comes last, as when the table is read back.
    again = result_table([FEWER, STANDARD, RECORD], "6")
    assert readable(again)[list(view)].equals(view)


def test_a_number_of_other_trainings_than_its_row_says_so():
    once = replace(FEWER, n_trainings=1)
    frame = result_table([STANDARD, RECORD, once, replace(STANDARD, quantity="a", n=5)], "6")
    view = readable(frame).iloc[0]
    assert view["corner_erf"] == "0.530 [0.500, 0.560] (n = 24, trainings = 1)"
    assert view["a"] == "0.940 [0.920, 0.955] (n = 5)"
    once = replace(once, n=624, low=0.53, high=0.53)
    view = readable(result_table([STANDARD, RECORD, once], "6")).iloc[0]
    assert view["corner_erf"] == "0.530 (trainings = 1)"


def test_each_row_has_its_own_most_common_size():
    other = {**RECORD.settings, "dataset": "planted"}
    records = [STANDARD, RECORD, FEWER]
    records += [replace(record, settings=other, n=24) for record in records]
    frame = result_table(records, "6")
    assert frame.dataset[:2].tolist() == ["pneumonia", "planted"]
    assert frame.n[:2].tolist() == [624, 24]
    assert frame.corner_erf_n.dropna().to_dict() == {0: 24}


def test_a_number_without_images_has_no_size_of_its_own():
    counted = replace(RECORD, quantity="parameters", value=4.5, low=4.5, high=4.5, n=0)
    counted = replace(counted, n_trainings=1)
    frame = result_table([counted, replace(counted, quantity="layers"), RECORD], "6")
    assert (frame.n[0], frame.n_trainings[0]) == (624, 3)
    assert not [column for column in frame if column.endswith(("s_n", "s_n_trainings"))]
    alone = readable(result_table([replace(counted, table="own")], "own"))
    assert alone.iloc[0][["parameters", "n", "n_trainings"]].tolist() == ["4.500", "–", "1"]


def test_numbers_are_shown_with_their_intervals_and_blanks_as_a_dash():
    view = readable(result_table([STANDARD, RECORD], "6"))
    assert view.iloc[0].to_dict() == {
        "source": "ours",
        "dataset": "pneumonia",
        "architecture": "EfficientNet-Lite0",
        "standard_accuracy": "0.940 [0.920, 0.955]",
        "standard_std": "–",
        "topgap_accuracy": "0.951 [0.932, 0.965]",
        "topgap_std": "–",
        "n": "624",
        "n_trainings": "3",
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
    assert key_columns(frame) == ["sparsity_weight", "k"]


def test_prose_shows_an_interval_only_where_there_is_one():
    assert format_interval(RECORD) == "0.951 [0.932, 0.965]"
    assert format_interval(Estimate(0.5, 0.5, 0.5, 10)) == "0.500"


def test_the_markdown_holds_what_is_shown():
    frame = result_table([STANDARD, RECORD], "6")
    lines = as_markdown(frame).splitlines()
    columns = readable(frame).shape[1]
    assert [line.count("|") for line in lines] == [columns + 1] * (len(frame) + 2)
    assert lines[0].startswith("| source | dataset | architecture | standard accuracy |")
    assert "| 0.951 [0.932, 0.965] |" in lines[2]


def test_the_latex_holds_what_is_shown():
    frame = result_table([STANDARD, RECORD], "6")
    latex = as_latex(frame)
    assert latex.count(r"\\") == len(frame) + 1
    assert "0.951 [0.932, 0.965]" in latex
    assert not re.search("[–_]", latex)


# The paper's tables

ROWS = {
    "1": 3, "2": 8, "3": 4, "4": 3, "5": 7, "6": 12, "7": 6,
    "a1": 9, "a2": 9, "a3": 12, "a4": 12, "a5": 5, "a6": 9, "a7": 5,
}  # fmt: skip
TEXT = {"dataset", "architecture", "method", "shift", "approach"}
NOT_FRACTIONS = {"standard_parameters", "topgap_parameters", "k", "sparsity_weight"}
KEYS = ["dataset", "architecture"]


def rows_without_average(number: str) -> pd.DataFrame:
    table = paper_table(number)
    return table[table["dataset"] != "Average"].set_index(KEYS)


def test_every_file_is_a_known_table():
    assert {path.stem for path in paper_root().glob("*.csv")} == {f"table_{name}" for name in ROWS}


@pytest.mark.parametrize(("number", "rows"), ROWS.items())
def test_rows_and_numbers(number, rows):
    table = paper_table(number)
    assert len(table) == rows
    numbers = table.drop(columns=[column for column in table if column in TEXT])
    assert all(kind.kind in "if" for kind in numbers.dtypes)
    fractions = numbers.drop(columns=[column for column in numbers if column in NOT_FRACTIONS])
    assert fractions.stack().dropna().between(-1, 1).all()


@pytest.mark.parametrize("number", ["a1", "a2"])
def test_printed_average_is_the_column_mean(number):
    printed = paper_table(number).set_index("dataset").loc["Average"].drop("architecture")
    means = rows_without_average(number).mean()
    assert np.allclose(means, printed.astype(float), rtol=0, atol=0.0005)


@pytest.mark.parametrize("model", ["standard", "topgap"])
def test_erf_distance_is_centre_minus_corner_in_every_row(model):
    centre = rows_without_average("a1")[f"{model}_center_erf"]
    corner = rows_without_average("a2")[f"{model}_corner_erf"]
    distance = paper_table("2").set_index(KEYS)[f"{model}_erf_distance"]
    # The paper agrees with itself here to all three printed decimals.
    pd.testing.assert_series_equal(centre - corner, distance, check_names=False, rtol=0, atol=1e-9)


def test_accuracies_are_the_clean_accuracies_of_the_attack_table():
    accuracies = paper_table("6").set_index(KEYS)
    attacks = paper_table("a3").set_index(KEYS)
    pd.testing.assert_frame_equal(accuracies, attacks[accuracies.columns], check_exact=True)
