"""Layouts of LoRAs and of checkpoints, of every family: what goes out draws the same in diffusers and comes back."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1 import model_pb2
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.numpy import load, save
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from services.catalog.lora_files import read_lora
from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition, InvalidArgument
from services.diffusion.adapters import load_loras, set_lora_weights
from services.diffusion.load import load_components
from tests.catalog.house import Catalog, refused
from tests.catalog.test_weights import INPUTS, base_model, exported, imported, make_lora, registered
from tests.ldm import sd1_checkpoint
from tests.tiny import make_tiny_pipeline

XL, SD3 = model_pb2.MODEL_FAMILY_STABLE_DIFFUSION_XL, model_pb2.MODEL_FAMILY_STABLE_DIFFUSION_3
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
RANK, ALPHA = 4, 2.0


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def xl_models() -> dict[str, Any]:
    text: dict[str, Any] = {"vocab_size": 50, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=40,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=72,
    )
    return {
        "unet": unet.eval(),
        "text_encoder": CLIPTextModel(CLIPTextConfig(hidden_size=16, projection_dim=16, **text)).eval(),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=24, projection_dim=24, **text)).eval(),
    }


def sd3_models() -> dict[str, Any]:
    transformer = SD3Transformer2DModel(
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
        dual_attention_layers=(0,),
    )
    return {"transformer": transformer.eval()}


def lora_of(models: dict[str, Any], folder: Path, targets: dict[str, list[str]], *, rslora: bool = False) -> Path:
    """A LoRA file as training leaves it, on models that stay as they were."""
    tensors, adapters = {}, {}
    for part, names in targets.items():
        model = copy.deepcopy(models[part])
        model.add_adapter(
            LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names, use_rslora=rslora, init_lora_weights="gaussian")
        )
        level = "text_model." if part == "text_encoder" and not hasattr(model, "text_model") else ""
        for name, value in get_peft_model_state_dict(model, adapter_name="default").items():
            tensors[f"{part}.{level}{name}"] = torch.randn_like(value) * 0.3
        adapters |= {f"{part}.r": RANK, f"{part}.lora_alpha": ALPHA, f"{part}.use_rslora": rslora}
        adapters[f"{part}.target_modules"] = names
    folder.mkdir(parents=True)
    about = {"format": "pt", "lora_adapter_metadata": json.dumps(adapters), "ss_seed": "7"}
    save_file(tensors, folder / "pytorch_lora_weights.safetensors", metadata=about)
    return folder / "pytorch_lora_weights.safetensors"


def xl_answer(models: dict[str, Any], file: Path) -> list[torch.Tensor]:
    """What plain diffusers' models say with a LoRA file; the models stay as they were."""
    scheduler = EulerDiscreteScheduler()
    plain = StableDiffusionXLPipeline(None, tokenizer=None, tokenizer_2=None, scheduler=scheduler, **models)
    plain.load_lora_weights(file.parent, weight_name=file.name)
    with torch.no_grad():
        more = {"text_embeds": torch.ones(1, 24), "time_ids": torch.ones(1, 6)}
        noise = torch.linspace(-1, 1, 256).reshape(1, 4, 8, 8)
        said = [plain.unet(noise, 500, torch.ones(1, 5, 40), added_cond_kwargs=more).sample]
        tokens = torch.arange(5)[None]
        said += [plain.text_encoder(tokens)[0], plain.text_encoder_2(tokens)[0]]
    plain.unload_lora_weights()
    return said


def sd3_answer(models: dict[str, Any], file: Path) -> torch.Tensor:
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    nothing |= dict.fromkeys(("text_encoder_3", "tokenizer_3"))
    plain = StableDiffusion3Pipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **models, **nothing)
    plain.load_lora_weights(file.parent, weight_name=file.name)
    with torch.no_grad():
        noise = torch.linspace(-1, 1, 256).reshape(1, 4, 8, 8)
        said = plain.transformer(noise, torch.ones(1, 3, 12), torch.ones(1, 20), torch.tensor([500])).sample
    plain.unload_lora_weights()
    return said


async def on_a_base(catalog: Catalog, blobs: BlobStore, file: Path, family: int) -> tuple[int, int]:
    """A base, and the LoRA of it that the file is."""
    base = await catalog.register(family=family, native_resolution=1024)
    digest, size = blobs.put_file(file)
    stored = model_pb2.StoredWeights(files=[model_pb2.ModelFile(path=file.name, sha256=digest, size_bytes=size)])
    more = {"family": family, "stored": stored, "trigger_words": ["inkstyle", "brush"], "license": "Apache-2.0"}
    lora = await catalog.register(**catalog.adapter(base.id, native_resolution=1024, **more))
    return base.id, lora.id


