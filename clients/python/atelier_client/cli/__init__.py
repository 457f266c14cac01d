"""The `atelier` command."""

from pathlib import Path
from typing import Annotated

import typer

from atelier_client.cli import datasets, gallery, generate, jobs, models, seed, train, up
from atelier_client.cli.session import ErrorGroup, Session

app = typer.Typer(
    cls=ErrorGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Images in, a fine-tuned model out, pictures from it.",
)
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(gallery.app, name="gallery")
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("grid")(generate.grid)
app.command("seed")(seed.seed)
app.command("up")(up.up)


@app.callback()
def main(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Option(help="The data folder; a running `up` wrote its addresses there.", envvar="ATELIER_DATA_DIR"),
    ] = Path("data"),
    catalog: Annotated[str, typer.Option(help="host:port.", envvar="ATELIER_CATALOG_ADDRESS")] = "",
    trainer: Annotated[str, typer.Option(help="host:port.", envvar="ATELIER_TRAINER_ADDRESS")] = "",
    generator: Annotated[str, typer.Option(help="host:port.", envvar="ATELIER_GENERATOR_ADDRESS")] = "",
) -> None:
    context.obj = Session(data, catalog, trainer, generator)
