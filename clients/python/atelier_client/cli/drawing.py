"""What `atelier generate` and `atelier grid` share: their options, the bar, and what is said after."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from atelier.generator.v1.generation_pb2 import GeneratedImageRef, GenerationSettings
from atelier.generator.v1.generator_service_pb2 import GenerateResponse
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from atelier_client.cli.session import err, out, print_json
from atelier_client.client import Atelier
from atelier_client.errors import AtelierError, InvalidArgument
from atelier_client.gallery import save_all
from atelier_client.inputs import PictureSource
from atelier_client.options import Control, HighResolution, Options
from atelier_client.pictures import Drawing, Picture
from atelier_client.plain import fill, to_plain

_PICTURE = "A file, dataset:ID of an image, or GENERATION/INDEX of the gallery"
_FORMATS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg", ".mp4": "mp4"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of both commands; each field is one."""

    negative: Annotated[str, typer.Option("--negative", "-n", help="What to keep out.")] = ""
    size: Annotated[str | None, typer.Option(help="512 or 512x768. Default: the model's, or the picture's.")] = None
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: 25.")] = None
    guidance: Annotated[
        float | None, typer.Option(help="How closely to follow the prompt. Default: 7.5; 3 for clips.")
    ] = None
    guidance_rescale: Annotated[float | None, typer.Option(help="Against over-exposure; 0 to 1.")] = None
    scheduler: Annotated[str, typer.Option(help="For example euler, dpmpp_2m_karras.")] = ""
    lora: Annotated[
        list[str] | None, typer.Option(help="One more LoRA, ID_OR_NAME or ID_OR_NAME=WEIGHT; repeatable.")
    ] = None
    image: Annotated[str | None, typer.Option(help=f"Begin with a picture. {_PICTURE}.")] = None
    strength: Annotated[
        float | None, typer.Option(help="How much of --image is drawn anew, up to 1. Default: 0.75.")
    ] = None
    mask: Annotated[str | None, typer.Option(help="Of --image's shape: white is drawn anew, black stays.")] = None
    mask_blur: Annotated[int | None, typer.Option(help="Pixels over which the two fade. Default: 4.")] = None
    frames: Annotated[int | None, typer.Option(help="Of a clip. Default: the model's.")] = None
    fps: Annotated[int | None, typer.Option(help="Frames a second of a clip. Default: 7.")] = None
    motion: Annotated[int | None, typer.Option(help="How much moves in a clip, 0 to 255. Default: 127.")] = None
    noise_augmentation: Annotated[float | None, typer.Option(help="Noise on a clip's first frame. Default: 0.02.")] = (
        None
    )
    control: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL=PICTURE[:WEIGHT[:START:END]]",
            help="A ControlNet and what it is shown; START and END are shares of the steps. Repeatable.",
        ),
    ] = None
    hires: Annotated[
        float | None, typer.Option(metavar="SCALE", help="Draw a second pass over the enlarged picture.")
    ] = None
    hires_strength: Annotated[float | None, typer.Option(help="How much the second pass draws. Default: 0.5.")] = None
    hires_steps: Annotated[int | None, typer.Option(help="Default: as many as the first pass.")] = None
    syntax: Annotated[
        str, typer.Option(help="weighted, for (words:1.3), {one|another} and __name__; or plain. Default: weighted.")
    ] = ""
    wildcard: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="The lines that __NAME__ chooses from; repeatable.")
    ] = None
    format: Annotated[
        str, typer.Option(help="png, webp or jpeg; of clips mp4 or animated_webp. Default: as --out is named.")
    ] = ""
    quality: Annotated[int | None, typer.Option(help="Of WebP and JPEG, 1 to 100. Default: 90.")] = None
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bytes again, whoever else draws; slower.")
    ] = False
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait: say where it will be found.")] = False
    out_path: Annotated[Path, typer.Option("--out", "-o", help="A folder, or a picture's file.")] = Path("pictures")
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False

    def options(self) -> Options:
        """As the SDK takes them. Raises InvalidArgument naming the option."""
        if self.hires is None and (self.hires_strength is not None or self.hires_steps is not None):
            raise InvalidArgument({"--hires": "says by how much; --hires-strength and --hires-steps need it"})
        second = None if self.hires is None else HighResolution(self.hires, self.hires_strength, self.hires_steps)
        controls = [parse_control(each) for each in self.control or []]
        return Options(
            negative_prompt=self.negative,
            size=self.size,
            steps=self.steps,
            guidance=self.guidance,
            guidance_rescale=self.guidance_rescale,
            scheduler=self.scheduler,
            loras=dict(parse_lora(each) for each in self.lora or []),
            image=None if self.image is None else picture_named(self.image, option="--image"),
            strength=self.strength,
            mask=None if self.mask is None else picture_named(self.mask, option="--mask"),
            mask_blur=self.mask_blur,
            frames=self.frames,
            fps=self.fps,
            motion=self.motion,
            noise_augmentation=self.noise_augmentation,
            controls=controls,
            high_resolution=second,
            prompt_syntax=self.syntax,
            wildcards=dict(parse_wildcard(each) for each in self.wildcard or []),
            format=self.format,
            quality=self.quality,
            deterministic=self.deterministic,
        )


Command = TypeVar("Command", bound=Callable[..., None])