def put(folder: Path, data: bytes) -> Path:
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(data)
    return folder / "a.safetensors"


def to_authors_names(tensors: dict[str, Any], layers: int) -> dict[str, Any]:
    """kohya's tensors with the blocks of the denoiser numbered as its authors number them."""

    def renamed(found: re.Match[str]) -> str:
        number = int(found[2]) * (layers + 1) + int(found[3])
        return f"input_blocks_{1 + number}_1_" if found[1] == "down" else f"output_blocks_{number}_1_"

    names = {name: re.sub(r"(down|up)_blocks_(\d+)_attentions_(\d+)_", renamed, name) for name in tensors}
    return {names[name].replace("mid_block_attentions_0_", "middle_block_1_"): value for name, value in tensors.items()}


@pytest.mark.parametrize("rslora", [False, True])
async def test_sdxl_goes_out_in_kohyas_layout_with_the_real_alpha_and_comes_back(
    catalog: Catalog, blobs: BlobStore, tmp_path: Path, rslora: bool
) -> None:
    models = xl_models()
    encoders = {part: ["q_proj", "out_proj"] for part in ("text_encoder", "text_encoder_2")}
    ours = lora_of(models, tmp_path / "ours", {"unet": [*ATTENTION, "ff.net.2"], **encoders}, rslora=rslora)
    base_id, lora_id = await on_a_base(catalog, blobs, ours, XL)
    _, data = await exported(catalog, lora_id, "LORA_KOHYA")
    theirs = put(tmp_path / "theirs", data)
    tensors = load(data)
    assert {re.match("lora_[a-z0-9]+_", name)[0] for name in tensors} == {"lora_unet_", "lora_te1_", "lora_te2_"}  # type: ignore[index]
    assert {float(value) for name, value in tensors.items() if name.endswith(".alpha")} == {4.0 if rslora else 2.0}
    with safe_open(theirs, framework="np") as file:
        record = file.metadata()
    assert record["ss_base_model_version"] == "sdxl_base_v1-0"
    assert (record["ss_network_module"], record["ss_network_dim"], record["ss_seed"]) == ("networks.lora", "4", "7")
    assert record["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert record["modelspec.trigger_phrase"] == "inkstyle, brush"
    assert (record["modelspec.resolution"], record["modelspec.license"]) == ("1024x1024", "Apache-2.0")
    assert record["modelspec.hash_sha256"] == f"0x{record['sshs_model_hash']}"
    expected = xl_answer(models, ours)
    for one, two in zip(expected, xl_answer(models, theirs), strict=True):
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-4)

    numbered = save(to_authors_names(tensors, 1))
    assert b"lora_unet_input_blocks_3_1_" in numbered
    found = read_lora(put(tmp_path / "numbered", numbered))
    assert (found.layout, found.rank, found.family) == ("kohya", 4, "stable_diffusion_xl")
    for one, two in zip(expected, xl_answer(models, tmp_path / "numbered" / "a.safetensors"), strict=True):
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-4)
    back = await imported(catalog, numbered, base_id)
    assert (back.layout, back.model.family) == ("kohya", XL)


