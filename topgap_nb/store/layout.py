"""What lies where: the checkout, its data, and everything that is made under ``runs/``.

::

    runs/networks/<data>-<key>/          a trained network        (while it trains: ....partial/)
    runs/images/<data>-<size>-<key>/     decoded images
    runs/measurements/<metric>-<key>/    what a metric found on one network and its images
    runs/notebooks/<notebook>-<key>/     an executed notebook, its tables, figures and records
    runs/<profile>/records/              the records of the last run of each notebook
    runs/<profile>/executed/             the executed notebooks of the last run
    runs/<profile>/interactive/          what a person's own run of a notebook writes
    runs/<profile>/failed/               the executed copies of notebooks that failed
    runs/<profile>/work/                 what a notebook writes and does not show
    runs/own/<folder>-<hash>/            results on a person's own images
    figures/<profile>/                   tables and figures of the last run, and how long it took

The first four are kinds of the store (``store.store``): ``<key>`` is a hash, and nothing in them is
ever changed.
"""

import os
from hashlib import sha256
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
FIRST_EDITION = ("models", "measured", "decoded")


def project_root() -> Path:
    """Return the folder of notebooks, profiles and figures: ``$TOPGAP_PROJECT`` or the checkout.

    Without a checkout around it, the installed package works in the current folder.
    """
    checkout = PACKAGE.parent
    is_checkout = (checkout / "pyproject.toml").exists()
    named = os.environ.get("TOPGAP_PROJECT") or (checkout if is_checkout else Path.cwd())
    return Path(named).expanduser().absolute()


def _root(variable: str, default: str) -> Path:
    # Not from the current folder: that of a notebook's kernel is not that of the shell.
    return project_root() / Path(os.environ.get(variable) or default).expanduser()


# Of the pages that belong to the project: README, book and handout.
PROJECT = project_root()
NOTEBOOKS = PROJECT / "notebooks"


def notebooks_root() -> Path:
    """Return the folder of the numbered notebooks."""
    return project_root() / "notebooks"


def profiles_root() -> Path:
    """Return the folder of the profiles."""
    return notebooks_root() / "profiles"


def paper_root() -> Path:
    """Return the folder of the paper's tables."""
    return project_root() / "data" / "paper"


def lock_file() -> Path:
    """Return the file that pins the version of every package."""
    return project_root() / "requirements.lock"


def runs_root() -> Path:
    """Return the folder of everything that is made and not committed: ``$TOPGAP_RUNS`` or runs/.

    A relative path starts at the project, wherever the process runs.
    """
    return _root("TOPGAP_RUNS", "runs")


def data_root() -> Path:
    """Return the folder of the data sets that are not embedded: ``$TOPGAP_DATA`` or downloads.

    A relative path starts at the project.
    """
    return _root("TOPGAP_DATA", "data/downloads")


def own_sets() -> Path | None:
    """Return the folder of a person's own data sets, ``$TOPGAP_SETS``; None where there is none."""
    return _root("TOPGAP_SETS", "") if os.environ.get("TOPGAP_SETS") else None


def environment() -> dict[str, str]:
    """Return the variables that name folders, absolute, for a process that starts elsewhere."""
    sets = {"TOPGAP_SETS": str(own_sets())} if own_sets() else {}
    return sets | {
        "TOPGAP_PROJECT": str(project_root()),
        "TOPGAP_RUNS": str(runs_root()),
        "TOPGAP_DATA": str(data_root()),
    }


def results_folder(profile: str) -> Path:
    """Return where a profile's tables and figures are kept; smoke numbers never reach figures/."""
    runs = runs_root() / "smoke" / "figures"
    return runs if profile == "smoke" else project_root() / "figures" / profile


def own_folder(data_folder: str) -> Path:
    """Return where the results on a person's own folder of images go: never among the others."""
    path = Path(data_folder).expanduser().resolve()
    return runs_root() / "own" / f"{path.name}-{sha256(str(path).encode()).hexdigest()[:6]}"


def records_folder(profile: str) -> Path:
    """Return where the records of a profile's last run stand, one file per notebook."""
    return runs_root() / profile / "records"


def executed_folder(profile: str) -> Path:
    """Return where the executed notebooks of a profile's last run stand."""
    return runs_root() / profile / "executed"


def first_edition_note() -> str:
    """Return a line on what the first edition left under ``runs/``; empty where it left nothing."""
    left = [name for name in FIRST_EDITION if (runs_root() / name).is_dir()]
    if not left:
        return ""
    return (
        f"{', '.join(str(runs_root() / name) for name in left)}: made by the first edition, not "
        "read and left as they are; delete them when you no longer need them"
    )
