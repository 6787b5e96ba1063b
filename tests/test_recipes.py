import pytest

from topgap_nb.errors import UserError
from topgap_nb.experiments import recipes
from topgap_nb.experiments.recipes import baseline, recipe

PROFILE = """
recipes:
  planted: {k: 47, sparsity_weight: 1, learning_rate: 0.001, standard: {learning_rate: 0.0005}}
  pneumonia: {k: 188, sparsity_weight: 1, networks: {resnet18: {learning_rate: 0.002, k: 99}}}
"""


@pytest.fixture(autouse=True)
def profile(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(PROFILE)
    monkeypatch.setattr(recipes, "PROFILES", tmp_path)


def test_a_recipe_is_a_run_and_can_be_changed():
    spec = recipe("mine", "planted", seed=3)
    assert (spec.dataset, spec.head, spec.k, spec.sparsity_weight) == ("planted", "topgap", 47, 1.0)
    assert (spec.learning_rate, spec.seed) == (0.001, 3)


def test_the_baseline_differs_only_in_the_method_and_where_its_recipe_says_so():
    ours = recipe("mine", "planted", seed=3)
    plain = baseline(ours, "mine")
    assert plain == ours.but(head="standard", k=1.0, sparsity_weight=0.0, learning_rate=0.0005)
    other = recipe("mine", "pneumonia")
    assert baseline(other, "mine").learning_rate == other.learning_rate


def test_a_network_has_its_own_choices_where_the_recipe_says_so():
    assert recipe("mine", "pneumonia", backbone="resnet34").learning_rate == 5e-4
    spec = recipe("mine", "pneumonia", backbone="resnet18")
    assert (spec.learning_rate, spec.k) == (0.002, 99)
    assert recipe("mine", "pneumonia", backbone="resnet18", k=7).k == 7
    assert baseline(spec, "mine").learning_rate == 0.002


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recipe("nobodys", "planted"), "there are mine"),
        (lambda: recipe("mine", "birds"), "no recipe for 'birds'"),
        (lambda: recipe("mine", "planted", wings=2), "wings"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("text", ["recipes: [", "notebooks: {}", "- 1"])
def test_a_file_that_is_no_profile_is_named(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml is not a profile"):
        recipe("mine", "planted")
