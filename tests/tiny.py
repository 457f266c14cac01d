"""A narrow Stable Diffusion pipeline with random weights: every class of the real one, in two megabytes."""

import json
from pathlib import Path
from typing import Any

SIDE = 64  # pixels a side that it draws by default
VAE_FACTOR = 4
SIZE_MULTIPLE = 16  # the VAE's 4 times the UNet's 4
TOKENS = 16  # instead of CLIP's 77, as in the starter model
WORDS = ("a", "red", "blue", "apple", "cat", "dog", "heart", "line", "art", "photo", "of", "sks", "star")


def make_tiny_pipeline(
    folder: Path, *, seed: int = 0, prediction_type: str = "v_prediction", zero_terminal_snr: bool = True
) -> Path:
    """Saves a diffusers pipeline folder of random float32 weights under `folder`, and gives `folder`.

    The same seed gives the same weights. The schedule is the starter model's (v-prediction, zero terminal SNR,
    trailing) unless told otherwise.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from diffusers.utils import logging
    from transformers import CLIPTextConfig, CLIPTextModel

    logging.disable_progress_bar()
    vocabulary = vocabulary_of_tiny()
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                intermediate_size=64,
                projection_dim=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                bos_token_id=start,
                eos_token_id=end,
                pad_token_id=end,
            )
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            norm_num_groups=4,
            mid_block_add_attention=False,
            sample_size=SIDE,
            scaling_factor=0.5,
        )
        unet = UNet2DConditionModel(
            sample_size=SIDE // VAE_FACTOR,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(16, 32, 32),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=32,
            attention_head_dim=4,
        )
        make_contrasty(vae)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing" if zero_terminal_snr else "leading",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=zero_terminal_snr,
    )
    text_encoder.save_pretrained(folder / "text_encoder")
    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer", vocabulary)
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.42.0",
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return folder


def make_tiny_lora(folder: Path, pipeline_folder: Path, *, rank: int = 4, alpha: float = 8.0, seed: int = 1) -> Path:
    """Saves a LoRA of random, plainly visible weights for a tiny pipeline, as one file; gives the file."""
    import torch
    from diffusers import UNet2DConditionModel

    from services.diffusion.adapters import add_lora, save_lora

    unet = UNet2DConditionModel.from_pretrained(pipeline_folder / "unet")
    parameters = add_lora(unet, rank=rank, alpha=alpha)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return save_lora(folder, unet=unet)


def make_tiny_control(folder: Path, pipeline_folder: Path, *, seed: int = 1) -> Path:
    """Saves a ControlNet for a tiny pipeline's UNet under `folder`, and gives it. What begins at zero in a real one,
    and would do nothing, is random here."""
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(pipeline_folder / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16))
        zeros = (control.controlnet_cond_embedding.conv_out, control.controlnet_mid_block)
        for layer in (*zeros, *control.controlnet_down_blocks):
            torch.nn.init.normal_(layer.weight, std=0.2)
    control.save_pretrained(folder)
    return folder


def make_tiny_safety_checker(folder: Path, *, seed: int = 3) -> Path:
    """Saves a safety checker of random weights and its image processor under `folder`, and gives it. Noise is near some
    of its concepts about as often as not."""
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessorPil

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
        for parameter in model.parameters():  # as they begin, all pictures look alike
            torch.nn.init.normal_(parameter, std=0.5)
        model.concept_embeds_weights.fill_(0.4)
        model.special_care_embeds_weights.fill_(0.3)
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)
    return folder


def make_tiny_captioner(folder: Path, *, seed: int = 36) -> Path:
    """Saves a BLIP of random weights, its tokenizer and its image processor under `folder`, and gives it.

    With this seed it tells pictures apart, and has a word for each."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    markers = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {**sizes, **markers, "vocab_size": len(words), "encoder_hidden_size": 16, "projection_dim": 16}
    vision = {**sizes, "image_size": 32, "patch_size": 16, "projection_dim": 16}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlipForConditionalGeneration(config)
        for parameter in model.parameters():  # as they begin, all pictures read the same
            torch.nn.init.normal_(parameter, std=0.5)
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(words)})
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def vocabulary_of_tiny() -> dict[str, int]:
    """CLIP's layout: every byte, every byte with `</w>`, whole words, then the two markers."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + "</w>" for letter in letters]
    tokens += [piece for left, right in _merges() if (piece := left + right) not in tokens]
    unique = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(unique)}


def _merges() -> list[tuple[str, str]]:
    """The merges that build each of WORDS from its letters, left to right."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        letters = [*word[:-1], word[-1] + "</w>"]
        left = letters[0]
        for right in letters[1:]:
            merges[left, right] = None
            left += right
    return list(merges)


def write_tokenizer(folder: Path, vocabulary: dict[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in _merges())]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "do_lower_case": True,
    }
    _write_json(folder / "tokenizer_config.json", config)
    markers = {key: config[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    _write_json(folder / "special_tokens_map.json", markers)


def make_contrasty(vae: Any) -> None:
    """Scales the last convolution: random decoders draw grey, and grey hides differences."""
    import torch

    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(2.0)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
