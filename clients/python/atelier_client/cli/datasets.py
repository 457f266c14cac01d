"""`atelier datasets ...`"""

from pathlib import Path
from typing import Annotated

import typer
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1.catalog_service_pb2 import UploadRefusal
from atelier.catalog.v1.dataset_pb2 import Dataset, DatasetType, Image
from atelier.trainer.v1.trainer_service_pb2 import CaptionSummary
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TransferSpeedColumn

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
from atelier_client.datasets import UploadProgress, UploadSummary
from atelier_client.errors import InvalidArgument
from atelier_client.plain import short_name, to_plain

app = typer.Typer(no_args_is_help=True, help="Create datasets, fill them, look at them.")
DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Id or name.", show_default=False)]


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(show_default=False)],
    description: Annotated[str, typer.Option("--description", "-d")] = "",
    type: Annotated[str, typer.Option(help="image or video.")] = "image",
    json: JsonOption = False,
) -> None:
    """Make a new, empty dataset."""
    with session_of(context).client() as client:
        dataset = client.datasets.create(name, description=description, type=type)
    if json:
        print_json(dataset)
    else:
        out.print(
            f"Dataset {dataset.id} {dataset.name!r} is there. Fill it: atelier datasets upload {dataset.id} FOLDER"
        )


@app.command("list")
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """All datasets."""
    with session_of(context).client() as client:
        datasets = client.datasets.list()
    if json:
        print_json(datasets)
        return
    rows = (
        (each.id, each.name, _type(each), each.num_items, bytes_text(each.size_bytes), time_text(each.updated_at))
        for each in datasets
    )
    print_table(
        ["ID", "NAME", "TYPE", "IMAGES", "SIZE", "CHANGED"], rows, empty="No datasets yet: atelier datasets create"
    )


@app.command()
def show(
    context: typer.Context,
    dataset: DatasetArgument,
    images: Annotated[bool, typer.Option("--images/--no-images", help="List its images.")] = True,
    json: JsonOption = False,
) -> None:
    """One dataset with its images and captions."""
    with session_of(context).client() as client:
        found = client.datasets.get(dataset)
        listed = list(client.datasets.images(found)) if images else []
    if json:
        print_json({**to_plain(found), "images": [to_plain(image) for image in listed]})
        return
    print_fields(
        [
            ("id", found.id),
            ("name", found.name),
            ("type", _type(found)),
            ("description", found.description),
            ("images", found.num_items),
            ("size", bytes_text(found.size_bytes)),
            ("created", time_text(found.created_at)),
            ("changed", time_text(found.updated_at)),
        ]
    )
    if listed:
        out.print()
        rows = ((each.id, each.filename, _shape(each), each.caption) for each in listed)
        print_table(["ID", "FILE", "PIXELS", "CAPTION"], rows, empty="")


