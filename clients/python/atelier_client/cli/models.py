"""`atelier models ...`"""

from pathlib import Path
from typing import Annotated

import typer
from atelier.catalog.v1.model_pb2 import Model, ModelCategory, ModelFamily, ModelType

from atelier_client.cli.session import (
    JsonOption,
    bytes_text,
    out,
    print_fields,
    print_json,
    print_table,
    session_of,
    time_text,
)
from atelier_client.plain import short_name, to_plain

app = typer.Typer(no_args_is_help=True, help="Base models, and what training made of them.")

# From the environment, so that it stands in no shell's history.
TokenOption = Annotated[
    str, typer.Option(envvar="ATELIER_HUB_TOKEN", help="Of the hub; default: the deployment's own.", show_default=False)
]


@app.command("list")
def list_(
    context: typer.Context,
    category: Annotated[str, typer.Option(help="image or video.")] = "",
    type: Annotated[str, typer.Option(help="base_model, lora, dreambooth, full or controlnet.")] = "",
    json: JsonOption = False,
) -> None:
    """All models."""
    with session_of(context).client() as client:
        models = client.models.list(category=category, type=type)
    if json:
        print_json(models)
        return
    rows = (
        (each.id, each.name, _type(each), _category(each), each.base_model_id or "", _weights(each)) for each in models
    )
    print_table(["ID", "NAME", "TYPE", "CATEGORY", "BASE", "WEIGHTS"], rows, empty="No models yet: atelier seed")


@app.command()
def show(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Id or name.", show_default=False)],
    json: JsonOption = False,
) -> None:
    """One model: where its weights are, what it came from and what came from it."""
    with session_of(context).client() as client:
        lineage = client.models.lineage(client.models.get(model))
    found = lineage.model
    if json:
        ancestors = [to_plain(each) for each in lineage.ancestors]
        print_json(
            {**to_plain(found), "ancestors": ancestors, "children": [to_plain(each) for each in lineage.children]}
        )
        return
    print_fields(
        [
            ("id", found.id),
            ("name", found.name),
            ("type", _type(found)),
            ("category", _category(found)),
            ("family", short_name(ModelFamily.DESCRIPTOR, found.family)),
            ("active", "yes" if found.is_active else "no"),
            ("weights", _weights(found)),
            ("digest", found.digest),
            ("resolution", found.native_resolution or ""),
            ("base", ", ".join(f"{each.id} {each.name}" for each in lineage.ancestors)),
            ("job", found.job_id),
            ("step", found.checkpoint_step or ""),
            ("dataset", f"{lineage.dataset.id} {lineage.dataset.name}" if lineage.HasField("dataset") else ""),
            ("snapshot", found.snapshot_digest),
            ("trigger words", ", ".join(found.trigger_words)),
            ("children", ", ".join(f"{each.id} {each.name}" for each in lineage.children)),
            ("licence", found.license),
            ("description", found.description),
            ("created", time_text(found.created_at)),
        ]
    )


@app.command()
def export(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Id or name.", show_default=False)],
    out_path: Annotated[Path, typer.Option("--out", "-o", help="A file, or a folder.")] = Path(),
    format: Annotated[
        str, typer.Option(help="diffusers (a zip), lora_diffusers or lora_kohya (ComfyUI, AUTOMATIC1111).")
    ] = "diffusers",
) -> None:
    """Write a model to a file for other programs."""
    with session_of(context).client() as client:
        written = client.models.export(client.models.get(model), out_path, format=format)
    out.print(str(written), markup=False)


@app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A LoRA or a checkpoint as .safetensors.", show_default=False)],
    base_model: Annotated[str, typer.Option("--base-model", "-b", help="Id or name.")],
    name: Annotated[str, typer.Option(help="Default: the file's.")] = "",
    trigger_word: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    license: Annotated[str, typer.Option(help="An SPDX identifier, or its name.")] = "",
    json: JsonOption = False,
) -> None:
    """Take in a LoRA (of diffusers or of kohya's scripts) or a whole checkpoint that was made elsewhere."""
    with session_of(context).client() as client:
        made = client.models.import_weights(
            file, client.models.get(base_model), name=name, trigger_words=trigger_word or (), license=license
        )
    _registered(made, json)