@pytest.mark.parametrize("some", [False, True])
async def test_stable_diffusion_3_goes_out_in_kohyas_layout_and_comes_back_as_diffusers_has_it(
    catalog: Catalog, blobs: BlobStore, tmp_path: Path, some: bool
) -> None:
    models = sd3_models()
    every = [*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.net.0.proj", "ff_context.net.2"]
    ours = lora_of(models, tmp_path / "ours", {"transformer": ["to_q", "add_v_proj", "proj_out"] if some else every})
    base_id, lora_id = await on_a_base(catalog, blobs, ours, SD3)
    _, data = await exported(catalog, lora_id, "LORA_KOHYA")
    tensors = load(data)
    layer = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    rank = RANK if some else 3 * RANK
    assert tensors[f"{layer}.lora_down.weight"].shape == (rank, 16)
    assert tensors[f"{layer}.lora_up.weight"].shape == (48, rank)
    assert float(tensors[f"{layer}.alpha"]) / rank == ALPHA / RANK
    assert b'"ss_base_model_version":"sd3"' in data
    back = await imported(catalog, data, base_id)
    assert (back.layout, back.model.family) == ("kohya", SD3)
    (file,) = back.model.stored.files
    assert file.path == "pytorch_lora_weights.safetensors"
    came = put(tmp_path / "back", blobs.get(file.sha256))
    assert read_lora(came).rank == RANK, "the three come apart again"
    torch.testing.assert_close(sd3_answer(models, came), sd3_answer(models, ours), atol=1e-5, rtol=1e-4)


async def test_a_layer_without_a_name_in_the_other_layout_is_named(
    catalog: Catalog, blobs: BlobStore, tmp_path: Path
) -> None:
    models = sd3_models()
    ours = lora_of(models, tmp_path / "ours", {"transformer": ["norm_out.linear"]})
    base_id, lora_id = await on_a_base(catalog, blobs, ours, SD3)
    with refused(FailedPrecondition, words="no name for transformer.norm_out.linear"):
        await exported(catalog, lora_id, "LORA_KOHYA")
    shapes = {"lora_down.weight": (2, 8), "lora_up.weight": (8, 2)}
    for layer in ("lora_te3_encoder_block_0_layer_0_SelfAttention_q", "lora_unet_joint_blocks_0_x_block_other"):
        data = save({f"{layer}.{end}": numpy.zeros(shape, numpy.float32) for end, shape in shapes.items()})
        with refused(InvalidArgument, reason="LAYER_UNSUPPORTED", words=layer):
            await imported(catalog, data, base_id)


async def test_video_goes_out_as_diffusers_has_it_alone(catalog: Catalog, blobs: BlobStore, tmp_path: Path) -> None:
    file = lora_of(xl_models(), tmp_path / "ours", {"unet": ATTENTION})
    _, lora_id = await on_a_base(catalog, blobs, file, model_pb2.MODEL_FAMILY_STABLE_VIDEO_DIFFUSION)
    assert (await exported(catalog, lora_id, "LORA_DIFFUSERS"))[1] == file.read_bytes()
    with refused(FailedPrecondition, words="no stable_video_diffusion"):
        await exported(catalog, lora_id, "LORA_KOHYA")


def some_lora(*names: str, width: int = 8, **metadata: str) -> bytes:
    down = {name: numpy.zeros((2, width), numpy.float32) for name in names}
    return save(down, metadata)


@pytest.mark.parametrize(
    ("data", "family"),
    [
        (some_lora("unet.down.attn2.to_k.lora_A.weight", width=768), "stable_diffusion"),
        (some_lora("lora_unet_output_blocks_3_1_attn2_to_v.lora_down.weight", width=2048), "stable_diffusion_xl"),
        (some_lora("unet.a.lora_A.weight", "text_encoder_2.b.lora_A.weight"), "stable_diffusion_xl"),
        (some_lora("lora_te1_a.lora_down.weight", "lora_te2_a.lora_down.weight"), None),
        (some_lora("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", width=1536), "stable_diffusion_3"),
        (some_lora("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"), "stable_diffusion_3"),
        (some_lora("unet.down.temporal_transformer_blocks.0.to_q.lora_A.weight"), "stable_video_diffusion"),
        (some_lora("lora_unet_a.lora_down.weight", ss_base_model_version="sdxl_1.0"), "stable_diffusion_xl"),
        (some_lora("lora_unet_a.lora_down.weight", ss_base_model_version="sd_1.5"), "stable_diffusion"),
        (some_lora("lora_unet_a.lora_down.weight", ss_base_model_version="sd_v2"), "stable_diffusion"),
        (
            some_lora("lora_te1_a.lora_down.weight", **{"modelspec.architecture": "stable-diffusion-3-medium/lora"}),
            "stable_diffusion_3",
        ),
        (some_lora("lora_unet_a.lora_down.weight", ss_base_model_version="something new"), None),
    ],
)
def test_a_loras_family_is_told_by_its_layers_and_else_by_its_metadata(
    tmp_path: Path, data: bytes, family: str | None
) -> None:
    assert read_lora(put(tmp_path / "a", data)).family == family


@pytest.mark.parametrize(
    "data",
    [
        some_lora("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"),
        some_lora("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"),
        some_lora("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", width=3072),
        some_lora("lora_te1_a.lora_down.weight", ss_base_model_version="flux1"),
    ],
)
def test_a_lora_for_flux_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="a LoRA for Flux"):
        read_lora(put(tmp_path / "a", data))


IN = "model.diffusion_model.input_blocks.0.0.weight"


