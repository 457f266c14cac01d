"""What each training method teaches, under which captions, and the weights it leaves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.errors import InvalidArgument
from services.diffusion.adapters import add_lora, save_lora
from services.diffusion.compiling import compile_blocks
from services.diffusion.families.family import Family
from services.diffusion.load import Components
from services.diffusion.schedulers import make_scheduler
from services.trainer.domain import LoraConfig, Method, Prediction, TrainingConfig
from services.trainer.worker.cache import lines_of
from services.trainer.worker.optimizers import NAMES as OPTIMIZERS
from services.trainer.worker.seeds import derive_seed

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Trainee:
    """A loaded model of which `parameters` learn and everything else is frozen."""

    components: Components
    device: "torch.device"  # the denoiser's; asking it would walk all its modules, milliseconds a step
    parameters: "list[torch.nn.Parameter]"
    is_lora: bool
    trains_text_encoder: bool
    has_own_schedule: bool = False
    """It learns under another noise schedule or prediction than its base's, and has to be drawn with that."""

    @property
    def learning(self) -> "dict[str, torch.nn.Module]":
        """The parts that learn or have layers that do, by their names in the pipeline."""
        adaptable = self.components.adaptable
        return adaptable if self.trains_text_encoder else {name: adaptable[name] for name in list(adaptable)[:1]}

    def groups(self, config: TrainingConfig) -> "list[tuple[list[torch.nn.Parameter], float]]":
        """The parameters by how fast they learn, as ratios to the job's learning rate: LoRA+ (Hayou et al. 2024) has
        the B matrices learn faster."""
        ratio = config.lora.plus_ratio if self.is_lora and config.lora else 1.0
        if ratio == 1:
            return [(self.parameters, 1.0)]
        models = self.components.adaptable.values()
        faster = {id(each) for model in models for name, each in model.named_parameters() if ".lora_B." in name}
        slow = [each for each in self.parameters if id(each) not in faster]
        return [(slow, 1.0), ([each for each in self.parameters if id(each) in faster], ratio)]

    def set_mode(self, *, training: bool) -> None:
        """Dropout and gradient checkpointing act in training mode alone."""
        for model in self.learning.values():
            model.train(training)


def trains_every_weight(method: Method, config: TrainingConfig) -> bool:
    """True where the denoiser itself learns, False where a LoRA does."""
    return method is Method.FULL or (
        method is Method.DREAMBOOTH and config.dreambooth is not None and config.dreambooth.full
    )


def captions_for(method: Method, config: TrainingConfig, captions: Sequence[str]) -> list[str]:
    """What stands beside each picture: its caption, or DreamBooth's instance prompt for all; after the trigger word
    and a comma, unless it holds the word already. Raises InvalidArgument when DreamBooth has no instance prompt."""
    if method is Method.DREAMBOOTH:
        if config.dreambooth is None or not config.dreambooth.instance_prompt:
            raise InvalidArgument(
                "DreamBooth wants a prompt for its pictures", field="config.dreambooth.instance_prompt"
            )
        captions = [config.dreambooth.instance_prompt] * len(captions)
    word = config.trigger_word
    return ["\n".join(_with_trigger(word, line) for line in lines_of(caption)) for caption in captions]


def _with_trigger(word: str, caption: str) -> str:
    if not word or word in caption:
        return caption
    return f"{word}, {caption}" if caption else word


def make_trainee(components: Components, method: Method, config: TrainingConfig, *, frozen: "torch.dtype") -> Trainee:
    """Makes the parameters that `method` trains learn, in float32, and keeps the rest as `frozen`; alters `components`.

    A LoRA's first values come from `config.seed`. Raises InvalidArgument when a target module is not in the denoiser,
    or when the model cannot be trained under the schedule that is asked for.
    """
    import torch

    if config.seed is None:
        raise ValueError("training wants a seed")
    published = components.scheduler_config
    components = with_schedule(components, config)
    denoiser, text_encoders, device = components.denoiser, components.text_encoders, components.device
    trains_text = config.train_text_encoder
    idle = [module for name, module in components.modules.items() if name not in (*components.adaptable, "vae")]
    _keep_as(frozen, *idle)
    if trains_every_weight(method, config):
        denoiser.requires_grad_(True)
        for each in text_encoders:
            each.requires_grad_(trains_text)
        if not trains_text:
            _keep_as(frozen, *text_encoders)
        learning = components.adaptable.values()
        parameters = [each for model in learning for each in model.parameters() if each.requires_grad]
        other = components.scheduler_config is not published
        trainee = Trainee(components, device, parameters, False, trains_text, has_own_schedule=other)
    else:
        _keep_as(frozen, *components.adaptable.values())
        lora = config.lora or LoraConfig()
        with torch.random.fork_rng():  # the layers draw from the global generator
            torch.manual_seed(derive_seed(config.seed, "lora"))
            parameters = add_lora(
                denoiser,
                rank=lora.rank,
                alpha=lora.alpha,
                dropout=lora.dropout,
                target_modules=lora.target_modules,
                rslora=lora.rslora,
                dora=lora.dora,
                text_encoders=text_encoders if trains_text else (),
                family=components.family.name,
            )
        trainee = Trainee(components, device, parameters, is_lora=True, trains_text_encoder=trains_text)
    if config.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
        for each in text_encoders if trains_text else ():
            each.gradient_checkpointing_enable()
    if config.compile:
        compile_blocks(denoiser)
    return trainee


