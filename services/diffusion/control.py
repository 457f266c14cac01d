"""ControlNets (Zhang et al. 2023): copies of a UNet's first half that are shown a picture, and steer the UNet by it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.errors import FailedPrecondition
from services.diffusion.families import FAMILIES, get_family
from services.diffusion.families.family import Conditioning, Part
from services.diffusion.families.stable_diffusion import CONTROL_DOWN, CONTROL_MID
from services.diffusion.families.stable_diffusion_xl import beside_words
from services.diffusion.load import Components, check_files, load_part
from services.diffusion.weights import WeightsUnavailable

if TYPE_CHECKING:
    import torch

CLASS_NAME = "ControlNetModel"
PART = Part("controlnet", "diffusers", CLASS_NAME, "diffusion_pytorch_model.safetensors", ("config.json",))
FILES = [*PART.files, "diffusion_pytorch_model.safetensors"]
"""Of a folder on a hub, which may hold other precisions and pickles too."""
SHARED = ("in_channels", "cross_attention_dim", "block_out_channels", "down_block_types", "layers_per_block")
"""What a ControlNet's configuration has in common with its UNet's."""


@dataclass(frozen=True)
class Control:
    """A ControlNet and what it is shown. It acts between two shares of the steps."""

    model: Any  # diffusers' ControlNetModel
    images: "torch.Tensor"  # (1, 3, H, W) in [0, 1]
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def weight_at(self, index: int, total: int) -> float:
        """At step `index` of `total`, from 0; as diffusers' `control_guidance_start` and `control_guidance_end`."""
        return 0.0 if index / total < self.start or (index + 1) / total > self.end else self.weight


def load_control(folder: Path, *, family: str, device: "str | torch.device", dtype: "torch.dtype") -> Any:
    """diffusers' ControlNetModel of a folder with its config and safetensors weights; in eval mode, without gradients.

    Raises FailedPrecondition (CONTROL_UNSUPPORTED) for families that take none and for other kinds of control models,
    and WeightsUnavailable naming the file that is missing or damaged.
    """
    if not get_family(family).takes_controls:
        able = ", ".join(sorted(name for name, each in FAMILIES.items() if each.takes_controls))
        message = f"models of the family {family} take no ControlNets; these do: {able}"
        raise FailedPrecondition(message, reason="CONTROL_UNSUPPORTED")
    check_files(PART, folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsUnavailable(f"{PART.name}/config.json cannot be read: {error}") from error
    if kind != CLASS_NAME:
        message = f"a control model of the kind {kind} cannot be loaded by this version; it loads {CLASS_NAME}"
        raise FailedPrecondition(message, reason="CONTROL_UNSUPPORTED")
    return load_part(PART, folder, dtype).to(device).eval().requires_grad_(False)


def check_control(components: Components, model: Any) -> None:
    """Raises FailedPrecondition (CONTROL_MISMATCH) when a ControlNet was not made for such a UNet."""
    if not components.family.takes_controls:
        message = f"models of the family {components.family.name} take no ControlNets"
        raise FailedPrecondition(message, reason="CONTROL_UNSUPPORTED")
    ours, theirs = components.denoiser.config, model.config
    for name in SHARED:
        if _plain(ours[name]) != _plain(theirs[name]):
            message = f"the ControlNet is of another base: its {name} is {theirs[name]}, the base's {ours[name]}"
            raise FailedPrecondition(message, reason="CONTROL_MISMATCH")
    factor = 2 ** (len(theirs.conditioning_embedding_out_channels) - 1)
    if theirs.conditioning_channels != 3 or factor != components.size.vae_factor:
        message = "the ControlNet is not shown pictures of the size that the base draws"
        raise FailedPrecondition(message, reason="CONTROL_MISMATCH")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def steers_unsaid(model: Any) -> bool:
    """Whether it also acts on what guidance leads away from. Those that see a picture as a whole do not, in diffusers
    and here: their weight is 0 there."""
    return not model.config.global_pool_conditions


def control_residuals(
    controls: Sequence[Any],
    images: "Sequence[torch.Tensor]",
    weights: "Sequence[torch.Tensor]",
    noisy: "torch.Tensor",
    timesteps: "torch.Tensor",
    conditioning: Conditioning,
) -> "dict[str, torch.Tensor]":
    """What ControlNets of one base add to its UNet, as entries of its conditioning; nothing where there are none.

    `images` are (B, 3, H, W) in [0, 1], a tensor for each ControlNet, and `weights` (B,), row by row: 0 does not act.
    `noisy` (B, C, H/f, W/f), `timesteps` (B,) or () and `conditioning` are what the UNet is given. Gives
    `control.down.0`, ... and `control.mid`, (B, C_i, H_i, W_i) each, summed over the ControlNets.
    """
    import torch

    total: dict[str, torch.Tensor] = {}
    for model, image, weight in zip(controls, images, weights, strict=True):
        beside = {}
        if model.config.addition_embed_type == "text_time":
            beside["added_cond_kwargs"] = beside_words(conditioning)
        with torch.no_grad():
            down, middle = model(
                noisy,
                timesteps,
                encoder_hidden_states=conditioning["words"],
                controlnet_cond=image.to(noisy).expand(noisy.shape[0], -1, -1, -1),
                conditioning_scale=weight.to(noisy).view(-1, 1, 1, 1),
                return_dict=False,
                **beside,
            )
        named = {**{f"{CONTROL_DOWN}{place}": each for place, each in enumerate(down)}, CONTROL_MID: middle}
        total = {name: total[name] + value for name, value in named.items()} if total else named
    return total
