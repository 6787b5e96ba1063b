"""The ``topgap`` command. Bad input ends in one line and exit code 2; a failed notebook in 1."""

import os
import sys

import click

from topgap_nb.errors import Diverged, NotebookFailed, UserError


class _Friendly(click.Group):
    """A group whose commands turn the two expected exceptions into one line each."""

    def invoke(self, ctx: click.Context):
        """Run the chosen command."""
        from subprocess import CalledProcessError

        try:
            return super().invoke(ctx)
        except (UserError, CalledProcessError) as error:
            click.echo(f"topgap: {error}", err=True)
            sys.exit(2)
        except (NotebookFailed, Diverged) as error:
            click.echo(f"topgap: {error}", err=True)
            sys.exit(1)


@click.group(cls=_Friendly, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Rebuild and test the claims of the Top-GAP paper.

    \b
    topgap run                    every notebook, demo profile (what `make reproduce` calls)
    topgap run --only 02          one notebook
    topgap train --dataset planted --k 32 --sparsity-weight 1
    topgap train --profile paper --dry-run    the paper's runs, and their cost
    topgap data list              the data sets, their sizes and licences
    topgap report                 the scoreboard of the last run
    topgap tables 6 a3            result tables as Markdown or LaTeX
    topgap book                   the executed notebooks as a site
    topgap student                the notebooks with the solutions left out
    """


@main.command()
@click.option("--profile", default="demo", show_default=True, help="smoke, demo or paper.")
@click.option("--only", multiple=True, metavar="NN", help="Beginning of a notebook's name.")
@click.option("--force", is_flag=True, help="Run also what has not changed.")
@click.option("--jobs", type=click.IntRange(1), help="Notebooks at a time; by default one a core.")
def run(profile: str, only: tuple[str, ...], force: bool, jobs: int | None) -> None:
    """Execute the notebooks headlessly.

    A notebook is skipped when neither it, the code that it imports, its parameters nor its inputs
    differ from those of a run that succeeded. Trained networks are kept under runs/networks and
    never trained twice. Stop at any time; the same command goes on where it stopped.
    """
    from topgap_nb.workbook.runner import run_book

    try:
        run_book(profile, only, force, jobs, echo=click.echo)
    except KeyboardInterrupt:
        click.echo("topgap: stopped; the same command goes on where this one was", err=True)
        # Not sys.exit, which would wait for the notebooks; their kernels end with this process.
        os._exit(130)


@main.command()
@click.option("--dataset", help="A name from `topgap data list`.")
@click.option("--profile", help="Train a profile's grid of runs, or its part on --dataset.")
@click.option("--engine", default="local", show_default=True, help="Of a grid: local or ray.")
@click.option("--cores", type=click.IntRange(1), help="Of a grid on ray: CPU cores for each run.")
@click.option("--dry-run", is_flag=True, help="Of a grid: print it, and its cost, measured here.")
@click.option("--backbone", default="tf_efficientnet_lite0", show_default=True)
@click.option("--head", default="topgap", show_default=True, help="standard or topgap.")
@click.option("--k", default="1.0", show_default=True, help="64, 0.1, auto or learnt.")
@click.option("--sparsity-weight", type=float, default=0.0, show_default=True, help="lambda.")
@click.option("--image-size", type=int, default=96, show_default=True, help="Pixels per side.")
@click.option("--epochs", type=int, default=3, show_default=True)
@click.option("--batch-size", type=int, default=32, show_default=True)
@click.option("--lr", type=float, default=5e-4, show_default=True, help="Of pretrained layers.")
@click.option("--head-lr", type=float, default=3e-3, show_default=True, help="Of new layers.")
@click.option("--train-images", type=int, help="Use only so many.")
@click.option("--pretrained/--scratch", default=True, show_default=True)
@click.option("--precision", default="float32", show_default=True, help="float32 or bfloat16.")
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads; 0: all.")
@click.option("--seed", type=int, default=0, show_default=True)
def train(profile: str | None, engine: str, cores: int | None, dry_run: bool, **choices) -> None:
    """Train one network, or find it trained, and print its accuracy on `val`.

    With --profile, train all runs of the profile's grid that are not stored: the other choices are
    then the grid's. Stop at any time; the same command resumes. --dry-run takes minutes the first
    time: it opens the data and times a training step of each kind of network on this machine.
    """
    if profile:
        _train_grid(profile, choices["dataset"], engine, cores, dry_run)
    elif choices["dataset"]:
        _train_one(**choices)
    else:
        raise click.UsageError("give --dataset, or --profile to train a grid")


def _train_grid(profile: str, dataset: str | None, engine: str, cores: int | None, dry: bool):
    from topgap_nb.cluster.cost import cost_report, predict_cost
    from topgap_nb.cluster.grid import grid_of, run_grid
    from topgap_nb.store.machine import hardware
    from topgap_nb.training.profile import load_profile

    loaded = load_profile(profile)
    runs = grid_of(loaded, dataset)
    if dry:
        click.echo("\n".join(cost_report(predict_cost(loaded, runs), hardware())))
    elif run_grid(runs, engine, click.echo, cores):
        sys.exit(1)


def _train_one(dataset: str, image_size: int, train_images: int | None, k: str, **choices) -> None:
    from topgap_nb import TrainingSpec, clean_accuracy, format_interval, open_dataset, predict
    from topgap_nb.training.loop import train_or_load
    from topgap_nb.training.processes import is_main

    spec = TrainingSpec(k=_k(k), **choices)
    data = open_dataset(dataset, image_size, train_images=train_images)
    run = train_or_load(spec, data)
    if not is_main():
        return
    accuracy = clean_accuracy(predict(run.model, data.val), data.val.labels)
    words = f"accuracy on val {format_interval(accuracy)}, n = {accuracy.n}"
    click.echo(f"{dataset} {spec.title}: {words}\n{run.folder}")


@main.group()
def data() -> None:
    """List, fetch and check data sets."""


@data.command("list")
def list_data() -> None:
    """Print every data set, what it is, and where it lies."""
    from topgap_nb.data.registry import data_sets
    from topgap_nb.store.layout import data_root

    width = max(map(len, data_sets()))
    for name, entry in data_sets().items():
        where = "needs no download" if not entry.source else entry.source.where() or "not here"
        click.echo(f"{name:<{width}}  {entry.about}\n{'':<{width}}  [{where}]")
    click.echo(f"Data sets that are not embedded lie in {data_root()} ($TOPGAP_DATA).")


@data.command()
@click.argument("name")
def prepare(name: str) -> None:
    """Download a data set, or say how to get it.

    A download that was cut off resumes where it stopped. Nothing is moved into place before its
    checksum is right and everything is unpacked.
    """
    from topgap_nb.data.fetch.download import prepare
    from topgap_nb.data.registry import find_set

    if source := find_set(name).source:
        prepare(source, click.echo)
    else:
        click.echo(f"{name} needs no download")


@data.command()
@click.argument("name")
def verify(name: str) -> None:
    """Check a data set's files and checksums, decode every image, and print what it holds."""
    from topgap_nb.data.fetch.download import verify_files
    from topgap_nb.data.fetch.verify import check_images
    from topgap_nb.data.registry import find_set

    if source := find_set(name).source:
        click.echo(verify_files(source))
    for line in check_images(name):
        click.echo(line)


@main.command()
@click.option("--profile", default="demo", show_default=True)
@click.option(
    "--readme", is_flag=True, help="Write the README's tables from the committed results instead."
)
def report(profile: str, readme: bool) -> None:
    """Print the scoreboard: every hypothesis and what became of it."""
    from topgap_nb.results.records import load_verdicts
    from topgap_nb.training.profile import load_profile

    load_profile(profile)
    if readme:
        from topgap_nb.workbook.readme import fill_readme

        fill_readme(profile)
        return
    board = load_verdicts(profile)
    width = board.outcome.map(len).max() if len(board) else 0
    for v in board.itertuples():
        click.echo(
            f"{v.notebook[:2]}  {v.outcome:<{width}}  {v.effect:+.3f} [{v.low:+.3f}, {v.high:+.3f}]"
            f"  n={v.n:<5} trainings={v.n_trainings}  {v.hypothesis}"
        )


@main.command()
@click.argument("names", nargs=-1)
@click.option("--profile", default="demo", show_default=True)
@click.option("--latex", is_flag=True, help="LaTeX in place of Markdown.")
def tables(names: tuple[str, ...], profile: str, latex: bool) -> None:
    """Print result tables (6, a3, ...; all by default) as Markdown or LaTeX."""
    import pandas as pd

    from topgap_nb.results.tables import as_latex, as_markdown
    from topgap_nb.store.layout import results_folder
    from topgap_nb.training.profile import load_profile
    from topgap_nb.workbook.runner import made_by

    folder = results_folder(load_profile(profile).name)
    files = [folder / f"table_{name.lower()}.csv" for name in names]
    for file in files or sorted(folder.glob("table_*.csv")):
        if not file.exists():
            raise UserError(f"{file} does not exist: `topgap run --profile {profile}` makes tables")
        frame = pd.read_csv(file)
        click.echo(f"{file.stem}\n\n{as_latex(frame) if latex else as_markdown(frame)}\n")
    machines = "; ".join(sorted({entry["hardware"] for entry in made_by(profile).values()}))
    click.echo(f"{'% ' if latex else ''}Profile {profile}; intervals 95 %; hardware: {machines}.")


@main.command()
@click.option("--folder", type=click.Path(), help="By default student/ of the project.")
@click.option("--handout", is_flag=True, help="The whole workbook like that, as handout.zip.")
@click.option("--nbgrader", is_flag=True, help="With solutions, as nbgrader's source/topgap.")
def student(folder: str | None, handout: bool, nbgrader: bool) -> None:
    """Write the notebooks with the solutions of their exercises left out.

    With --nbgrader they are marked instead, and the checks carry points: `nbgrader
    generate_assignment topgap` leaves them out, and `nbgrader autograde topgap` grades what comes
    back. It executes whole notebooks, so run `make reproduce` on that machine first.
    """
    from pathlib import Path

    from topgap_nb.workbook.student import GRADING, STUDENT, write_handout, write_student_edition

    if handout:
        click.echo(f"the workbook without solutions and tests: {write_handout()}")
        return
    target = Path(folder) if folder else GRADING if nbgrader else STUDENT
    written = write_student_edition(target, nbgrader)
    kind = "for nbgrader, with solutions," if nbgrader else "without solutions"
    click.echo(f"{len(written)} notebooks {kind} in {written[0].parent}")


@main.command()
@click.option("--profile", default="demo", show_default=True, help="Whose executed notebooks.")
def book(profile: str) -> None:
    """Build the executed notebooks into a site that can be read offline."""
    from topgap_nb.training.profile import load_profile
    from topgap_nb.workbook.book import build_book

    click.echo(f"open {build_book(load_profile(profile).name)} in a browser")


@main.command()
@click.option("--profile", default="demo", show_default=True, help="Whose executed notebooks.")
def slides(profile: str) -> None:
    """Turn the executed notebooks into presentations with speaker's notes.

    They load reveal.js and MathJax when they are shown; for a room without internet, `topgap book`.
    """
    from topgap_nb.training.profile import load_profile
    from topgap_nb.workbook.slides import write_slides

    written = write_slides(load_profile(profile).name)
    click.echo(
        f"{len(written)} presentations in {written[0].parent}: open one, and press S for notes"
    )


def _k(text: str) -> int | float | str:
    if text in ("auto", "learnt"):
        return text
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError as error:
        raise UserError(f"k = {text!r} is no count (64), share (0.1), auto or learnt") from error


if __name__ == "__main__":
    main()
