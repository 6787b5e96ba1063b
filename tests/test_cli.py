import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import layouts

import topgap_nb
from topgap_nb.cli import main
from topgap_nb.errors import Diverged, NotebookFailed
from topgap_nb.results.records import Verdict, save_records
from topgap_nb.store.layout import records_folder, results_folder
from topgap_nb.training.profile import Profile

TOPGAP = Path(sys.executable).parent / "topgap"
TINY = ["train", "--dataset", "planted", "--backbone", "test_efficientnet", "--scratch"]
TINY += ["--image-size", "32", "--epochs", "1", "--train-images", "32"]
COMMANDS = {
    (): "Rebuild and test the claims",
    ("run",): "Execute the notebooks headlessly",
    ("train",): "Train one network",
    ("data",): "List, fetch and check data sets",
    ("data", "list"): "Print every data set",
    ("data", "prepare"): "Download a data set",
    ("data", "verify"): "decode every image",
    ("report",): "Print the scoreboard",
    ("tables",): "Print result tables",
    ("student",): "Write the notebooks with the solutions",
    ("book",): "Build the executed notebooks into a site",
    ("slides",): "Turn the executed notebooks into presentations",
}


def topgap(*words):
    return CliRunner().invoke(main, words)


def refused(*words):
    """The one line that a command ends with when it exits with code 2."""
    result = topgap(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


# What is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--profile", "dmo"], "topgap: profile 'dmo' is unknown: there are demo"),
        (["report", "--profile", "dmo"], "topgap: profile 'dmo' is unknown: there are demo"),
        (["tables", "--profile", "dmo"], "topgap: profile 'dmo' is unknown: there are demo"),
        (["book", "--profile", "dmo"], "topgap: profile 'dmo' is unknown: there are demo"),
        (["slides", "--profile", "dmo"], "topgap: profile 'dmo' is unknown: there are demo"),
        (["train", "--profile", "dmo"], "topgap: profile 'dmo' is unknown: there are demo"),
        (["report", "--profile", "smoke"], "topgap: no records of profile 'smoke' yet: `topgap"),
        (["data", "prepare", "plantd"], "topgap: data set 'plantd' is unknown"),
        (["data", "verify", "plantd"], "topgap: data set 'plantd' is unknown: there are cifar10"),
        (["train", "--dataset", "plantd"], "topgap: data set 'plantd' is unknown"),
        ([*TINY, "--backbone", "resnet19"], "topgap: backbone 'resnet19' is not a timm archite"),
        ([*TINY, "--head", "tail"], "topgap: head 'tail': use topgap or standard"),
        ([*TINY, "--k", "0"], "topgap: k = 0 does not fit a class map"),
        ([*TINY, "--k", "-3"], "topgap: k = -3 does not fit a class map"),
        ([*TINY, "--k", "1.5"], "topgap: k = 1.5 is neither a count nor a share"),
        ([*TINY, "--k", "many"], "topgap: k = 'many' is no count (64), share (0.1), auto or"),
        ([*TINY, "--epochs", "0"], "topgap: epochs = 0 must be at least 1"),
        ([*TINY, "--image-size", "8"], "topgap: image_size = 8"),
        ([*TINY, "--train-images", "0"], "topgap: train_images = 0 must be at least 1"),
        ([*TINY, "--sparsity-weight", "-1"], "topgap: sparsity_weight = -1.0 must be 0 or"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_bad_input_ends_in_one_line_and_code_2(runs, words, message):
    assert refused(*words).startswith(message)


def test_a_notebook_that_does_not_exist_ends_in_one_line_and_code_2(runs):
    line = refused("run", "--profile", "smoke", "--only", "77")
    assert line.startswith("topgap: no notebook starts with '77': there are ")


def test_a_table_that_was_not_made_ends_in_one_line_and_code_2(runs):
    line = refused("tables", "6", "--profile", "smoke")
    assert line.startswith(f"topgap: {results_folder('smoke') / 'table_6.csv'} does not exist: `to")


def test_a_book_of_notebooks_that_were_not_run_ends_in_one_line_and_code_2(runs):
    assert "is missing: `topgap run --profile smoke` makes it" in refused(
        "book", "--profile", "smoke"
    )


def test_a_k_beyond_the_class_map_is_refused_when_the_map_is_seen(runs):
    result = topgap(*TINY, "--k", "9999")
    assert result.exit_code == 2
    assert result.stderr.split("\r")[-1].startswith("topgap: k = 9999 does not fit a class map")


@pytest.mark.parametrize("option", [["train"], ["run", "--loud"], ["fetch"], ["data", "verify"]])
def test_a_command_line_that_makes_no_sense_shows_how_it_is_used(option):
    result = topgap(*option)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


@pytest.mark.parametrize("failure", [NotebookFailed, Diverged])
def test_a_failed_notebook_or_training_ends_in_code_1(monkeypatch, failure):
    def fail(*args, **settings):
        raise failure("01_a.ipynb, cell [3]: KeyError: 'ring'")

    monkeypatch.setattr("topgap_nb.workbook.runner.run_book", fail)
    result = topgap("run")
    assert result.exit_code == 1
    assert result.stderr == "topgap: 01_a.ipynb, cell [3]: KeyError: 'ring'\n"


@pytest.mark.parametrize("fault", [RuntimeError, ValueError, ZeroDivisionError])
def test_a_fault_of_the_workbook_keeps_its_traceback(monkeypatch, fault):
    def fail(*args, **settings):
        raise fault("a bug")

    monkeypatch.setattr("topgap_nb.workbook.runner.run_book", fail)
    assert isinstance(topgap("run").exception, fault)


# What is printed


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_says_what_a_command_does(words):
    result = topgap(*words, "--help")
    assert result.exit_code == 0
    assert COMMANDS[words] in result.stdout
    assert topgap(*words, "-h").stdout == result.stdout


def test_the_data_sets_are_listed_with_what_they_are():
    result = topgap("data", "list")
    assert result.exit_code == 0
    names = [line.split()[0] for line in result.stdout.splitlines()[:-1:2]]
    assert names == list(topgap_nb.data_sets())
    lines = result.stdout.splitlines()
    planted = names.index("planted")
    assert lines[2 * planted].endswith(topgap_nb.data_sets()["planted"].about)
    assert lines[2 * planted + 1].strip() == "[needs no download]"


def test_verify_counts_images_classes_and_masks():
    result = topgap("data", "verify", "planted")
    assert result.exit_code == 0
    counts = [line.split() for line in result.stdout.splitlines()]
    assert [(row[1], row[2], row[4], row[6]) for row in counts] == [
        ("train", "2000", "8", "2000"),
        ("val", "400", "8", "400"),
        ("test", "800", "8", "800"),
    ]


def test_train_prints_the_accuracy_and_where_the_network_is(runs):
    result = topgap(*TINY, "--k", "4", "--sparsity-weight", "0.5")
    assert result.exit_code == 0, result.output
    *_, accuracy, folder = result.stdout.splitlines()
    assert accuracy.startswith("planted topgap k=4 lambda=0.5 seed 0: accuracy on val 0.")
    assert accuracy.endswith("n = 400")
    assert (runs / "networks").samefile(Path(folder).parent)
    assert (Path(folder) / "model.safetensors").exists()


@pytest.mark.parametrize("k", ["auto", "learnt"])
def test_train_takes_a_k_that_is_chosen_later_or_learnt(runs, k):
    result = topgap(*TINY, "--k", k)
    assert result.exit_code == 0, result.output
    assert f"planted topgap k={k} lambda=0 seed 0: accuracy on val 0." in result.stdout


def test_a_dry_run_names_the_data_that_is_incomplete_and_estimates_the_rest(root, monkeypatch):
    tiny = {
        "backbone": "test_efficientnet", "image_size": 32, "k": 4, "epochs": 1, "batch_size": 8,
        "pretrained": False,
    }  # fmt: skip
    recipes = {"default": tiny, "planted": {**tiny, "options": {"images": 24, "classes": 4}}}
    grid = ({"dataset": ["pets", "cub", "planted"]},)
    profile = Profile("paper", recipes, {}, grid=grid)
    monkeypatch.setattr("topgap_nb.training.profile.load_profile", lambda name: profile)
    (layouts.pets(root) / "images" / "beagle_1.jpg").unlink()
    (layouts.cub(root) / "images.txt").write_text("")
    result = topgap("train", "--profile", "paper", "--dry-run")
    assert result.exit_code == 0, result.output
    pets, cub, planted = result.stdout.splitlines()[1:4]
    assert "beagle_1.jpg is missing" in pets
    assert pets.split()[6] == "?"
    assert cub.startswith("cub ")
    assert cub.split()[6] == "?"
    assert planted.split()[6] == "0.0"
    assert "without cub, pets" in result.stdout


def test_report_shows_every_verdict(runs):
    choices = {"rule": "", "threshold": 0.0, "n": 624, "n_trainings": 3, "profile": "smoke"}
    verdicts = [
        Verdict("02_training", "It is accurate.", effect=0.1, low=0.05, high=0.2, **choices),
        Verdict("02_training", "It is sparse.", effect=0.0, low=-0.1, high=0.1, **choices),
    ]
    save_records(verdicts, records_folder("smoke") / "02_training.jsonl")
    assert topgap("report", "--profile", "smoke").stdout.splitlines() == [
        "02  supported     +0.100 [+0.050, +0.200]  n=624   trainings=3  It is accurate.",
        "02  inconclusive  +0.000 [-0.100, +0.100]  n=624   trainings=3  It is sparse.",
    ]


# The installed command and the package


@pytest.mark.skipif(not TOPGAP.exists(), reason="the package is not installed")
def test_the_installed_command_ends_without_a_traceback(tmp_path):
    done = subprocess.run(
        [TOPGAP, "data", "verify", "plantd"],
        env={**os.environ, "TOPGAP_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("topgap: data set 'plantd' is unknown")


@pytest.mark.parametrize(
    "statement",
    ["import topgap_nb", "from topgap_nb.cli import main; main(['--help'], standalone_mode=False)"],
)
def test_importing_and_asking_for_help_load_no_heavy_package(statement):
    heavy = "{'torch', 'timm', 'sklearn', 'pandas', 'matplotlib', 'papermill'}"
    script = f"{statement}\nimport sys\nprint('loaded:', sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded: []", done.stderr


def test_every_public_name_resolves_and_says_what_it_is():
    assert dir(topgap_nb) == topgap_nb.__all__
    for name in topgap_nb.__all__:
        value = getattr(topgap_nb, name)
        if callable(value):
            doc = value.__doc__ or ""
            assert doc.rstrip().count(" ") >= 3, name
            assert not doc.startswith(f"{name}("), name
        else:
            assert isinstance(value, dict | str | tuple), name
            assert value, name


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No topgap_nb attribute topgap_net"):
        _ = topgap_nb.topgap_net