def asking(command: Command) -> Command:
    """`command`, whose parameter `asked` is an Asked, as typer sees it: with an option for each of Asked's fields."""
    hints = get_type_hints(Asked, include_extras=True)
    own = [
        each for each in inspect.signature(command, eval_str=True).parameters.values() if each.annotation is not Asked
    ]
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(Asked)
    ]

    @wraps(command)
    def run(**given: Any) -> None:
        asked = Asked(**{field.name: given.pop(field.name) for field in fields(Asked)})
        command(asked=asked, **given)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + shared
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect reads first
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run  # type: ignore[return-value]  # typer calls it by names alone


def draw_and_save(client: Atelier, settings: GenerationSettings, asked: Asked) -> None:
    """Draws, writes the files and says where they are. Ctrl-C frees the place and exits with 130."""
    if not asked.format and (chosen := _FORMATS.get(asked.out_path.suffix.lower())):
        is_moving = chosen == "webp" and settings.HasField("image_to_video")
        fill(settings, {"format": "animated_webp" if is_moving else chosen}, path="settings")
    if asked.detach:
        generation = client.generations.start(settings)
        if asked.json:
            print_json(generation)
        else:
            out.print(f"Generation {generation.id} is being drawn.", markup=False)
            out.print(f"Its pictures, once it has: atelier gallery download {generation.id}", markup=False)
        return
    drawing = draw(client, settings)
    files = save(drawing, asked.out_path)
    if asked.json:
        print_json({**to_plain(drawing.generation), "files": [str(file) for file in files]})
        return
    for warning in drawing.generation.warnings:
        err.print(f"warning: {warning}", markup=False)
    for picture, file in zip(drawing.files, files, strict=True):
        out.print(f"{file}  {describe(picture)}", markup=False)


def draw(client: Atelier, settings: GenerationSettings) -> Drawing:
    """Draws with a bar on the terminal."""
    generation_id = ""
    steps: dict[int, int] = {}  # by picture
    expected = number_of_pictures(settings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
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
                step = answer.step
                steps.update(dict.fromkeys(range(step.first_index, step.first_index + step.count), step.step))
                total = step.total_steps * max(expected, len(steps))
                bar.update(task, description="drawing", completed=sum(steps.values()), total=total)

        try:
            return client.generations.draw(settings, on_event=show)
        except KeyboardInterrupt:  # leaving has freed the place; this also says that nobody comes back
            if generation_id:
                client.generations.cancel(generation_id)
            err.print("Cancelled.")
            raise typer.Exit(130) from None


def number_of_pictures(settings: GenerationSettings) -> int:
    """How many pictures a request asks for, the sheet of a grid not counted."""
    if not settings.HasField("grid"):
        return settings.count or 1
    grid, number = settings.grid, 1
    for axis in (grid.prompts, grid.model_ids, grid.lora_weights, grid.seeds):
        number *= max(1, len(axis))
    return number


def save(drawing: Drawing, out_path: Path) -> list[Path]:
    """Writes the pictures as `save_all` does. Raises AtelierError that says where they are kept all the same."""
    try:
        return list(save_all(drawing, out_path))
    except OSError as error:
        raise AtelierError(
            f"cannot write to {out_path}: {error.strerror}; the pictures are kept as generation {drawing.generation.id}"
        ) from error


def describe(picture: Picture) -> str:
    """seed 7  512x512, and whatever else there is to say."""
    if picture.image.is_sheet:
        return f"the sheet  {picture.width}x{picture.height}"
    parts = [f"seed {picture.seed}", f"{picture.width}x{picture.height}"]
    if picture.num_frames:
        parts.append(f"{picture.num_frames} frames")
    if picture.is_flagged:
        parts.append("flagged by the safety checker")
    return "  ".join(parts)


def picture_named(text: str, *, option: str) -> PictureSource:
    """A file, `dataset:ID`, or `GENERATION/INDEX`; a file that is there comes first. Raises InvalidArgument."""
    if Path(text).is_file():
        return Path(text)
    if match := re.fullmatch(r"dataset:(\d+)", text):
        return int(match[1])
    if match := re.fullmatch(r"([0-9a-fA-F-]{36})/(\d+)", text):
        return GeneratedImageRef(generation_id=match[1], index=int(match[2]))
    raise InvalidArgument({option: f"there is no file {text}, nor is it dataset:ID or GENERATION/INDEX"})


def parse_lora(text: str) -> tuple[str, float]:
    """NAME or NAME=WEIGHT. Raises InvalidArgument."""
    name, separator, weight = text.rpartition("=")
    if not separator:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError as error:
        raise InvalidArgument({"--lora": f"{weight!r} in {text!r} is not a number"}) from error


def parse_control(text: str) -> Control:
    """MODEL=PICTURE, or with :WEIGHT or :WEIGHT:START:END behind it. Raises InvalidArgument."""
    model, separator, shown = text.partition("=")
    if not separator or not model or not shown:
        raise InvalidArgument({"--control": f"{text!r} is not MODEL=PICTURE[:WEIGHT[:START:END]]"})
    number = r"(?:\d+\.?\d*|\.\d+)"
    numbers: list[float] = []
    match = re.fullmatch(rf"(.+?):({number})(?::({number}):({number}))?", shown)
    if match and not Path(shown).is_file() and not re.fullmatch(r"dataset:\d+", shown):
        shown = match[1]
        numbers = [float(each) for each in match.groups()[1:] if each is not None]
    return Control(model, picture_named(shown, option="--control"), *numbers)


def parse_wildcard(text: str) -> tuple[str, Path]:
    """NAME=FILE. Raises InvalidArgument."""
    name, separator, file = text.partition("=")
    if not separator or not Path(file).is_file():
        raise InvalidArgument({"--wildcard": f"{text!r} is not NAME=FILE of a file that is there"})
    return name, Path(file)
