"""Stable Diffusion XL (Podell et al. 2023): words through two text encoders, and the denoiser is told each picture's
size and cut."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from services.diffusion.families.family import Conditioning, Family, Part
from services.diffusion.families.stable_diffusion import (
    ATTENTION,
    CLIP_ATTENTION,
    TOKENIZER_FILES,
    TOKENIZER_INSTEAD,
    UNET,
    VAE,
    controlled,
    size,
)
from services.diffusion.families.stable_diffusion import unsupported as unsupported_unet
from services.diffusion.objective import original_of, schedule_of
from services.diffusion.words import read_prompts, without_blanks

if TYPE_CHECKING:
    import torch

    from services.diffusion.load import Components


def unsupported(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> str:
    """Also a UNet that is told other things than SDXL's."""
    if unet.get("addition_embed_type") != "text_time":
        return "the denoiser is not told the pictures' sizes (no SDXL model)"
    # Six numbers are read, each as `addition_time_embed_dim` waves, beside the pooled words; the refiner's are five.
    return unsupported_unet(unet, vae)


def encode_prompts(components: "Components", prompts: Sequence[str], weighted: bool) -> Conditioning:
    """`words` (B, T, D1 + D2): the last hidden states but one of both encoders side by side; `pooled` (B, P):
    the second one's projected sentence. Where `weighted`, n chunks are n T long, and the first is the sentence. An
    empty prompt is all zeros where the model was published so, which is the default."""
    import torch

    (first, _), (second, pooled) = read_prompts(components, prompts, layer=-2, weighted=weighted)
    said = {"words": torch.cat([first, second], dim=-1), "pooled": pooled}
    if components.settings.get("force_zeros_for_empty_prompt", True):
        said = {name: without_blanks(value, prompts) for name, value in said.items()}
    return said


def predict(
    components: "Components", noisy: "torch.Tensor", timesteps: "torch.Tensor", conditioning: Conditioning
) -> "torch.Tensor":
    """The UNet's answer."""
    answer: torch.Tensor = components.denoiser(
        noisy,
        timesteps,
        encoder_hidden_states=conditioning["words"],
        added_cond_kwargs=beside_words(conditioning),
        **controlled(conditioning),
        return_dict=False,
    )[0]
    return answer


def beside_words(conditioning: Conditioning) -> "dict[str, torch.Tensor]":
    """What the UNet is told beside the words, under the names that diffusers has for it."""
    pooled = conditioning["pooled"]
    return {"text_embeds": pooled, "time_ids": conditioning["geometry"].to(pooled.dtype)}


FAMILY = Family(
    name="stable_diffusion_xl",
    parts=(
        Part("tokenizer", "transformers", "CLIPTokenizer", files=TOKENIZER_FILES, instead=TOKENIZER_INSTEAD),
        Part("tokenizer_2", "transformers", "CLIPTokenizer", files=TOKENIZER_FILES, instead=TOKENIZER_INSTEAD),
        Part("text_encoder", "transformers", "CLIPTextModel", "model.safetensors", ("config.json",)),
        Part("text_encoder_2", "transformers", "CLIPTextModelWithProjection", "model.safetensors", ("config.json",)),
        VAE,
        UNET,
        Part("scheduler", "diffusers", "EulerDiscreteScheduler", files=("scheduler_config.json",)),
    ),
    denoiser="unet",
    text_encoders=("text_encoder", "text_encoder_2"),
    tokenizers=("tokenizer", "tokenizer_2"),
    lora_targets=ATTENTION,
    text_encoder_lora_targets=CLIP_ATTENTION,
    lora_reader="StableDiffusionXLLoraLoaderMixin",
    kohya_version="sdxl_base_v1-0",
    fix_scheduler_config=dict,
    size=size,
    unsupported=unsupported,
    encode_prompts=encode_prompts,
    predict=predict,
    objective=schedule_of,
    original=original_of,
    takes_controls=True,
)
