"""Checkpoints as one file, taken apart into what diffusers' folders have."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from services.diffusion.load import load_components
from services.diffusion.single_file import CHECKPOINT_FILE, unfolded
from services.diffusion.weights import WeightsUnavailable
from tests.diffusion.drawing import draw
from tests.ldm import clip_to_ldm, open_clip_to_ldm, sd1_checkpoint, unet_to_ldm
from tests.tiny import make_tiny_pipeline


def folded(pipeline: Path, folder: Path) -> Path:
    folder.mkdir()
    sd1_checkpoint(pipeline, folder / CHECKPOINT_FILE)
    return folder


def tensors_of(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def test_a_checkpoint_draws_as_the_folder_that_it_was_made_of(tmp_path: Path) -> None:
    other, base = make_tiny_pipeline(tmp_path / "other", seed=5), make_tiny_pipeline(tmp_path / "base")
    checkpoint = folded(other, tmp_path / "checkpoint")
    assert unfolded([checkpoint, base], make=False) is None
    folders = unfolded([checkpoint, base])
    assert folders is not None
    assert folders[1] == base
    assert unfolded([checkpoint, base], make=False) == folders, "it is made once"

    def drawn(chain: list[Path]) -> Any:
        return draw(load_components(chain, family="stable_diffusion", device="cpu", dtype=torch.float32))

    assert np.array_equal(drawn(folders), drawn([other]))
    assert not np.array_equal(drawn(folders), drawn([base]))


def test_what_a_checkpoint_lacks_is_its_bases(tmp_path: Path) -> None:
    base = make_tiny_pipeline(tmp_path / "base")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_file(unet_to_ldm(base / "unet"), checkpoint / CHECKPOINT_FILE)
    folders = unfolded([checkpoint, base])
    assert folders is not None
    assert [each.name for each in folders[0].iterdir()] == ["unet"]
    load_components(folders, family="stable_diffusion", device="cpu", dtype=torch.float32)


def test_a_damaged_checkpoint_and_one_without_a_base_say_so_and_leave_nothing(tmp_path: Path) -> None:
    base = make_tiny_pipeline(tmp_path / "base")
    checkpoint = folded(base, tmp_path / "checkpoint")
    with pytest.raises(WeightsUnavailable, match=r"has no .*config\.json"):
        unfolded([checkpoint])
    whole = (checkpoint / CHECKPOINT_FILE).read_bytes()
    (checkpoint / CHECKPOINT_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsUnavailable, match="cannot be taken apart"):
        unfolded([checkpoint, base])
    assert {each.name for each in tmp_path.iterdir() if each.is_dir()} == {"base", "checkpoint"}


def test_the_two_text_encoders_and_the_denoiser_of_sdxl_come_out_as_they_went_in(tmp_path: Path) -> None:
    base, checkpoint = tmp_path / "base", tmp_path / "checkpoint"
    checkpoint.mkdir()
    config = {"vocab_size": 50, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    first = CLIPTextConfig(hidden_size=16, projection_dim=16, **config)
    second = CLIPTextConfig(hidden_size=24, projection_dim=24, **config)
    CLIPTextModel(first).save_pretrained(base / "text_encoder")
    CLIPTextModelWithProjection(second).save_pretrained(base / "text_encoder_2")
    UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=2,
        norm_num_groups=8,
        cross_attention_dim=40,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=72,
    ).save_pretrained(base / "unet")
    tensors = unet_to_ldm(base / "unet")
    tensors |= clip_to_ldm(base / "text_encoder", "conditioner.embedders.0.transformer.")
    tensors |= open_clip_to_ldm(base / "text_encoder_2", "conditioner.embedders.1.model.")
    save_file(tensors, checkpoint / CHECKPOINT_FILE)
    folders = unfolded([checkpoint, base])
    assert folders is not None
    kinds = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    for part, kind in kinds.items():
        found, info = kind.from_pretrained(folders[0] / part, output_loading_info=True)
        assert not info["missing_keys"], part
        for name, value in kind.from_pretrained(base / part).state_dict().items():
            assert torch.equal(found.state_dict()[name], value), f"{part}: {name}"


def test_the_transformer_of_stable_diffusion_3_comes_out_as_it_went_in(tmp_path: Path) -> None:
    base, checkpoint = tmp_path / "base", tmp_path / "checkpoint"
    checkpoint.mkdir()
    SD3Transformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=20,
        pos_embed_max_size=8,
        in_channels=4,
        out_channels=4,
    ).save_pretrained(base / "transformer")
    whole = tensors_of(base / "transformer")
    save_file(_joint(whole, 2), checkpoint / CHECKPOINT_FILE)
    folders = unfolded([checkpoint, base])
    assert folders is not None
    found = tensors_of(folders[0] / "transformer")
    assert set(found) == set(whole)
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def _joint(tensors: dict[str, Any], layers: int) -> dict[str, Any]:
    """Stability's names of a transformer's tensors."""
    outside = {
        "pos_embed.pos_embed": "pos_embed",
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }
    inside = {
        "attn.to_out.0": "x_block.attn.proj",
        "attn.to_add_out": "context_block.attn.proj",
        "norm1.linear": "x_block.adaLN_modulation.1",
        "norm1_context.linear": "context_block.adaLN_modulation.1",
        "ff.net.0.proj": "x_block.mlp.fc1",
        "ff.net.2": "x_block.mlp.fc2",
        "ff_context.net.0.proj": "context_block.mlp.fc1",
        "ff_context.net.2": "context_block.mlp.fc2",
    }
    swapped = ("norm_out.linear", f"transformer_blocks.{layers - 1}.norm1_context.linear")
    found = {}
    for name, value in tensors.items():
        module, _, end = name.rpartition(".")
        if module in swapped:
            value = torch.cat(value.chunk(2)[::-1])
        if name in outside:
            found[outside[name]] = value
        elif module in outside:
            found[f"{outside[module]}.{end}"] = value
        elif (inner := module.split(".", 2)[2]) in inside:
            found[f"joint_blocks.{module.split('.')[1]}.{inside[inner]}.{end}"] = value
    for layer in range(layers):
        for block, names in {"x_block": "to_{}", "context_block": "add_{}_proj"}.items():
            for end in ("weight", "bias"):
                three = [tensors[f"transformer_blocks.{layer}.attn.{names.format(each)}.{end}"] for each in "qkv"]
                found[f"joint_blocks.{layer}.{block}.attn.qkv.{end}"] = torch.cat(three)
    return {f"model.diffusion_model.{name}": value for name, value in found.items()}