def checkpoint(**shapes: tuple[int, ...]) -> bytes:
    return save({name: numpy.zeros(shape, numpy.float16) for name, shape in shapes.items()})


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({IN: (2, 9, 3, 3)}, "an inpainting model"),
        ({IN: (2, 8, 3, 3)}, "InstructPix2Pix"),
        ({IN: (2, 4, 3, 3), "conditioner.embedders.0.model.ln_final.weight": (4,)}, "the refiner"),
        ({IN: (2, 8, 3, 3), "model.diffusion_model.a.time_stack.0.b": (4,)}, "Stable Video Diffusion"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (4,)}, "Flux"),
        ({IN: (2, 4, 3, 3), "model.diffusion_model.time_embed.cond_proj.weight": (4,)}, "latent consistency"),
        ({"model.diffusion_model.blocks.0.weight": (4,)}, "not known"),
        ({IN: (2, 4, 3, 3)}, "not known"),
    ],
)
async def test_a_checkpoint_that_makes_no_base_is_refused_by_name(
    catalog: Catalog, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    base = await catalog.register()
    with refused(InvalidArgument, field="chunk", reason="FAMILY_UNSUPPORTED", words=words):
        await imported(catalog, checkpoint(**shapes), base.id)


async def test_a_checkpoints_family_is_told_and_must_be_its_bases(catalog: Catalog) -> None:
    base = await catalog.register()
    xl = checkpoint(**{IN: (2, 4, 3, 3), "conditioner.embedders.1.model.ln_final.weight": (4,)})
    with refused(FailedPrecondition, reason="FAMILY_MISMATCH", words="a checkpoint of stable_diffusion_xl"):
        await imported(catalog, xl, base.id)
    joint = checkpoint(**{"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4, 4)})
    sd3 = await catalog.register(family=SD3)
    assert (await imported(catalog, joint, sd3.id)).model.family == SD3


async def test_a_checkpoint_becomes_a_base_model_that_is_drawn_and_trained_on(
    catalog: Catalog, blobs: BlobStore, tmp_path: Path
) -> None:
    pipeline = make_tiny_pipeline(tmp_path / "tiny")
    base_id = await base_model(catalog, blobs, pipeline)
    data = sd1_checkpoint(make_tiny_pipeline(tmp_path / "other", seed=5), tmp_path / "a.safetensors").read_bytes()
    answer = await imported(catalog, data, base_id, piece=1 << 20)
    model = answer.model
    assert (answer.rank, answer.layout) == (0, "checkpoint")
    assert (model.type, model.layout) == (model_pb2.MODEL_TYPE_BASE_MODEL, model_pb2.WEIGHTS_LAYOUT_SINGLE_FILE)
    assert (model.base_model_id, model.family, model.native_resolution) == (base_id, 1, 64)
    assert [file.path for file in model.stored.files] == ["model.safetensors"]
    lineage = await catalog.stub.GetModelLineage(pb.GetModelLineageRequest(model_id=model.id))
    assert [each.id for each in lineage.ancestors] == [base_id]
    lora = await registered(catalog, blobs, model.id, make_lora(pipeline, tmp_path / "lora"))
    assert lora > model.id, "a checkpoint is a base like any other"
    alone = {"layout": model_pb2.WEIGHTS_LAYOUT_SINGLE_FILE}
    with refused(InvalidArgument, field="base_model_id", words="for a checkpoint as one file"):
        await catalog.register(**alone)


async def test_a_file_that_numbers_blocks_as_their_authors_do_is_drawn_by_the_generators_loader(
    catalog: Catalog, blobs: BlobStore, tmp_path: Path
) -> None:
    pipeline = make_tiny_pipeline(tmp_path / "tiny")
    ours = make_lora(pipeline, tmp_path / "ours")
    base_id = await base_model(catalog, blobs, pipeline)
    _, data = await exported(catalog, await registered(catalog, blobs, base_id, ours), "LORA_KOHYA")
    numbered = put(tmp_path / "numbered", save(to_authors_names(load(data), 1)))
    assert "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q.alpha" in load(numbered.read_bytes())

    def said(path: Path) -> torch.Tensor:
        components = load_components([pipeline], family="stable_diffusion", device="cpu", dtype=torch.float32)
        load_loras(components, [("one", path)])
        set_lora_weights(components, {"one": 1.0})
        with torch.no_grad():
            return components.denoiser(*INPUTS).sample

    torch.testing.assert_close(said(numbered), said(ours), atol=1e-5, rtol=1e-4)
