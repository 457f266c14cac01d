"""`atelier gallery ...`"""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from atelier.generator.v1.generation_pb2 import Generation, GenerationSettings, GenerationStatus

from atelier_client.cli.drawing import describe, number_of_pictures, save
from atelier_client.cli.session import (
    JsonOption,
    bytes_text,
    err,
    out,
    print_fields,
    print_json,
    print_table,
    session_of,
    time_text,
)
from atelier_client.errors import AtelierError
from atelier_client.plain import flatten, short_name, to_plain

app = typer.Typer(no_args_is_help=True, help="What was drawn: list it, keep it, fetch it, delete it.")
GenerationArgument = Annotated[
    str, typer.Argument(metavar="GENERATION", help="The generation's id.", show_default=False)
]
GenerationsArgument = Annotated[list[str], typer.Argument(metavar="GENERATION", help="Ids.", show_default=False)]


@app.command("list")
def list_(
    context: typer.Context,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Drawn with it: id or name.")] = None,
    status: Annotated[str, typer.Option(help="queued, running, completed, failed or cancelled.")] = "",
    prompt: Annotated[str, typer.Option(help="Words that the prompt holds.")] = "",
    kept: Annotated[bool | None, typer.Option("--kept/--not-kept", help="Only these.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    json: JsonOption = False,
) -> None:
    """Generations, newest first."""
    with session_of(context).client() as client:
        found = list(islice(client.gallery.list(model=model, status=status, prompt=prompt, kept=kept), limit))
    if json:
        print_json(found)
        return
    rows = (
        (
            each.id,
            _status(each),
            time_text(each.created_at),
            each.model_name,
            f"{sum(not image.is_sheet for image in each.images)}/{number_of_pictures(each.settings)}",
            "kept" if each.is_kept else "",
            _short(each.settings.prompt),
        )
        for each in found
    )
    columns = ["ID", "STATUS", "CREATED", "MODEL", "PICTURES", "KEPT", "PROMPT"]
    print_table(columns, rows, empty="Nothing was found: atelier generate draws.")


@app.command()
def show(context: typer.Context, generation: GenerationArgument, json: JsonOption = False) -> None:
    """One generation: its settings, its pictures, and what it began with."""
    with session_of(context).client() as client:
        found = client.gallery.get(generation)
    if json:
        print_json(found)
        return
    failure = f"{found.failure.message} ({found.failure.reason})" if found.HasField("failure") else ""
    print_fields(
        [
            ("id", found.id),
            ("status", _status(found)),
            ("failure", failure),
            ("model", f"{found.settings.model_id} {found.model_name}"),
            ("created", time_text(found.created_at)),
            ("finished", time_text(found.finished_at)),
            ("kept", "yes" if found.is_kept else "no"),
            ("asked by", found.principal),
            ("began with", ", ".join(f"{each.generation_id}/{each.index}" for each in found.parents)),
            ("warnings", "; ".join(found.warnings)),
            *flatten(_settings(found.settings), "settings"),
        ]
    )
    if found.images:
        out.print()
        rows = (
            (
                image.index,
                "sheet" if image.is_sheet else image.seed,
                f"{image.width}x{image.height}" + (f", {image.num_frames} frames" if image.num_frames else ""),
                image.content_type,
                bytes_text(image.size_bytes),
                "flagged" if image.safety.is_flagged else "",
                _short(image.prompt),
            )
            for image in found.images
        )
        print_table(["INDEX", "SEED", "PIXELS", "FORMAT", "SIZE", "SAFETY", "PROMPT"], rows, empty="")


@app.command()
def keep(context: typer.Context, generations: GenerationsArgument) -> None:
    """Have retention leave them alone."""
    with session_of(context).client() as client:
        for each in generations:
            client.gallery.keep(each)
            out.print(f"Generation {each} is kept.", markup=False)


@app.command()
def unkeep(context: typer.Context, generations: GenerationsArgument) -> None:
    """Leave them to retention again."""
    with session_of(context).client() as client:
        for each in generations:
            client.gallery.unkeep(each)
            out.print(f"Generation {each} is left to retention.", markup=False)


@app.command()
def delete(context: typer.Context, generations: GenerationsArgument) -> None:
    """Remove them, with the pictures that no other has."""
    with session_of(context).client() as client:
        for each in generations:
            client.gallery.delete(each)
            out.print(f"Generation {each} is deleted.", markup=False)


@app.command()
def download(
    context: typer.Context,
    generation: GenerationArgument,
    out_path: Annotated[Path, typer.Option("--out", "-o", help="A folder, or a picture's file.")] = Path("pictures"),
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended.")] = False,
    json: JsonOption = False,
) -> None:
    """Write its pictures to files."""
    with session_of(context).client() as client:
        if wait:
            client.gallery.wait(generation)
        drawing = client.gallery.open(generation)
    found = drawing.generation
    if not drawing.files:
        reason = f": {found.failure.message}" if found.HasField("failure") else ""
        raise AtelierError(f"generation {found.id} is {_status(found)} and has no pictures{reason}")
    files = save(drawing, out_path)
    if json:
        print_json({**to_plain(found), "files": [str(file) for file in files]})
        return
    for picture, file in zip(drawing.files, files, strict=True):
        out.print(f"{file}  {describe(picture)}", markup=False)
    if found.status != GenerationStatus.GENERATION_STATUS_COMPLETED:
        err.print(f"The generation is {_status(found)}; these are the pictures that it has.", markup=False)


def _status(generation: Generation) -> str:
    return short_name(GenerationStatus.DESCRIPTOR, generation.status)


def _settings(settings: GenerationSettings) -> dict[str, object]:
    """Settings as people read them: wildcards by their names alone."""
    plain = to_plain(settings)
    del plain["model_id"]
    plain["wildcards"] = sorted(settings.wildcards)
    return plain


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
