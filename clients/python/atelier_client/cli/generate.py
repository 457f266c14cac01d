"""`atelier generate`"""

from pathlib import Path
from typing import Annotated

import typer
from atelier.generator.v1.generator_service_pb2 import GenerateResponse
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from atelier_client.cli.session import JsonOption, err, out, print_json, session_of
from atelier_client.errors import AtelierError, InvalidArgument
from atelier_client.generation import Drawing
from atelier_client.plain import to_plain


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="Id or name.")],
    negative: Annotated[str, typer.Option("--negative", "-n", help="What to keep out.")] = "",
    size: Annotated[str | None, typer.Option(help="512 or 512x768. Default: the model's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: 25.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt. Default: 7.5.")] = None,
    guidance_rescale: Annotated[float | None, typer.Option(help="Against over-exposure; 0 to 1.")] = None,
    scheduler: Annotated[str, typer.Option(help="For example euler, dpmpp_2m_karras.")] = "",
    seed: Annotated[int | None, typer.Option(help="Default: the server chooses, and says which.")] = None,
    count: Annotated[int | None, typer.Option("--count", "-c", help="Pictures. Default: 1.")] = None,
    lora_weight: Annotated[float | None, typer.Option(help="How strongly a LoRA model applies. Default: 1.")] = None,
    lora: Annotated[
        list[str] | None, typer.Option(help="One more LoRA, ID_OR_NAME or ID_OR_NAME=WEIGHT; repeatable.")
    ] = None,
    out_path: Annotated[Path, typer.Option("--out", "-o", help="A folder, or a .png file.")] = Path("pictures"),
    json: JsonOption = False,
) -> None:
    """Draw pictures. Ctrl-C cancels."""
    loras = dict(_parse_lora(each) for each in lora or [])
    generation_id = ""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with session_of(context).client() as client:
        settings = client.generations.settings(
            prompt,
            model,
            negative_prompt=negative,
            size=size,
            steps=steps,
            guidance=guidance,
            guidance_rescale=guidance_rescale,
            scheduler=scheduler,
            seed=seed,
            count=count,
            lora_weight=lora_weight,
            loras=loras,
        )
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task("sending", total=None)

            def show(answer: GenerateResponse) -> None:
                nonlocal generation_id
                generation_id = answer.generation_id or generation_id
                kind = answer.WhichOneof("event")
                if kind == "queued":
                    bar.update(task, description=f"queued, place {answer.queued.position}")
                elif kind == "waiting":
                    bar.update(task, description="waiting for training to finish its step")
                elif kind == "loading":
                    bar.update(task, description="loading the model")
                elif kind == "step":
                    bar.update(task, description="drawing", completed=answer.step.step, total=answer.step.total_steps)

            try:
                drawing = client.generations.draw(settings, on_event=show)
            except KeyboardInterrupt:
                if generation_id:
                    client.generations.cancel(generation_id)
                err.print("Cancelled.")
                raise typer.Exit(130) from None
    files = save(drawing, out_path)
    if json:
        print_json({**to_plain(drawing.generation), "files": [str(file) for file in files]})
        return
    for warning in drawing.generation.warnings:
        err.print(f"warning: {warning}", markup=False)
    for picture, file in zip(drawing, files, strict=True):
        out.print(f"{file}  seed {picture.seed}  {picture.width}x{picture.height}", markup=False)


def save(drawing: Drawing, out_path: Path) -> list[Path]:
    """Writes each picture: to the .png file named (numbered from 1 where there are several), or into the folder."""
    try:
        if out_path.suffix.lower() != ".png":
            prefix = drawing.generation.id[:8]
            return [picture.save(out_path / f"{prefix}-{picture.seed}.png") for picture in drawing]
        if len(drawing) == 1:
            return [drawing[0].save(out_path)]
        numbered = (out_path.with_stem(f"{out_path.stem}-{each.index + 1}") for each in drawing)
        return [picture.save(file) for picture, file in zip(drawing, numbered, strict=True)]
    except OSError as error:
        raise AtelierError(
            f"cannot write to {out_path}: {error.strerror}; the pictures are kept as generation {drawing.generation.id}"
        ) from error


def _parse_lora(text: str) -> tuple[str, float]:
    name, separator, weight = text.rpartition("=")
    if not separator:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError as error:
        raise InvalidArgument({"--lora": f"{weight!r} in {text!r} is not a number"}) from error
