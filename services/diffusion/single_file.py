"""Whole checkpoints as one file, in their authors' layout, unfolded once into a diffusers folder.

diffusers' own converters know the layouts. What a folder has beside the weights is taken from the model that the
checkpoint names as its base: the configurations here, tokenizers and schedulers where components are looked for.
"""

import fcntl
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

from services.diffusion.weights import WeightsUnavailable

if TYPE_CHECKING:
    import torch

    Tensors: TypeAlias = dict[str, torch.Tensor]

CHECKPOINT_FILE = "model.safetensors"
UNFOLDED = "unfolded"
OURS, THEIRS = "diffusion_pytorch_model.safetensors", "model.safetensors"  # diffusers' parts, transformers' parts


def is_folded(folder: Path) -> bool:
    """Whether a model's folder holds a checkpoint as one file, and is no diffusers folder."""
    return (folder / CHECKPOINT_FILE).is_file() and not (folder / "model_index.json").exists()


def unfolded(folders: Sequence[Path], *, make: bool = True) -> list[Path] | None:
    """The folders of a chain of models, nearest first, with the diffusers folder of each checkpoint in its place.

    It is made beside the checkpoint once, aside and renamed, and takes as much disk as the checkpoint. Without `make`,
    None where one is still to be made. Raises WeightsUnavailable for a checkpoint that is damaged or does not fit what
    its base says of it.
    """
    found: list[Path] = []
    for folder in reversed(folders):
        if not is_folded(folder):
            found.insert(0, folder)
            continue
        target = folder.with_name(f"{folder.name}-{UNFOLDED}-{_name(found)}")
        if not target.is_dir():
            if not make:
                return None
            _make(folder / CHECKPOINT_FILE, found, target)
        found.insert(0, target)
    return found


def _name(bases: Sequence[Path]) -> str:
    """Of the configurations that a checkpoint is read with: another base is another folder."""
    return bases[0].name[:16] if bases else "alone"


def _make(checkpoint: Path, bases: Sequence[Path], target: Path) -> None:
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may want it; one makes it
        if target.is_dir():
            return
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unfolding-"))
        try:
            _unfold(checkpoint, bases, aside)
            aside.replace(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _unfold(checkpoint: Path, bases: Sequence[Path], folder: Path) -> None:
    """Writes each component that the checkpoint has, one in memory at a time; what it lacks is the base's."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    try:
        with safe_open(checkpoint, framework="pt") as file:
            names = list(file.keys())
            for part, prefix, convert, weights in _parts(names):
                tensors = {name: file.get_tensor(name) for name in names if name.startswith(prefix)}
                config = _config(bases, part)
                converted = convert(tensors, config)
                home = folder / part
                home.mkdir()
                shutil.copyfile(_home(bases, part) / "config.json", home / "config.json")
                whole = {name: value.contiguous() for name, value in converted.items()}
                save_file(whole, home / weights, metadata={"format": "pt"})
    except (SafetensorError, OSError, KeyError, ValueError, IndexError, RuntimeError, TypeError) as error:
        raise WeightsUnavailable(f"the checkpoint cannot be taken apart: {error}") from error


Convert: TypeAlias = Callable[["Tensors", Mapping[str, Any]], "Tensors"]


def _parts(names: Sequence[str]) -> list[tuple[str, str, Convert, str]]:
    """(component's folder, prefix of its tensors' names, converter, file) of what a checkpoint holds."""
    known: list[tuple[str, str, Convert, str]] = [
        ("vae", "first_stage_model.", _vae, OURS),
        ("text_encoder", "cond_stage_model.transformer.", _after("cond_stage_model.transformer."), THEIRS),
        ("text_encoder", "cond_stage_model.model.", _open_clip("cond_stage_model.model."), THEIRS),
        (
            "text_encoder",
            "conditioner.embedders.0.transformer.",
            _after("conditioner.embedders.0.transformer."),
            THEIRS,
        ),
        ("text_encoder_2", "conditioner.embedders.1.model.", _open_clip("conditioner.embedders.1.model."), THEIRS),
        ("text_encoder", "text_encoders.clip_l.transformer.", _sd3_clip_l, THEIRS),
        (
            "text_encoder_2",
            "text_encoders.clip_g.transformer.",
            _after("text_encoders.clip_g.transformer."),
            THEIRS,
        ),
        ("text_encoder_3", "text_encoders.t5xxl.transformer.", _after("text_encoders.t5xxl.transformer."), THEIRS),
    ]
    is_joint = any(name.removeprefix("model.diffusion_model.").startswith("joint_blocks.") for name in names)
    if is_joint:
        bare = any(name.startswith("joint_blocks.") for name in names)
        known.append(("transformer", "" if bare else "model.diffusion_model.", _joint, OURS))
    else:
        known.append(("unet", "model.diffusion_model.", _unet, OURS))
    return [each for each in known if any(name.startswith(each[1]) for name in names)]


def _unet(tensors: "Tensors", config: Mapping[str, Any]) -> "Tensors":
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    converted: Tensors = convert_ldm_unet_checkpoint(tensors, config)
    return converted


def _joint(tensors: "Tensors", config: Mapping[str, Any]) -> "Tensors":
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    converted: Tensors = convert_sd3_transformer_checkpoint_to_diffusers(tensors)
    return converted


def _vae(tensors: "Tensors", config: Mapping[str, Any]) -> "Tensors":
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    converted: Tensors = convert_ldm_vae_checkpoint(tensors, config)
    return converted


def _after(prefix: str) -> Convert:
    """These are named as transformers names them, behind a prefix."""
    return lambda tensors, config: {name.removeprefix(prefix): value for name, value in tensors.items()}


def _open_clip(prefix: str) -> Convert:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    def convert(tensors: "Tensors", config: Mapping[str, Any]) -> "Tensors":
        model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
        converted: Tensors = convert_open_clip_checkpoint(model, tensors, prefix=prefix)
        return converted

    return convert


def _sd3_clip_l(tensors: "Tensors", config: Mapping[str, Any]) -> "Tensors":
    """The file has no projection; diffusers takes it to be the identity."""
    import torch

    converted = _after("text_encoders.clip_l.transformer.")(tensors, config)
    some = converted["text_model.final_layer_norm.weight"]
    return {"text_projection.weight": torch.eye(len(some), dtype=some.dtype), **converted}


def _home(bases: Sequence[Path], part: str) -> Path:
    for base in bases:
        if (base / part / "config.json").is_file():
            return base / part
    raise WeightsUnavailable(f"the checkpoint's base has no {part}/config.json to read the checkpoint by")


def _config(bases: Sequence[Path], part: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((_home(bases, part) / "config.json").read_text(encoding="utf-8"))
    return config
