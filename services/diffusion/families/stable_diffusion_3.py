"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): flow matching with a transformer, and words through two CLIPs and T5.

T5 may be missing, here as in diffusers: its states are then zeros, and what is written in pictures suffers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.diffusion.families.family import Conditioning, Family, Part, Size
from services.diffusion.families.stable_diffusion import (
    ATTENTION,
    CLIP_ATTENTION,
    TOKENIZER_FILES,
    TOKENIZER_INSTEAD,
    VAE,
)
from services.diffusion.objective import spread
from services.diffusion.prompts import tokens_of, weigh
from services.diffusion.words import read_prompts

if TYPE_CHECKING:
    import torch

    from services.diffusion.load import Components

T5_TOKENS = 256
"""As diffusers' pipeline has it unless told otherwise."""
NUM_TIMES = 1000
"""Times go from 0, the picture, to this, pure noise."""


@dataclass(frozen=True)
class FlowMatching:
    """x_s = (1 - s) x_0 + s epsilon; the denoiser learns epsilon - x_0 (Lipman et al. 2023), and is told 1000 s."""

    shift: float

    def times(self, where: "torch.Tensor") -> "torch.Tensor":
        """Logit-normal, most in the middle (Esser et al. 2024, section 3.1), and shifted to more noise for larger
        pictures (section 5.3.2), as the scheduler shifts them when drawing."""
        import torch

        middle = torch.sigmoid(torch.special.ndtri(where.double().clamp(1e-6, 1 - 1e-6)))
        return (NUM_TIMES * self.shift * middle / (1 + (self.shift - 1) * middle)).float()

    def diffuse(self, latents: "torch.Tensor", noise: "torch.Tensor", times: "torch.Tensor") -> "torch.Tensor":
        """x_s."""
        share = spread(times / NUM_TIMES, latents)
        return (1 - share) * latents + share * noise

    def target(self, latents: "torch.Tensor", noise: "torch.Tensor", times: "torch.Tensor") -> "torch.Tensor":
        """The direction from picture to noise, which is the same all the way."""
        return noise - latents

    def min_snr_weights(self, times: "torch.Tensor", gamma: float) -> "torch.Tensor":
        """All 1: how often a time is drawn is its weight."""
        import torch

        return torch.ones(times.shape)


def objective(scheduler_config: Mapping[str, Any]) -> FlowMatching:
    """With the scheduler's own shift."""
    return FlowMatching(float(scheduler_config.get("shift", 1.0)))


def original(scheduler: Any, noisy: "torch.Tensor", output: "torch.Tensor", timestep: "torch.Tensor") -> "torch.Tensor":
    """x_0 is where the direction leads back to."""
    return noisy - timestep.to(noisy) / NUM_TIMES * output


def size(transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> Size:
    """Latents come in patches."""
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    return Size(factor * transformer["patch_size"], transformer["sample_size"] * factor, factor)


def unsupported(transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> str:
    """A transformer that wants more than latents."""
    if transformer["in_channels"] != vae["latent_channels"]:
        return "the denoiser takes more than latents and text"
    return ""


def encode_prompts(components: "Components", prompts: Sequence[str], weighted: bool) -> Conditioning:
    """`words` (B, T1 + T2, D): the CLIPs' last hidden states but one side by side, widened with zeros, and T5's behind
    them; `pooled` (B, P1 + P2): the CLIPs' projected sentences. Where `weighted`, n chunks are n T1 long, and the first
    is the sentence; T5 reads the words of all of them as far as its 256 tokens reach, which is long, and no more."""
    import torch

    states, pooled = zip(*read_prompts(components, prompts, layer=-2, weighted=weighted), strict=True)
    clip = torch.cat(states, dim=-1)
    width = components.denoiser.config.joint_attention_dim
    clip = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
    return {
        "words": torch.cat([clip, _t5(components, prompts, width, weighted).to(clip)], dim=-2),
        "pooled": torch.cat(pooled, -1),
    }


def _t5(components: "Components", prompts: Sequence[str], width: int, weighted: bool) -> "torch.Tensor":
    """(B, 256, D)."""
    import torch

    encoder = components.parts.get("text_encoder_3")
    if encoder is None:
        return torch.zeros(len(prompts), T5_TOKENS, width, device=components.device)
    tokenizer = components.parts["tokenizer_3"]
    weights = None
    if weighted:
        ids, weights = _t5_tokens(tokenizer, prompts)
    else:
        ids = tokenizer(
            list(prompts), padding="max_length", max_length=T5_TOKENS, truncation=True, return_tensors="pt"
        ).input_ids
    with torch.no_grad():  # it never learns
        states: torch.Tensor = encoder(ids.to(encoder.device))[0]
    return states if weights is None else weigh(states, weights.to(states.device))


def _t5_tokens(tokenizer: Any, prompts: Sequence[str]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Numbers int64 and weights float32, both (B, 256), of prompts with weights in them."""
    import torch

    rows = []
    for prompt in prompts:
        tokens = [token for stretch in tokens_of(tokenizer, prompt) for token in stretch][: T5_TOKENS - 1]
        tokens.append((tokenizer.eos_token_id, 1.0))
        rows.append(tokens + [(tokenizer.pad_token_id, 1.0)] * (T5_TOKENS - len(tokens)))
    ids, weights = ([[token[place] for token in row] for row in rows] for place in (0, 1))
    return torch.tensor(ids), torch.tensor(weights)


def predict(
    components: "Components", noisy: "torch.Tensor", timesteps: "torch.Tensor", conditioning: Conditioning
) -> "torch.Tensor":
    """The transformer's answer."""
    answer: torch.Tensor = components.denoiser(
        hidden_states=noisy,
        timestep=timesteps.expand(noisy.shape[0]),
        encoder_hidden_states=conditioning["words"],
        pooled_projections=conditioning["pooled"],
        return_dict=False,
    )[0]
    return answer


CLIP = "CLIPTextModelWithProjection"
FAMILY = Family(
    name="stable_diffusion_3",
    parts=(
        Part("tokenizer", "transformers", "CLIPTokenizer", files=TOKENIZER_FILES, instead=TOKENIZER_INSTEAD),
        Part("tokenizer_2", "transformers", "CLIPTokenizer", files=TOKENIZER_FILES, instead=TOKENIZER_INSTEAD),
        Part("tokenizer_3", "transformers", "T5Tokenizer", files=("tokenizer.json",), optional=True),
        Part("text_encoder", "transformers", CLIP, "model.safetensors", ("config.json",)),
        Part("text_encoder_2", "transformers", CLIP, "model.safetensors", ("config.json",)),
        Part("text_encoder_3", "transformers", "T5EncoderModel", "model.safetensors", ("config.json",), optional=True),
        VAE,
        Part(
            "transformer",
            "diffusers",
            "SD3Transformer2DModel",
            "diffusion_pytorch_model.safetensors",
            ("config.json",),
        ),
        Part("scheduler", "diffusers", "FlowMatchEulerDiscreteScheduler", files=("scheduler_config.json",)),
    ),
    denoiser="transformer",
    text_encoders=("text_encoder", "text_encoder_2"),
    tokenizers=("tokenizer", "tokenizer_2"),
    lora_targets=ATTENTION,
    text_encoder_lora_targets=CLIP_ATTENTION,
    lora_reader="SD3LoraLoaderMixin",
    kohya_version="sd3_m",
    fix_scheduler_config=dict,
    size=size,
    unsupported=unsupported,
    encode_prompts=encode_prompts,
    predict=predict,
    objective=objective,
    original=original,
    has_noise_schedule=False,
)