@app.command()
def upload(
    context: typer.Context,
    dataset: DatasetArgument,
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    json: JsonOption = False,
) -> None:
    """Send images or clips, with captions from .txt or .caption files beside them or from metadata.jsonl.

    Beside cat.png, cat-masklabel.png, cat.mask.png or masks/cat.png is its mask: white where it counts.

    What the dataset has already is not sent again. Exits with 1 when a file was refused; the others are kept.
    """
    columns = (
        TextColumn("Uploading"),
        BarColumn(),
        MofNCompleteColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with session_of(context).client() as client, Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show_progress(done: UploadProgress) -> None:
            bar.update(task, completed=done.bytes_done, total=done.bytes_total)

        summary = client.datasets.upload(dataset, paths, show_progress)
    if json:
        print_json(
            {
                "accepted": [to_plain(image) for image in summary.accepted],
                "duplicates": [to_plain(each) for each in summary.duplicates],
                "already_there": [str(path) for path in summary.already_there],
                "refused": [to_plain(each) for each in summary.refused],
                "masks": summary.masks,
                "dataset": to_plain(summary.dataset),
            }
        )
    else:
        _print_summary(summary)
    if summary.refused:
        raise typer.Exit(1)


def _print_summary(summary: UploadSummary) -> None:
    parts = [f"{len(summary.accepted)} uploaded"]
    if summary.already_there:
        parts.append(f"{len(summary.already_there)} already there")
    if summary.duplicates:
        parts.append(f"{len(summary.duplicates)} twice in what was given")
    if summary.masks:
        parts.append(f"{summary.masks} masked")
    if summary.refused:
        parts.append(f"{len(summary.refused)} refused")
    out.print(
        f"{', '.join(parts)}. Dataset {summary.dataset.name!r} has {summary.dataset.num_items} images.", markup=False
    )
    for file in summary.refused:
        reason = short_name(UploadRefusal.DESCRIPTOR, file.reason) if file.reason else "unreadable"
        err.print(f"refused {file.filename}: {file.message} ({reason})", markup=False)


@app.command()
def mask(
    context: typer.Context,
    image: Annotated[int, typer.Argument(help="Its id.", show_default=False)],
    file: Annotated[Path | None, typer.Argument(help="A picture, white where it counts.", exists=True)] = None,
    clear: Annotated[bool, typer.Option("--clear", help="All of it counts again.")] = False,
    json: JsonOption = False,
) -> None:
    """Say what of a picture counts in training with --masked-loss."""
    if (file is None) is not clear:
        raise InvalidArgument({"FILE": "is the mask; or --clear takes it away: one of the two"})
    with session_of(context).client() as client:
        changed = client.datasets.clear_mask(image) if file is None else client.datasets.set_mask(image, file)
    if json:
        print_json(changed)
    else:
        out.print(f"Image {image} ({changed.filename}) has {'no' if clear else 'a'} mask.", markup=False)


@app.command()
def refresh(context: typer.Context, dataset: DatasetArgument, json: JsonOption = False) -> None:
    """Count again, and name images whose bytes are missing or corrupt. Exits with 1 when there are any."""
    with session_of(context).client() as client:
        answer = client.datasets.refresh(dataset)
    if json:
        print_json(answer)
    else:
        drift = answer.dataset.num_items - answer.previous_num_items
        changed = f" (was {answer.previous_num_items})" if drift else ""
        out.print(f"{answer.dataset.name!r} has {answer.dataset.num_items} images{changed}.", markup=False)
        for kind, images in (("missing", answer.missing), ("corrupt", answer.corrupt)):
            for image in images:
                err.print(f"{kind}: image {image.id} {image.filename}", markup=False)
    if answer.missing or answer.corrupt:
        raise typer.Exit(1)


_FOUND = {
    pb.FINDING_KIND_DAMAGED: "damaged",
    pb.FINDING_KIND_EXACT_DUPLICATES: "the same picture in several files",
    pb.FINDING_KIND_NEAR_DUPLICATES: "pictures that look alike",
    pb.FINDING_KIND_TOO_SMALL: "smaller than the resolution",
    pb.FINDING_KIND_BLURRED: "blurred",
    pb.FINDING_KIND_CLIPPED: "largely black or white",
    pb.FINDING_KIND_MISSING_CAPTION: "without a caption",
    pb.FINDING_KIND_BOILERPLATE_CAPTION: "with a caption that says nothing",
}
_NAMED = 8


@app.command()
def caption(
    context: typer.Context,
    dataset: DatasetArgument,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also pictures that have a caption.")] = False,
    prefix: Annotated[str, typer.Option(help='Put before each, for example "a photo of sks dog, ".')] = "",
    max_tokens: Annotated[int, typer.Option(help="Of a caption, at most. Default: 40.")] = 0,
    json: JsonOption = False,
) -> None:
    """Caption pictures with the deployment's captioning model. Ctrl-C stops it; captions that are there stay."""
    columns = (TextColumn("Captioning"), BarColumn(), MofNCompleteColumn())
    summary = CaptionSummary()
    with session_of(context).client() as client, Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        for answer in client.training.caption(dataset, overwrite=overwrite, prefix=prefix, max_tokens=max_tokens):
            progress, summary = answer.progress, answer.summary
            if answer.HasField("progress") and progress.total:
                bar.update(task, completed=progress.done, total=progress.total)
            if progress.image_id and not json:
                out.print(f"{progress.image_id:6} {progress.caption}", markup=False)
    if json:
        print_json(summary)
        return
    out.print(f"{summary.num_captioned} captioned, {summary.num_kept} kept their caption", markup=False)
    if summary.damaged_image_ids:
        err.print(f"damaged: {', '.join(map(str, summary.damaged_image_ids))}", markup=False)


@app.command()
def inspect(
    context: typer.Context,
    dataset: DatasetArgument,
    resolution: Annotated[int, typer.Option(help="The side that training is meant for. Default: 512.")] = 0,
    json: JsonOption = False,
) -> None:
    """Say what a trainer should know first: duplicates, small or blurred pictures, captions that say nothing."""
    columns = (TextColumn("Measuring"), BarColumn(), MofNCompleteColumn())
    with session_of(context).client() as client, Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        found = client.datasets.inspect(
            dataset,
            resolution=resolution,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if json:
        print_json(found)
        return
    out.print(f"{found.num_images} pictures, for training at {found.resolution} pixels", markup=False)
    for finding in found.findings:
        named = ", ".join(map(str, finding.image_ids[:_NAMED])) + (" ..." if finding.num_images > _NAMED else "")
        what = _FOUND.get(finding.kind, short_name(pb.FindingKind.DESCRIPTOR, finding.kind))
        detail = f" {finding.detail!r}" if finding.detail else ""
        out.print(f"  {finding.num_images:5} {what}{detail}: {named}", markup=False)
    if not found.findings:
        out.print("  nothing to complain of", markup=False)
    sizes = ", ".join(f"{each.width} x {each.height}: {each.num_images}" for each in found.buckets)
    if sizes:
        out.print(f"Sizes with --aspect-buckets: {sizes}", markup=False)


def _shape(image: Image) -> str:
    parts = [f"{image.width}x{image.height}"]
    if image.num_frames:
        parts.append(f"{image.num_frames} frames at {image.frames_per_second:.3g}/s")
    if image.mask_sha256:
        parts.append("masked")
    return ", ".join(parts)


def _type(dataset: Dataset) -> str:
    return short_name(DatasetType.DESCRIPTOR, dataset.type)
