"""Narrow pipelines of the other families with random weights, each of every class of the real one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tiny import SIDE, TOKENS, VAE_FACTOR, make_contrasty, vocabulary_of_tiny, write_tokenizer


def make_tiny_sdxl(folder: Path, *, seed: int = 0, zeros_for_empty: bool = True) -> Path:
    """Stable Diffusion XL: two text encoders, and a UNet that is told sizes; with SDXL's own scheduler."""
    import torch
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoders = {
            "text_encoder": _text_encoder("CLIPTextModel", 32),
            "text_encoder_2": _text_encoder("CLIPTextModelWithProjection", 48),
        }
        unet = UNet2DConditionModel(
            sample_size=SIDE // VAE_FACTOR,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=32 + 48,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
        )
        vae = _vae()
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        interpolation_type="linear",
        prediction_type="epsilon",
        steps_offset=1,
        timestep_spacing="leading",
        use_karras_sigmas=False,
    )
    parts = {**encoders, "unet": unet, "vae": vae, "scheduler": scheduler}
    settings = {"force_zeros_for_empty_prompt": zeros_for_empty, "add_watermarker": False}
    return _save(folder, "StableDiffusionXLPipeline", parts, ("tokenizer", "tokenizer_2"), settings)


def make_tiny_sd3(folder: Path, *, seed: int = 0) -> Path:
    """Stable Diffusion 3, without T5."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoders = {
            "text_encoder": _text_encoder("CLIPTextModelWithProjection", 32),
            "text_encoder_2": _text_encoder("CLIPTextModelWithProjection", 48),
        }
        transformer = SD3Transformer2DModel(
            sample_size=SIDE // VAE_FACTOR,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=96,
            caption_projection_dim=32,
            pooled_projection_dim=24 + 24,
            out_channels=16,
            pos_embed_max_size=32,
        )
        # Its last layer begins at zero, which would draw noise and nothing else.
        torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
        vae = _vae(shift_factor=0.1, latent_channels=16)
    parts = {
        **encoders,
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    return _save(folder, "StableDiffusion3Pipeline", parts, ("tokenizer", "tokenizer_2"), {})


def make_tiny_svd(folder: Path, *, seed: int = 0) -> Path:
    """Stable Video Diffusion."""
    import torch
    from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                projection_dim=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=224,
                patch_size=32,
            )
        )
        vae = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 3,
            block_out_channels=(32, 32, 32),
            layers_per_block=1,
            sample_size=SIDE,
            scaling_factor=0.5,
        )
        unet = UNetSpatioTemporalConditionModel(
            sample_size=SIDE // VAE_FACTOR,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            block_out_channels=(32, 32),
            layers_per_block=1,
            cross_attention_dim=32,
            num_attention_heads=(4, 4),
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=3 * 8,
            num_frames=4,
        )
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        interpolation_type="linear",
        prediction_type="v_prediction",
        sigma_min=0.002,
        sigma_max=700.0,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    parts = {"image_encoder": image_encoder, "unet": unet, "vae": vae, "scheduler": scheduler}
    _save(folder, "StableVideoDiffusionPipeline", parts, (), {})
    home = folder / "feature_extractor"
    home.mkdir()
    prepared = {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": 224,
    }
    (home / "preprocessor_config.json").write_text(json.dumps(prepared, indent=2) + "\n", encoding="utf-8")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return folder


def _text_encoder(kind: str, width: int) -> Any:
    import transformers

    vocabulary = vocabulary_of_tiny()
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    return getattr(transformers, kind)(
        transformers.CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def _vae(shift_factor: float | None = None, latent_channels: int = 4) -> Any:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=SIDE,
        scaling_factor=0.5,
        shift_factor=shift_factor,
        latent_channels=latent_channels,
    )
    make_contrasty(vae)
    return vae


def _save(
    folder: Path, pipeline: str, parts: dict[str, Any], tokenizers: tuple[str, ...], settings: dict[str, Any]
) -> Path:
    from diffusers.utils import logging

    logging.disable_progress_bar()
    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.42.0", **settings}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    for name in tokenizers:
        write_tokenizer(folder / name, vocabulary_of_tiny())
        index[name] = ["transformers", "CLIPTokenizer"]
    optional = {"feature_extractor", "image_encoder"} if tokenizers else set()
    if pipeline == "StableDiffusion3Pipeline":
        optional |= {"text_encoder_3", "tokenizer_3"}
    index |= {name: [None, None] for name in optional - set(index)}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "stable_diffusion_xl": make_tiny_sdxl,
    "stable_diffusion_3": make_tiny_sd3,
}
"""By the family's name."""
