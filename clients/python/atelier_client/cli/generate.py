"""`atelier generate` and `atelier grid`"""

from typing import Annotated

import typer

from atelier_client.cli.drawing import Asked, asking, draw_and_save
from atelier_client.cli.session import session_of


@asking
def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="Id or name.")],
    asked: Asked,
    seed: Annotated[int | None, typer.Option(help="Default: the server chooses, and says which.")] = None,
    count: Annotated[int | None, typer.Option("--count", "-c", help="Pictures. Default: 1.")] = None,
    lora_weight: Annotated[float | None, typer.Option(help="How strongly a LoRA model applies. Default: 1.")] = None,
) -> None:
    """Draw pictures or clips. Ctrl-C cancels."""
    with session_of(context).client() as client:
        options = asked.options()
        options["seed"], options["count"], options["lora_weight"] = seed, count, lora_weight
        draw_and_save(client, client.generations.settings(prompt, model, **options), asked)


@asking
def grid(
    context: typer.Context,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", show_default=False)],
    model: Annotated[list[str], typer.Option("--model", "-m", help="Id or name; repeatable: a column each.")],
    asked: Asked,
    weight: Annotated[
        list[float] | None, typer.Option("--weight", "-w", help="Of models that are LoRAs; repeatable.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", "-s", help="Repeatable: a row each.")] = None,
) -> None:
    """Draw every combination of prompts, models, weights and seeds, and one labelled sheet of them. Ctrl-C cancels."""
    with session_of(context).client() as client:
        settings = client.generations.grid_settings(
            prompts, model, weights=weight or (), seeds=seed or (), **asked.options()
        )
        draw_and_save(client, settings, asked)
