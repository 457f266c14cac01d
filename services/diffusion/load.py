"""A pipeline's components out of diffusers folders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.errors import FailedPrecondition
from services.diffusion.families import get_family
from services.diffusion.families.family import Family, Part
from services.diffusion.weights import WeightsUnavailable

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Components:
    """A loaded pipeline, taken apart. Modules are in eval mode, without gradients."""

    family: Family
    tokenizer: Any  # CLIPTokenizer
    # Any, since mypy cannot see through the decorators and metaclasses of these classes.
    text_encoder: Any  # CLIPTextModel
    vae: Any  # AutoencoderKL
    unet: Any  # UNet2DConditionModel
    scheduler_class: str  # the diffusers class that the model was published with
    scheduler_config: Mapping[str, Any]
    size_multiple: int  # pixels: sides that are multiples of it never meet an odd latent
    native_size: int  # pixels a side
    vae_factor: int  # pixels a latent, along a side

    @property
    def device(self) -> "torch.device":
        device: torch.device = self.unet.device
        return device

    @property
    def dtype(self) -> "torch.dtype":
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def memory_bytes(self) -> int:
        """Bytes of all parameters and buffers."""
        modules = (self.text_encoder, self.vae, self.unet)
        tensors = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def load_components(
    folders: Sequence[Path], *, family: str, device: "str | torch.device", dtype: "torch.dtype"
) -> Components:
    """The components of a pipeline, each whole from the nearest folder that has it.

    `folders` are diffusers folders, nearest first: a fine-tuned model's holds what changed, and its base's the rest.
    Raises WeightsUnavailable naming the file that is missing or damaged, and FailedPrecondition for another family.
    """
    described = get_family(family)
    homes = {part.name: _find_part(part, folders) for part in described.parts}
    _quieten()
    loaded = {
        part.name: _load_part(part, homes[part.name], dtype).to(device).eval().requires_grad_(False)
        for part in described.parts
        if part.weights
    }
    unet, vae = loaded["unet"], loaded["vae"]
    if unet.config.time_cond_proj_dim is not None or unet.config.in_channels != vae.config.latent_channels:
        message = (
            "the denoiser takes more than latents and text (a distilled or an inpainting model), which is not supported"
        )
        raise FailedPrecondition(message, reason="FAMILY_UNSUPPORTED")
    scheduler_class, scheduler_config = _load_scheduler(described, homes["scheduler"])
    size = _size(unet.config, vae.config)
    return Components(
        family=described,
        tokenizer=_load_tokenizer(homes["tokenizer"]),
        text_encoder=loaded["text_encoder"],
        vae=vae,
        unet=unet,
        scheduler_class=scheduler_class,
        scheduler_config=scheduler_config,
        size_multiple=size.multiple,
        native_size=size.native,
        vae_factor=size.vae_factor,
    )


@dataclass(frozen=True)
class Size:
    """Which sizes a model draws, in pixels."""

    multiple: int
    native: int
    vae_factor: int


def read_size(folders: Sequence[Path], *, family: str) -> Size:
    """What `Components` would say of sizes, out of the small config files alone: no torch, a millisecond.

    Raises WeightsUnavailable naming the file that is missing, weights included.
    """
    homes = {part.name: _find_part(part, folders) for part in get_family(family).parts}
    try:
        unet, vae = (json.loads((homes[name] / "config.json").read_text(encoding="utf-8")) for name in ("unet", "vae"))
        return _size(unet, vae)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsUnavailable(f"the model's config.json cannot be read: {error}") from error


def _size(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> Size:
    """Every level but the last halves the sides, in the VAE and in the UNet."""
    vae_factor = 2 ** (len(vae["block_out_channels"]) - 1)
    sample_size = unet["sample_size"]
    side = sample_size if isinstance(sample_size, int) else sample_size[0]
    multiple = vae_factor * 2 ** (len(unet["down_block_types"]) - 1)
    return Size(multiple, side * vae_factor, vae_factor)


def _find_part(part: Part, folders: Sequence[Path]) -> Path:
    """The nearest folder's `part`; raises WeightsUnavailable when it is nowhere, or not whole where it is."""
    for folder in folders:
        home = folder / part.name
        if home.is_dir():
            whole = part.instead is not None and (home / part.instead).is_file()
            for name in () if whole else part.files:
                if not (home / name).is_file():
                    raise WeightsUnavailable(f"the file {part.name}/{name} of the model is missing")
            if part.weights and _variant(home, part.weights) is None:
                raise WeightsUnavailable(f"the weights file {part.name}/{part.weights} of the model is missing")
            return home
    wanted = part.weights or part.files[0]
    raise WeightsUnavailable(f"neither the model nor its base has the file {part.name}/{wanted}")


def _variant(home: Path, weights: str) -> dict[str, str] | None:
    """What tells `from_pretrained` the file: `model.safetensors`, its shards, or `model.fp16.safetensors`."""
    stem = weights.removesuffix(".safetensors")
    if (home / weights).is_file() or (home / f"{weights}.index.json").is_file():
        return {}
    if (home / f"{stem}.fp16.safetensors").is_file():
        return {"variant": "fp16"}
    return None


def _load_part(part: Part, home: Path, dtype: "torch.dtype") -> Any:
    import diffusers
    import transformers
    from safetensors import SafetensorError

    libraries = {"diffusers": diffusers, "transformers": transformers}
    kind = getattr(libraries[part.library], part.class_name)
    assert part.weights is not None
    precision = {"torch_dtype": dtype} if part.library == "diffusers" else {"dtype": dtype}
    try:
        module, info = kind.from_pretrained(
            home,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **precision,
            **(_variant(home, part.weights) or {}),
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsUnavailable(f"{part.name}/{part.weights} cannot be read: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise WeightsUnavailable(f"{part.name}/{part.weights} lacks {len(missing)} tensors, the first is {missing[0]}")
    return module


def _load_tokenizer(home: Path) -> Any:
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(home, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsUnavailable(f"tokenizer/vocab.json cannot be read: {error}") from error


def _load_scheduler(family: Family, home: Path) -> tuple[str, dict[str, Any]]:
    """The class and the whole config, defaults filled in by that class as diffusers does."""
    import diffusers

    try:
        saved = json.loads((home / "scheduler_config.json").read_text(encoding="utf-8"))
        kind = getattr(diffusers, saved["_class_name"])
        if not issubclass(kind, diffusers.SchedulerMixin):
            raise TypeError(f"{saved['_class_name']} is not a scheduler")
        config = kind.from_config(family.fix_scheduler_config(saved)).config
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsUnavailable(f"scheduler/scheduler_config.json cannot be read: {error}") from error
    return kind.__name__, dict(config)


def _quieten() -> None:
    """Loading bars of the libraries have no place in a service's log."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
