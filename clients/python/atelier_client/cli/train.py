"""`atelier train`"""

from datetime import timedelta
from typing import Annotated, Any

import typer
from atelier.trainer.v1.trainer_service_pb2 import EstimateTrainingJobResponse
from atelier.trainer.v1.training_pb2 import Device

from atelier_client.cli.session import JsonOption, out, print_fields, print_json, session_of
from atelier_client.cli.watching import watch_or_leave
from atelier_client.errors import InvalidArgument
from atelier_client.plain import short_name

BASIC, LORA, DREAMBOOTH, ADVANCED, OUTPUT = "Basic", "LoRA", "DreamBooth", "Advanced", "Samples and checkpoints"
TECHNIQUES, VALIDATION, VIDEO = "Techniques", "Validation", "Clips, of models that draw them"


def train(
    context: typer.Context,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Id or name.", rich_help_panel=BASIC)],
    base_model: Annotated[str, typer.Option("--base-model", "-b", help="Id or name.", rich_help_panel=BASIC)],
    method: Annotated[str, typer.Option(help="lora, dreambooth or full.", rich_help_panel=BASIC)] = "lora",
    output_name: Annotated[
        str,
        typer.Option("--output-name", "--name", help="Default: Trained- and 8 characters.", rich_help_panel=BASIC),
    ] = "",
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", "--lr", help="Default: 0.0001; 1 with prodigy.", rich_help_panel=BASIC),
    ] = None,
    batch_size: Annotated[int, typer.Option(rich_help_panel=BASIC)] = 4,
    epochs: Annotated[int, typer.Option(help="Passes over the dataset.", rich_help_panel=BASIC)] = 10,
    max_steps: Annotated[int | None, typer.Option(help="Decides instead of --epochs.", rich_help_panel=BASIC)] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay and show progress.", rich_help_panel=BASIC)
    ] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Queue it at once.", rich_help_panel=BASIC)] = True,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Measure what it would take, and make no job.", rich_help_panel=BASIC)
    ] = False,
    json: JsonOption = False,
    rank: Annotated[int, typer.Option(help="4 to 8 suits most.", rich_help_panel=LORA)] = 4,
    alpha: Annotated[float | None, typer.Option(help="Default: the rank.", rich_help_panel=LORA)] = None,
    dropout: Annotated[float | None, typer.Option(rich_help_panel=LORA)] = None,
    target_module: Annotated[
        list[str] | None,
        typer.Option(help="Module of the denoiser; repeatable. Default: its attention.", rich_help_panel=LORA),
    ] = None,
    rslora: Annotated[
        bool, typer.Option("--rslora", help="Scale by the root of the rank.", rich_help_panel=LORA)
    ] = False,
    dora: Annotated[
        bool, typer.Option("--dora", help="Learn directions and magnitudes apart.", rich_help_panel=LORA)
    ] = False,
    lora_plus: Annotated[
        float | None, typer.Option(help="LoRA+: B learns so many times faster; try 16.", rich_help_panel=LORA)
    ] = None,
    instance_prompt: Annotated[str, typer.Option(help='"a photo of sks dog"', rich_help_panel=DREAMBOOTH)] = "",
    class_prompt: Annotated[str, typer.Option(help='"a photo of a dog"', rich_help_panel=DREAMBOOTH)] = "",
    prior_preservation: Annotated[
        bool, typer.Option("--prior-preservation", help="Do not forget the class.", rich_help_panel=DREAMBOOTH)
    ] = False,
    prior_loss_weight: Annotated[float | None, typer.Option(rich_help_panel=DREAMBOOTH)] = None,
    class_images: Annotated[int | None, typer.Option(rich_help_panel=DREAMBOOTH)] = None,
    class_dataset: Annotated[
        str | None,
        typer.Option(help="The class's pictures are this dataset's: id or name.", rich_help_panel=DREAMBOOTH),
    ] = None,
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
    optimizer: Annotated[
        str | None, typer.Option(help="adamw, adamw_8bit, prodigy or adafactor.", rich_help_panel=TECHNIQUES)
    ] = None,
    ema_decay: Annotated[
        float | None, typer.Option(help="Average the weights; try 0.999.", rich_help_panel=TECHNIQUES)
    ] = None,
    prediction_type: Annotated[
        str | None, typer.Option(help="epsilon or v_prediction; --method full.", rich_help_panel=TECHNIQUES)
    ] = None,
    zero_terminal_snr: Annotated[
        bool, typer.Option("--zero-terminal-snr", help="With v_prediction.", rich_help_panel=TECHNIQUES)
    ] = False,
    shuffle_tags: Annotated[
        bool, typer.Option("--shuffle-tags", help="Of captions with commas.", rich_help_panel=TECHNIQUES)
    ] = False,
    keep_tags: Annotated[int | None, typer.Option(help="So many stay in front.", rich_help_panel=TECHNIQUES)] = None,
    aspect_buckets: Annotated[
        bool, typer.Option("--aspect-buckets", help="Keep the pictures' shapes.", rich_help_panel=TECHNIQUES)
    ] = False,
    masked_loss: Annotated[
        bool,
        typer.Option(
            "--masked-loss",
            help="Learn what the masks leave, and nothing of transparent parts.",
            rich_help_panel=TECHNIQUES,
        ),
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Slow to start, faster steps on a GPU.", rich_help_panel=TECHNIQUES)
    ] = False,
    share_device: Annotated[
        bool, typer.Option("--share-device", help="Stand still while the generator draws.", rich_help_panel=ADVANCED)
    ] = False,
    validation_share: Annotated[
        float | None, typer.Option(help="Hold out so many pictures, e.g. 0.1.", rich_help_panel=VALIDATION)
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option(help="Steps. Default: once an epoch.", rich_help_panel=VALIDATION)
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many no better measurements.", rich_help_panel=VALIDATION)
    ] = None,
    use_best: Annotated[
        bool, typer.Option("--use-best", help="The model is the best checkpoint.", rich_help_panel=VALIDATION)
    ] = False,
    frames: Annotated[
        int | None, typer.Option(help="Of a clip, learnt together. Default: 14.", rich_help_panel=VIDEO)
    ] = None,
    fps: Annotated[
        int | None, typer.Option(help="Frames a second that are taken. Default: 7.", rich_help_panel=VIDEO)
    ] = None,
    motion: Annotated[
        int | None, typer.Option(help="How much moves, 0 to 255. Default: 127.", rich_help_panel=VIDEO)
    ] = None,
    noise_augmentation: Annotated[
        float | None, typer.Option(help="On the first frame. Default: 0.02.", rich_help_panel=VIDEO)
    ] = None,
    sample_clips: Annotated[
        int | None, typer.Option(help="Draw so many from their first frame.", rich_help_panel=VIDEO)
    ] = None,
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
        "optimizer": optimizer,
        "ema_decay": ema_decay,
        "prediction_type": prediction_type,
        "zero_terminal_snr": zero_terminal_snr or None,
        "caption_shuffle": shuffle_tags or None,
        "caption_keep_tags": keep_tags,
        "aspect_buckets": aspect_buckets or None,
        "masked_loss": masked_loss or None,
        "compile": compile_ or None,
        "share_device": share_device or None,
        "validation": {
            "share": validation_share,
            "interval_steps": validate_every,
            "patience": patience,
            "use_best": use_best or None,
        },
        "lora": {
            "rank": rank,
            "alpha": alpha,
            "dropout": dropout,
            "target_modules": target_module,
            "rslora": rslora or None,
            "dora": dora or None,
            "plus_ratio": lora_plus,
        },
        "dreambooth": {
            "instance_prompt": instance_prompt,
            "class_prompt": class_prompt,
            "prior_preservation": prior_preservation or class_dataset is not None or None,
            "prior_loss_weight": prior_loss_weight,
            "num_class_images": class_images,
            "full": full_weights or None,
        },
        "video": {
            "num_frames": frames,
            "frames_per_second": fps,
            "motion_bucket_id": motion,
            "noise_augmentation": noise_augmentation,
        },
        "samples": {"prompts": sample, "interval_steps": sample_every, "clips": sample_clips},
        "checkpoints": {"interval_steps": checkpoint_every, "keep": keep_checkpoints},
    }
    with session_of(context).client() as client:
        if class_dataset is not None:
            config["dreambooth"]["class_dataset_id"] = client.datasets.id_of(class_dataset)
        if estimate:
            _print_estimate(client.training.estimate(dataset, base_model, method=method, config=config), json)
            return
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


def _print_estimate(found: EstimateTrainingJobResponse, json: bool) -> None:
    if json:
        print_json(found)
        return
    device = short_name(Device.DESCRIPTOR, found.device)
    step, whole = found.step_millis / 1000, timedelta(seconds=round(found.duration_millis / 1000))
    print_fields(
        [
            ("steps", f"{found.total_steps} in {found.total_epochs} epochs of {found.num_images} images"),
            ("parameters", f"{found.trained_parameters:,} are trained"),
            ("memory", f"{found.memory_bytes / 1e9:.2f} GB of {found.memory_total_bytes / 1e9:.1f} GB on {device}"),
            ("time", f"{whole}, {step:.2f} s a step"),
            ("disk", f"{found.disk_bytes / 1e9:.3f} GB; {found.disk_free_bytes / 1e9:.1f} GB are free"),
        ]
    )