@app.command()
def register(
    context: typer.Context,
    repository: Annotated[str, typer.Argument(help="For example lllyasviel/sd-controlnet-canny.", show_default=False)],
    revision: Annotated[str, typer.Option(help="The commit, 40 digits.")],
    type: Annotated[str, typer.Option(help="base_model or controlnet.")] = "base_model",
    family: Annotated[str, typer.Option(help="An unknown one lists the known.")] = "stable_diffusion",
    category: Annotated[str, typer.Option(help="image or video.")] = "image",
    name: Annotated[str, typer.Option(help="Default: the repository's.")] = "",
    json: JsonOption = False,
) -> None:
    """Make a model of a diffusers folder on a hub: a base model, or a ControlNet. It is fetched at its first use."""
    with session_of(context).client() as client:
        made = client.models.register_hub(repository, revision, name=name, type=type, family=family, category=category)
    _registered(made, json)


@app.command()
def push(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Id or name.", show_default=False)],
    repository: Annotated[str, typer.Argument(help="For example someone/ink-style.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="If the repository is made.")] = False,
    message: Annotated[str, typer.Option("--message", "-m", help="The commit's.")] = "",
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Put a model with its card into a repository of a hub."""
    with session_of(context).client() as client:
        wanted = client.models.get(model)
        pushed = client.models.push(wanted, repository, token=token, private=private, commit_message=message)
    if json:
        print_json(pushed)
    else:
        out.print(f"{pushed.url} at {pushed.commit[:8]}", markup=False)


@app.command()
def pull(
    context: typer.Context,
    repository: Annotated[str, typer.Argument(help="For example someone/ink-style.", show_default=False)],
    base_model: Annotated[str, typer.Option("--base-model", "-b", help="Id or name.")],
    file: Annotated[str, typer.Option(help="Default: the only .safetensors of the top folder.")] = "",
    revision: Annotated[str, typer.Option(help="A branch, tag or commit.")] = "main",
    name: Annotated[str, typer.Option(help="Default: the repository's.")] = "",
    trigger_word: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    token: TokenOption = "",
    json: JsonOption = False,
) -> None:
    """Take a LoRA or a checkpoint out of a repository of a hub."""
    with session_of(context).client() as client:
        made = client.models.pull(
            repository,
            client.models.get(base_model),
            filename=file,
            revision=revision,
            name=name,
            trigger_words=trigger_word or (),
            token=token,
        ).model
    _registered(made, json)


@app.command()
def loaded(context: typer.Context, json: JsonOption = False) -> None:
    """The models in memory, with the LoRAs on each."""
    with session_of(context).client() as client:
        found = client.generations.loaded()
    if json:
        print_json(list(found))
        return
    rows = (
        (
            each.model_id,
            each.name,
            bytes_text(each.memory_bytes),
            ", ".join(map(str, each.lora_model_ids)),
            each.num_drawing or "",
            f"{each.idle_millis / 1000:.0f} s" if not each.num_drawing else "",
        )
        for each in found
    )
    print_table(["ID", "NAME", "MEMORY", "LORAS", "DRAWING", "IDLE"], rows, empty="No model is in memory.")


@app.command()
def load(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Id or name.", show_default=False)],
    json: JsonOption = False,
) -> None:
    """Bring a model into memory before somebody waits for it."""
    with session_of(context).client() as client:
        found = client.generations.load(model)
    if json:
        print_json(found)
    else:
        out.print(f"Model {found.model_id} {found.name!r} is in memory: {bytes_text(found.memory_bytes)}", markup=False)


@app.command()
def unload(
    context: typer.Context, model: Annotated[str, typer.Argument(help="Id or name.", show_default=False)]
) -> None:
    """Take a model out of memory."""
    with session_of(context).client() as client:
        client.generations.unload(model)
    out.print(f"Model {model} is not in memory.", markup=False)


def _registered(made: Model, as_json: bool) -> None:
    if as_json:
        print_json(made)
    else:
        out.print(f"Model {made.id} {made.name!r} is registered.", markup=False)


def _type(model: Model) -> str:
    return short_name(ModelType.DESCRIPTOR, model.type)


def _category(model: Model) -> str:
    return short_name(ModelCategory.DESCRIPTOR, model.category)


def _weights(model: Model) -> str:
    if model.WhichOneof("weights") == "hub":
        return f"{model.hub.repo_id}@{model.hub.revision[:8]} on the hub, fetched at first use"
    count = len(model.stored.files)
    return f"{bytes_text(model.size_bytes)} in {count} file{'s' if count > 1 else ''}"
