"""`atelier models ...`"""

from typing import Annotated

import typer
from atelier.catalog.v1.model_pb2 import Model, ModelCategory, ModelFamily, ModelType

from atelier_client.cli.session import (
    JsonOption,
    bytes_text,
    print_fields,
    print_json,
    print_table,
    session_of,
    time_text,
)
from atelier_client.plain import short_name, to_plain

app = typer.Typer(no_args_is_help=True, help="Base models, and what training made of them.")


@app.command("list")
def list_(
    context: typer.Context,
    category: Annotated[str, typer.Option(help="image or video.")] = "",
    type: Annotated[str, typer.Option(help="base_model, lora, dreambooth or full.")] = "",
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


def _type(model: Model) -> str:
    return short_name(ModelType.DESCRIPTOR, model.type)


def _category(model: Model) -> str:
    return short_name(ModelCategory.DESCRIPTOR, model.category)


def _weights(model: Model) -> str:
    if model.WhichOneof("weights") == "hub":
        return f"{model.hub.repo_id}@{model.hub.revision[:8]} on the hub, fetched at first use"
    count = len(model.stored.files)
    return f"{bytes_text(model.size_bytes)} in {count} file{'s' if count > 1 else ''}"
