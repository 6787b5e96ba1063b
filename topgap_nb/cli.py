"""The ``topgap`` command. Bad input ends in one line and exit code 2; a failed notebook in 1."""

import os
import sys

import click

from topgap_nb.errors import UserError


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
        except (RuntimeError, ArithmeticError) as error:
            if type(error).__name__ not in ("NotebookFailed", "Diverged"):
                raise
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

    A notebook is skipped when neither it, the package, its parameters nor its inputs changed since
    it last succeeded. Trained networks are kept under runs/models and never trained twice. Stop at
    any time; the same command goes on where it stopped.
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
@click.option("--k", default="1.0", show_default=True, help="Count (64) or share of the map (0.1).")
@click.option("--sparsity-weight", type=float, default=0.0, show_default=True, help="lambda.")
@click.option("--image-size", type=int, default=96, show_default=True, help="Pixels per side.")
@click.option("--epochs", type=int, default=3, show_default=True)
@click.option("--batch-size", type=int, default=32, show_default=True)
@click.option("--train-images", type=int, help="Use only so many.")
@click.option("--pretrained/--scratch", default=True, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def train(profile: str | None, engine: str, cores: int | None, dry_run: bool, **choices) -> None:
    """Train one network, or find it trained, and print its accuracy on `select`.

    With --profile, train all runs of the profile's grid that are not finished: the other choices
    are then the grid's. Stop at any time; the same command goes on where it stopped. --dry-run
    takes minutes the first time: it times a training step of each kind of network on this machine.
    """
    if profile:
        _train_grid(profile, choices["dataset"], engine, cores, dry_run)
    elif choices["dataset"]:
        _train_one(**choices)
    else:
        raise click.UsageError("give --dataset, or --profile to train a grid")


def _train_grid(profile: str, dataset: str | None, engine: str, cores: int | None, dry: bool):
    from topgap_nb import grid_of, run_grid
    from topgap_nb.experiments.estimate import estimate, report
    from topgap_nb.experiments.records import hardware

    specs = grid_of(profile, dataset)
    if dry:
        click.echo("\n".join(report(estimate(profile, specs), hardware())))
    elif run_grid(specs, engine, echo=click.echo, **({"cores": cores} if cores else {})):
        sys.exit(1)


def _train_one(k: str, **choices) -> None:
    from topgap_nb import RunSpec, clean_accuracy, predict, run_sets, shown, trained
    from topgap_nb.experiments.parallel import is_main

    run = trained(RunSpec(k=_number(k), **choices))
    if not is_main():
        return
    select = run_sets(run.spec)["select"]
    accuracy = clean_accuracy(predict(run.model, select), select.labels)
    click.echo(f"{run.spec.title}: accuracy on select {shown(accuracy)}, n = {accuracy.n}")
    click.echo(f"{run.folder}")


@main.group()
def data() -> None:
    """List, fetch and check data sets."""


@data.command("list")
def list_data() -> None:
    """Print every data set, what it is, and where it lies."""
    from topgap_nb import DATASETS
    from topgap_nb.data import module_of, source_of
    from topgap_nb.files import data_root

    width = max(map(len, DATASETS))
    for name in DATASETS:
        about = module_of(name).__doc__.strip().splitlines()[0].split(": ", 1)[1]
        source = source_of(name)
        where = "needs no download" if source is None else source.where() or "not here"
        click.echo(f"{name:<{width}}  {about}\n{'':<{width}}  [{where}]")
    click.echo(f"Data sets that are not embedded lie in {data_root()} ($TOPGAP_DATA).")


@data.command()
@click.argument("name")
def prepare(name: str) -> None:
    """Download a data set, or say how to get it.

    A download that was cut off goes on where it stopped. Nothing is moved into place before its
    checksum is right and everything is unpacked.
    """
    from topgap_nb.data import source_of
    from topgap_nb.data.download import prepare

    source = source_of(name)
    if source is None:
        click.echo(f"{name} needs no download")
    else:
        prepare(source, click.echo)


@data.command()
@click.argument("name")
def verify(name: str) -> None:
    """Check a data set's files and checksums, decode every image, and print what it holds."""
    from topgap_nb.data import source_of
    from topgap_nb.data.check import check_images
    from topgap_nb.data.download import verify_files

    if source := source_of(name):
        click.echo(verify_files(source))
    for line in check_images(name):
        click.echo(line)


@main.command()
@click.option("--profile", default="demo", show_default=True)
@click.option("--readme", is_flag=True, help="Also write the tables into README.md.")
def report(profile: str, readme: bool) -> None:
    """Print the scoreboard: every hypothesis and what became of it."""
    from topgap_nb import Verdict, load_records

    if readme:
        from topgap_nb.workbook.readme import fill_readme

        fill_readme(profile)

    verdicts = [entry for entry in load_records(profile) if isinstance(entry, Verdict)]
    width = max((len(v.outcome) for v in verdicts), default=0)
    for v in verdicts:
        click.echo(
            f"{v.notebook[:2]}  {v.outcome:<{width}}  {v.effect:+.3f} [{v.low:+.3f}, {v.high:+.3f}]"
            f"  n={v.n:<5} trainings={v.seeds}  {v.hypothesis}"
        )


@main.command()
@click.option("--folder", type=click.Path(), help="By default student/ of the project.")
@click.option("--handout", is_flag=True, help="The whole workbook like that, as handout.zip.")
def student(folder: str | None, handout: bool) -> None:
    """Write the notebooks with the solutions of their exercises left out."""
    from pathlib import Path

    from topgap_nb.workbook.student import STUDENT, write_handout, write_student_edition

    if handout:
        click.echo(f"the workbook without solutions and tests: {write_handout()}")
        return
    written = write_student_edition(Path(folder) if folder else STUDENT)
    click.echo(f"{len(written)} notebooks without solutions in {written[0].parent}")


@main.command()
@click.option("--profile", default="demo", show_default=True, help="Whose executed notebooks.")
def book(profile: str) -> None:
    """Build the executed notebooks into a site that can be read offline."""
    from topgap_nb.workbook.site import build_book

    click.echo(f"open {build_book(profile)} in a browser")


def _number(text: str) -> int | float:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError as error:
        raise UserError(f"k = {text!r} is neither a count (64) nor a share (0.1)") from error


if __name__ == "__main__":
    main()
