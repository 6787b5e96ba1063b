"""The CSV files under data/paper agree with each other as the paper's tables do."""

from pathlib import Path

import pandas as pd
import pytest

TABLES = Path(__file__).parents[1] / "data" / "paper"
ROWS = {
    "1": 3, "2": 8, "3": 4, "4": 3, "5": 7, "6": 12, "7": 6,
    "a1": 9, "a2": 9, "a3": 12, "a4": 12, "a5": 5, "a6": 9, "a7": 5,
}  # fmt: skip
TEXT = {"dataset", "architecture", "method", "shift", "approach"}
NOT_FRACTIONS = {"standard_parameters", "topgap_parameters", "k", "sparsity_weight"}
KEYS = ["dataset", "architecture"]


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(TABLES / f"table_{name}.csv")


def rows_without_average(name: str) -> pd.DataFrame:
    table = read(name)
    return table[table["dataset"] != "Average"].set_index(KEYS)


def test_every_file_is_a_known_table():
    assert {path.stem for path in TABLES.glob("*.csv")} == {f"table_{name}" for name in ROWS}


@pytest.mark.parametrize(("name", "rows"), ROWS.items())
def test_rows_and_numbers(name, rows):
    table = read(name)
    assert len(table) == rows
    numbers = table.drop(columns=[column for column in table if column in TEXT])
    assert all(kind.kind in "if" for kind in numbers.dtypes)
    fractions = numbers.drop(columns=[column for column in numbers if column in NOT_FRACTIONS])
    assert fractions.stack().dropna().between(-1, 1).all()


@pytest.mark.parametrize("name", ["a1", "a2"])
def test_printed_average_is_the_column_mean(name):
    printed = read(name).set_index("dataset").loc["Average"].drop("architecture")
    means = rows_without_average(name).mean()
    assert ((means - printed.astype(float)).abs() <= 0.0005).all()


@pytest.mark.parametrize("model", ["standard", "topgap"])
def test_erf_distance_is_centre_minus_corner_in_every_row(model):
    centre = rows_without_average("a1")[f"{model}_center_erf"]
    corner = rows_without_average("a2")[f"{model}_corner_erf"]
    distance = read("2").set_index(KEYS)[f"{model}_erf_distance"]
    # The paper agrees with itself here to all three printed decimals.
    pd.testing.assert_series_equal(centre - corner, distance, check_names=False, rtol=0, atol=1e-9)


def test_accuracies_are_the_clean_accuracies_of_the_attack_table():
    accuracies = read("6").set_index(KEYS)
    attacks = read("a3").set_index(KEYS)
    pd.testing.assert_frame_equal(accuracies, attacks[accuracies.columns], check_exact=True)
