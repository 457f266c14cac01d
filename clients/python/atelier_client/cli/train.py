"""`atelier train`"""

from typing import Annotated, Any

import typer

from atelier_client.cli.session import JsonOption, out, print_json, session_of
from atelier_client.cli.watching import watch_or_leave
from atelier_client.errors import InvalidArgument

BASIC, LORA, DREAMBOOTH, ADVANCED, OUTPUT = "Basic", "LoRA", "DreamBooth", "Advanced", "Samples and checkpoints"


def train(
    context: typer.Context,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Id or name.", rich_help_panel=BASIC)],
    base_model: Annotated[str, typer.Option("--base-model", "-b", help="Id or name.", rich_help_panel=BASIC)],
    method: Annotated[str, typer.Option(help="lora, dreambooth or full.", rich_help_panel=BASIC)] = "lora",
    output_name: Annotated[
        str,
        typer.Option("--output-name", "--name", help="Default: Trained- and 8 characters.", rich_help_panel=BASIC),
    ] = "",
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr", rich_help_panel=BASIC)] = 1e-4,
    batch_size: Annotated[int, typer.Option(rich_help_panel=BASIC)] = 4,
    epochs: Annotated[int, typer.Option(help="Passes over the dataset.", rich_help_panel=BASIC)] = 10,
    max_steps: Annotated[int | None, typer.Option(help="Decides instead of --epochs.", rich_help_panel=BASIC)] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay and show progress.", rich_help_panel=BASIC)
    ] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Queue it at once.", rich_help_panel=BASIC)] = True,
    json: JsonOption = False,
    rank: Annotated[int, typer.Option(help="4 to 8 suits most.", rich_help_panel=LORA)] = 4,
    alpha: Annotated[float | None, typer.Option(help="Default: the rank.", rich_help_panel=LORA)] = None,
    dropout: Annotated[float | None, typer.Option(rich_help_panel=LORA)] = None,
    target_module: Annotated[
        list[str] | None,
        typer.Option(help="Module of the denoiser; repeatable. Default: its attention.", rich_help_panel=LORA),
    ] = None,
    instance_prompt: Annotated[str, typer.Option(help='"a photo of sks dog"', rich_help_panel=DREAMBOOTH)] = "",
    class_prompt: Annotated[str, typer.Option(help='"a photo of a dog"', rich_help_panel=DREAMBOOTH)] = "",
    prior_preservation: Annotated[
        bool, typer.Option("--prior-preservation", help="Do not forget the class.", rich_help_panel=DREAMBOOTH)
    ] = False,
    prior_loss_weight: Annotated[float | None, typer.Option(rich_help_panel=DREAMBOOTH)] = None,
    class_images: Annotated[int | None, typer.Option(rich_help_panel=DREAMBOOTH)] = None,
    full_weights: Annotated[
        bool, typer.Option("--full-weights", help="Every weight, not a LoRA.", rich_help_panel=DREAMBOOTH)
    ] = False,
    resolution: Annotated[int | None, typer.Option(help="Default: the base model's.", rich_help_panel=ADVANCED)] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the server chooses.", rich_help_panel=ADVANCED)] = None,
    mixed_precision: Annotated[
        str | None, typer.Option(help="no, fp16 or bf16. Default: by device.", rich_help_panel=ADVANCED)
    ] = None,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", rich_help_panel=ADVANCED)] = False,
    gradient_accumulation: Annotated[int | None, typer.Option(rich_help_panel=ADVANCED)] = None,
    weight_decay: Annotated[float | None, typer.Option(rich_help_panel=ADVANCED)] = None,
    max_grad_norm: Annotated[float | None, typer.Option(rich_help_panel=ADVANCED)] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, linear or cosine.", rich_help_panel=ADVANCED)] = None,
    warmup_steps: Annotated[int | None, typer.Option(rich_help_panel=ADVANCED)] = None,
    snr_gamma: Annotated[float | None, typer.Option(help="Min-SNR weighting; try 5.", rich_help_panel=ADVANCED)] = None,
    noise_offset: Annotated[float | None, typer.Option(rich_help_panel=ADVANCED)] = None,
    caption_dropout: Annotated[float | None, typer.Option(rich_help_panel=ADVANCED)] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Mirror half of the pictures.", rich_help_panel=ADVANCED)
    ] = False,
    text_encoder: Annotated[
        bool, typer.Option("--text-encoder", help="Train it too.", rich_help_panel=ADVANCED)
    ] = False,
    trigger_word: Annotated[str, typer.Option(help="Put before every caption.", rich_help_panel=ADVANCED)] = "",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.", rich_help_panel=ADVANCED)] = None,
    sample: Annotated[list[str] | None, typer.Option(help="A prompt; repeatable.", rich_help_panel=OUTPUT)] = None,
    sample_every: Annotated[int | None, typer.Option(help="Steps.", rich_help_panel=OUTPUT)] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps.", rich_help_panel=OUTPUT)] = None,
    keep_checkpoints: Annotated[int | None, typer.Option(rich_help_panel=OUTPUT)] = None,
) -> None:
    """Fine-tune a base model on a dataset."""
    if watch and not start:
        raise InvalidArgument({"--watch": "needs a job that starts; leave --no-start out"})
    config: dict[str, Any] = {
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "epochs": epochs,
        "max_steps": max_steps,
        "resolution": resolution,
        "seed": seed,
        "mixed_precision": mixed_precision,
        "gradient_checkpointing": gradient_checkpointing or None,
        "gradient_accumulation_steps": gradient_accumulation,
        "weight_decay": weight_decay,
        "max_grad_norm": max_grad_norm,
        "schedule": schedule,
        "warmup_steps": warmup_steps,
        "snr_gamma": snr_gamma,
        "noise_offset": noise_offset,
        "caption_dropout": caption_dropout,
        "random_flip": flip or None,
        "train_text_encoder": text_encoder or None,
        "trigger_word": trigger_word,
        "device": device,
        "lora": {"rank": rank, "alpha": alpha, "dropout": dropout, "target_modules": target_module},
        "dreambooth": {
            "instance_prompt": instance_prompt,
            "class_prompt": class_prompt,
            "prior_preservation": prior_preservation or None,
            "prior_loss_weight": prior_loss_weight,
            "num_class_images": class_images,
            "full": full_weights or None,
        },
        "samples": {"prompts": sample, "interval_steps": sample_every},
        "checkpoints": {"interval_steps": checkpoint_every, "keep": keep_checkpoints},
    }
    with session_of(context).client() as client:
        job = client.training.create(
            dataset, base_model, method=method, output_name=output_name, config=config, start=start
        )
        if watch:
            if not json:
                out.print(f"Job {job.id}", markup=False)
            watch_or_leave(client, job.id, as_json=json)
        elif json:
            print_json(job)
        elif start:
            out.print(f"Job {job.id} is queued. Watch it: atelier jobs watch {job.id}", markup=False)
        else:
            out.print(f"Job {job.id} is pending. Start it: atelier jobs start {job.id}", markup=False)
