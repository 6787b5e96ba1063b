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
    topgap data list              the data sets, their sizes and licences
    topgap report                 the scoreboard of the last run
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
@click.option("--dataset", required=True, help="A name from `topgap data list`.")
@click.option("--backbone", default="tf_efficientnet_lite0", show_default=True)
@click.option("--head", default="topgap", show_default=True, help="standard or topgap.")
@click.option("--k", default="1.0", show_default=True, help="Count (64) or share of the map (0.1).")
@click.option("--sparsity-weight", type=float, default=0.0, show_default=True, help="lambda.")
@click.option("--image-size", type=int, default=96, show_default=True, help="Pixels per side.")
@click.option("--epochs", type=int, default=3, show_default=True)
@click.option("--train-images", type=int, help="Use only so many.")
@click.option("--pretrained/--scratch", default=True, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def train(k: str, **choices) -> None:
    """Train one network, or find it trained, and print its accuracy on `select`."""
    from topgap_nb import RunSpec, clean_accuracy, predict, run_sets, shown, trained

    run = trained(RunSpec(k=_number(k), **choices))
    select = run_sets(run.spec)["select"]
    accuracy = clean_accuracy(predict(run.model, select), select.labels)
    click.echo(f"{run.spec.title}: accuracy on select {shown(accuracy)}, n = {accuracy.n}")
    click.echo(f"{run.folder}")


@main.group()
def data() -> None:
    """List, fetch and check data sets."""


@data.command("list")
def list_data() -> None:
    """Print every data set with its splits, and where it comes from."""
    from topgap_nb import DATASETS

    for name, opener in DATASETS.items():
        about = sys.modules[opener.__module__].__doc__.strip().splitlines()[0]
        click.echo(f"{name:<12} {about.split(': ', 1)[1]}")


@data.command()
@click.argument("name")
def verify(name: str) -> None:
    """Decode every image of a data set and print what it holds."""
    from topgap_nb import open_dataset
    from topgap_nb.data import SPLITS

    for split in SPLITS:
        images = open_dataset(name, split)
        masks = int(images.masked.sum()) if images.masked is not None else len(images)
        click.echo(
            f"{name} {split:<7} {len(images):>6} images, {len(images.class_names)} classes, "
            f"{masks if images.masks is not None else 0} masks"
        )


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


def _number(text: str) -> int | float:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError as error:
        raise UserError(f"k = {text!r} is neither a count (64) nor a share (0.1)") from error


if __name__ == "__main__":
    main()
