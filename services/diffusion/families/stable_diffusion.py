"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022), and every pipeline of the same classes, as the starter model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from services.diffusion.families.family import Conditioning, Family, Part, Size
from services.diffusion.objective import original_of, schedule_of
from services.diffusion.words import read_prompts

if TYPE_CHECKING:
    import torch

    from services.diffusion.load import Components

TOKENIZER_FILES = ("vocab.json", "merges.txt")
TOKENIZER_INSTEAD = "tokenizer.json"  # all that transformers 5 saves
UNET = Part("unet", "diffusers", "UNet2DConditionModel", "diffusion_pytorch_model.safetensors", ("config.json",))
VAE = Part("vae", "diffusers", "AutoencoderKL", "diffusion_pytorch_model.safetensors", ("config.json",))
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONTROL_DOWN, CONTROL_MID = "control.down.", "control.mid"
"""Entries of the conditioning: what ControlNets add to each result of the UNet's first half, numbered, and in its
middle."""
CLIP_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def fix_scheduler_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as diffusers' StableDiffusionPipeline corrects it on loading.

    Old checkpoints were saved with `steps_offset` 0 and `clip_sample` true, which these models were not trained for;
    without the same correction, the same weights would draw another picture here than there.
    """
    fixed = dict(config)
    if fixed.get("steps_offset", 1) != 1:
        fixed["steps_offset"] = 1
    if fixed.get("clip_sample", False):
        fixed["clip_sample"] = False
    return fixed


def size(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> Size:
    """Every level but the last halves the sides, in the VAE and in the UNet."""
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    sample_size = unet["sample_size"]
    side = sample_size if isinstance(sample_size, int) else sample_size[0]
    return Size(factor * 2 ** (len(unet["down_block_types"]) - 1), side * factor, factor)


def unsupported(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> str:
    """A UNet that wants more than latents and text."""
    if unet.get("time_cond_proj_dim") is not None or unet["in_channels"] != vae["latent_channels"]:
        return "the denoiser takes more than latents and text (a distilled or an inpainting model)"
    return ""


def encode_prompts(components: "Components", prompts: Sequence[str], weighted: bool) -> Conditioning:
    """`words` (B, T, D): the text encoder's last hidden state; (B, n T, D) of n chunks where `weighted`."""
    [(words, _)] = read_prompts(components, prompts, weighted=weighted)
    return {"words": words}


def predict(
    components: "Components", noisy: "torch.Tensor", timesteps: "torch.Tensor", conditioning: Conditioning
) -> "torch.Tensor":
    """The UNet's answer."""
    words, added = conditioning["words"], controlled(conditioning)
    answer: torch.Tensor = components.denoiser(
        noisy, timesteps, encoder_hidden_states=words, **added, return_dict=False
    )[0]
    return answer


def controlled(conditioning: Conditioning) -> dict[str, Any]:
    """The UNet's arguments for what ControlNets add; none where nothing steers."""
    if CONTROL_MID not in conditioning:
        return {}
    count = sum(name.startswith(CONTROL_DOWN) for name in conditioning)
    return {
        "down_block_additional_residuals": [conditioning[f"{CONTROL_DOWN}{place}"] for place in range(count)],
        "mid_block_additional_residual": conditioning[CONTROL_MID],
    }


FAMILY = Family(
    name="stable_diffusion",
    parts=(
        Part("tokenizer", "transformers", "CLIPTokenizer", files=TOKENIZER_FILES, instead=TOKENIZER_INSTEAD),
        Part("text_encoder", "transformers", "CLIPTextModel", "model.safetensors", ("config.json",)),
        VAE,
        UNET,
        Part("scheduler", "diffusers", "DDIMScheduler", files=("scheduler_config.json",)),
    ),
    denoiser="unet",
    text_encoders=("text_encoder",),
    tokenizers=("tokenizer",),
    lora_targets=ATTENTION,
    text_encoder_lora_targets=CLIP_ATTENTION,
    lora_reader="StableDiffusionLoraLoaderMixin",
    kohya_version="sd_v1",
    fix_scheduler_config=fix_scheduler_config,
    size=size,
    unsupported=unsupported,
    encode_prompts=encode_prompts,
    predict=predict,
    objective=schedule_of,
    original=original_of,
    takes_controls=True,
)