def with_schedule(components: Components, config: TrainingConfig) -> Components:
    """The same models under the prediction and the schedule's end that the job asks for; as they are where it asks for
    nothing else than they have. Raises InvalidArgument for zero terminal SNR without v-prediction."""
    if not components.family.has_noise_schedule:
        return components
    known = components.scheduler_config
    prediction = known.get("prediction_type", "epsilon")
    if config.prediction_type is not Prediction.MODEL:
        prediction = config.prediction_type.value
    changes: dict[str, object] = {}
    if config.prediction_type is not Prediction.MODEL:
        changes["prediction_type"] = prediction
    scheduler_class = components.scheduler_class
    if config.zero_terminal_snr:
        if prediction == "epsilon":
            rule = "needs v-prediction, and this base model predicts epsilon: choose the prediction type v_prediction"
            raise InvalidArgument(rule, field="config.zero_terminal_snr")
        # Lin et al. 2024: rescaled betas, and drawing has to begin at the last timestep.
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        scheduler_class = "DDIMScheduler"
    if all(known.get(name) == value for name, value in changes.items()):
        return components
    return replace(components, scheduler_class=scheduler_class, scheduler_config={**known, **changes})


def _keep_as(dtype: "torch.dtype", *models: "torch.nn.Module") -> None:
    for model in models:
        if model.dtype != dtype:
            model.to(dtype)


def training_record(
    method: Method,
    config: TrainingConfig,
    *,
    job_id: str,
    base_name: str,
    base_digest: str,
    family: Family,
    snapshot_digest: str,
    num_images: int,
    resolution: int,
    step: int,
    epoch: int,
) -> dict[str, str]:
    """How the weights came to be, for a safetensors header: the names that other tools read, and ours. No times in
    it, so that the same training gives the same bytes."""
    record = {
        "atelier_job_id": job_id,
        "atelier_method": method.value,
        "atelier_snapshot_digest": snapshot_digest,
        "ss_base_model_version": family.kohya_version,
        "ss_sd_model_name": base_name,
        "ss_sd_model_hash": base_digest,
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_seed": str(config.seed),
        "ss_steps": str(step),
        "ss_epoch": str(epoch),
        "ss_num_train_images": str(num_images),
        "ss_learning_rate": repr(config.learning_rate),
        "ss_optimizer": OPTIMIZERS[config.optimizer],
        "ss_min_snr_gamma": repr(config.snr_gamma),
    }
    if not trains_every_weight(method, config):
        lora = config.lora or LoraConfig()
        record |= {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(lora.rank),
            "ss_network_alpha": str(lora.rank if lora.alpha is None else lora.alpha),
            "ss_network_args": json.dumps({"target_modules": list(lora.target_modules)}),
        }
    if config.noise_offset:
        record["ss_noise_offset"] = repr(config.noise_offset)
    if config.ema_decay:
        record["atelier_ema_decay"] = repr(config.ema_decay)
    if config.trigger_word:
        record["modelspec.trigger_phrase"] = config.trigger_word
    return record


def save_weights(trainee: Trainee, folder: Path, record: Mapping[str, str]) -> list[Path]:
    """Writes what was trained into an empty `folder`, as the model is registered; gives the files' paths inside it.

    A LoRA is one `pytorch_lora_weights.safetensors` in float32. Fully trained components are diffusers folders in
    float16, half the size and what drawing uses; a tensor that float16 cannot hold stays float32.
    """
    components = trainee.components
    if trainee.is_lora:
        save_lora(folder, metadata=record, **trainee.learning)
    else:
        for name, model in trainee.learning.items():
            save = _save_denoiser if name == components.family.denoiser else _save_text_encoder
            save(model, folder / name, record)
        if trainee.has_own_schedule:
            make_scheduler(components).save_pretrained(folder / "scheduler")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        if path.suffix == ".safetensors":
            sort_header(path)
    return [path.relative_to(folder) for path in paths]


def _save_denoiser(denoiser: "torch.nn.Module", folder: Path, record: Mapping[str, str]) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    denoiser.save_config(folder)  # type: ignore[operator]  # diffusers' ConfigMixin
    tensors = {name: _halved(value) for name, value in denoiser.state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt", **record})


def _save_text_encoder(text_encoder: "torch.nn.Module", folder: Path, record: Mapping[str, str]) -> None:
    """By transformers itself, which knows the names that files have always used; then with the record in the header."""
    import copy

    from safetensors.torch import load_file, save_file

    saved = copy.deepcopy(text_encoder).cpu()
    for parameter in saved.parameters():
        parameter.data = _halved(parameter.data)
    saved.save_pretrained(folder)  # type: ignore[operator]  # transformers' mixin
    file = folder / "model.safetensors"
    save_file(
        {name: value.clone() for name, value in load_file(file).items()}, file, metadata={"format": "pt", **record}
    )


def sort_header(file: Path) -> None:
    """Puts the header's record in order, in place: safetensors writes it in a random one, and equal trainings shall
    give equal bytes. The header is its length in 8 bytes, then JSON, which may end in spaces."""
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:  # always, unless a later safetensors escapes less than json does
            stream.seek(8)
            stream.write(text.ljust(length))


def _halved(value: "torch.Tensor") -> "torch.Tensor":
    """On the CPU, in float16 unless it is no float or does not fit."""
    import torch

    value = value.detach().contiguous().cpu()
    half = value.half() if value.is_floating_point() else value
    return half if bool(torch.isfinite(half).all()) or not bool(torch.isfinite(value).all()) else value
