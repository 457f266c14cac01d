"""What a family of models says about itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

    from services.diffusion.load import Components
    from services.diffusion.objective import Objective

Conditioning: TypeAlias = Mapping[str, "torch.Tensor"]
"""What the denoiser is told beside noisy latents and timestep: tensors by name, one row a picture. `geometry` (B, 6) is
always among them: see `services.diffusion.geometry`."""


@dataclass(frozen=True)
class Part:
    """A component folder of a pipeline: the class that loads it and the files that it cannot do without."""

    name: str
    library: str  # "diffusers" or "transformers"
    class_name: str
    weights: str | None = None  # safetensors file, if it has weights
    files: tuple[str, ...] = ()
    instead: str | None = None  # a file that makes up for all of `files`
    optional: bool = False  # pipelines of the family do without it


@dataclass(frozen=True)
class Size:
    """Which sizes a model draws, in pixels."""

    multiple: int  # of which both sides are multiples
    native: int  # a side
    vae_factor: int  # pixels a latent, along a side


@dataclass(frozen=True)
class Family:
    """How the pipelines of one architecture are taken apart, and what is particular to them. Everything else works on
    all families alike."""

    name: str
    parts: tuple[Part, ...]
    denoiser: str  # the part that is trained
    text_encoders: tuple[str, ...]  # the parts that read words and may be trained with it
    tokenizers: tuple[str, ...]  # of which the first says where a prompt is cut
    lora_targets: tuple[str, ...]  # module names in the denoiser that a LoRA adapts by default
    text_encoder_lora_targets: tuple[str, ...]
    lora_reader: str  # diffusers' class that knows the layouts that LoRAs of this family come in
    kohya_version: str  # `ss_base_model_version`, as kohya's scripts write it
    fix_scheduler_config: Callable[[Mapping[str, Any]], dict[str, Any]]
    size: Callable[[Mapping[str, Any], Mapping[str, Any]], Size]
    """Of the denoiser's and the VAE's config."""
    unsupported: Callable[[Mapping[str, Any], Mapping[str, Any]], str]
    """Of the same: why such a model cannot be used, or nothing."""
    encode_prompts: "Callable[[Components, Sequence[str], bool], Conditioning]"
    """Without the geometry; the last argument says that prompts have weights and any length. Gradients flow where the
    text encoders' parameters ask for them."""
    predict: "Callable[[Components, torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]"
    """The denoiser's answer to noisy latents (B, C, H, W) at timesteps (B,) or ()."""
    objective: "Callable[[Mapping[str, Any]], Objective]"
    """What is learnt, of the scheduler's config."""
    original: "Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]"
    """x_0 of (scheduler, the denoiser's input, its answer, timestep)."""
    encode_frames: "Callable[[Components, torch.Tensor, torch.Tensor], Conditioning] | None" = None
    """Of families that draw clips: of their first frames (B, 3, H, W) in [-1, 1] and noise to lay on them. They read no
    words, their latents are (B, F, C, H, W), and the conditioning wants `motion` (B, 3) too."""
    sampler: str = "euler"
    """What the published scheduler is, for families that draw with no other (without a noise schedule)."""
    takes_controls: bool = False
    """ControlNets steer it: `predict` hands on the entries `control...` of the conditioning."""
    has_noise_schedule: bool = True
    """It is trained on a schedule of discrete steps, which has a signal-to-noise ratio and may be stretched to pure
    noise."""

    @property
    def draws_clips(self) -> bool:
        """Instead of pictures."""
        return self.encode_frames is not None
