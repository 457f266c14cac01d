"""The real sizes of the families, with random weights: they train, draw and fit, with nothing to download.

`pytest -m slow tests/trainer/worker/test_full_size.py -s` prints the peaks of memory.
"""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.tiny import make_tiny_pipeline
from tests.tiny_families import make_tiny_sd3, make_tiny_sdxl, make_tiny_svd
from tests.trainer.house import ENVIRONMENT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

GIGABYTE = 1e9
PARAMETERS = {
    "stable_diffusion": 859_520_964,
    "stable_diffusion_xl": 2_567_463_684,
    "stable_video_diffusion": 1_524_623_082,
    "stable_diffusion_3": 2_084_951_104,
}
"""Of the denoisers, as published (Stable Diffusion 3: the medium one, with its frozen table of positions)."""
CASES = {
    ("stable_diffusion", "lora", "adamw", "plain"): 8,
    ("stable_diffusion", "full", "adamw", "plain"): 17,
    ("stable_diffusion", "full", "adamw_8bit", "plain"): 12,
    ("stable_diffusion", "full", "adamw_8bit", "unclipped"): 9,
    ("stable_diffusion", "full", "adafactor", "checkpointing"): 12,
    ("stable_diffusion_xl", "lora", "adamw", "plain"): 19,
    ("stable_video_diffusion", "lora", "adamw", "plain"): 14,
    ("stable_diffusion_3", "lora", "adamw", "plain"): 17,
}
"""Gigabytes that each has to stay under; weights are in 32 bits on a CPU."""


def _stable_diffusion(folder: Path) -> None:
    """The classes and sizes of runwayml's repository."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    make_tiny_pipeline(folder)
    _keep(folder, "unet", UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8))
    _keep(folder, "vae", _vae())
    _keep(folder, "text_encoder", _clip_l("CLIPTextModel"))
    DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    ).save_pretrained(folder / "scheduler")


def _stable_diffusion_xl(folder: Path) -> None:
    """Those of stabilityai/stable-diffusion-xl-base-1.0."""
    from diffusers import UNet2DConditionModel

    make_tiny_sdxl(folder)
    unet = UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    _keep(folder, "unet", unet)
    _keep(folder, "vae", _vae())
    _keep(folder, "text_encoder", _clip_l("CLIPTextModel"))
    _keep(folder, "text_encoder_2", _clip_g())


def _stable_video_diffusion(folder: Path) -> None:
    """Those of stabilityai/stable-video-diffusion-img2vid-xt."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    make_tiny_svd(folder)
    _keep(folder, "unet", UNetSpatioTemporalConditionModel(sample_size=96))
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=768,
    )
    _keep(folder, "vae", vae)
    vision = CLIPVisionConfig(
        hidden_size=1280,
        intermediate_size=5120,
        projection_dim=1024,
        num_hidden_layers=32,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
    )
    _keep(folder, "image_encoder", CLIPVisionModelWithProjection(vision))


def _stable_diffusion_3(folder: Path) -> None:
    """Those of stabilityai/stable-diffusion-3-medium-diffusers, without T5."""
    from diffusers import SD3Transformer2DModel

    make_tiny_sd3(folder)
    transformer = SD3Transformer2DModel(
        sample_size=128,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=192,
    )
    _keep(folder, "transformer", transformer)
    _keep(folder, "vae", _vae(latent_channels=16))
    _keep(folder, "text_encoder", _clip_l("CLIPTextModelWithProjection"))
    _keep(folder, "text_encoder_2", _clip_g())


MAKERS: dict[str, Callable[[Path], None]] = {
    "stable_diffusion": _stable_diffusion,
    "stable_diffusion_xl": _stable_diffusion_xl,
    "stable_video_diffusion": _stable_video_diffusion,
    "stable_diffusion_3": _stable_diffusion_3,
}
"""By the family's name. The tokenizers' words are the tiny model's."""


def make(family: str, folder: str) -> None:
    """Saves the family's pipeline under `folder`."""
    import torch

    torch.manual_seed(0)
    MAKERS[family](Path(folder))


def _keep(folder: Path, name: str, module: object) -> None:
    """In 16 bits, in place of the tiny part."""
    shutil.rmtree(folder / name)
    module.half().save_pretrained(folder / name)  # type: ignore[attr-defined]  # a torch module of either library


def _vae(latent_channels: int = 4) -> object:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
        latent_channels=latent_channels,
    )


def _clip_l(kind: str) -> object:
    import transformers

    config = transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, projection_dim=768, num_hidden_layers=12, num_attention_heads=12
    )
    return getattr(transformers, kind)(config)


def _clip_g() -> object:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, projection_dim=1280, num_hidden_layers=32, num_attention_heads=20
    )
    return CLIPTextModelWithProjection(config)


@pytest.fixture(scope="module", params=sorted(MAKERS))
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The family's pipeline, its folder named after it; removed afterwards, since it is gigabytes."""
    folder = tmp_path_factory.mktemp("full-size") / str(request.param)
    folder.mkdir()
    # In a process of its own, whose memory is free again afterwards.
    make = f"from {__name__} import make; make({request.param!r}, {str(folder)!r})"
    subprocess.run([sys.executable, "-c", make], env=ENVIRONMENT, check=True)
    for config in folder.glob("tokenizer*/tokenizer_config.json"):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 77}))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_it_trains_and_draws_within_its_memory(pipeline: Path, tmp_path: Path, case: tuple[str, str, str, str]) -> None:
    family, method, *options = case
    if family != pipeline.name:
        pytest.skip(f"this is {pipeline.name}")
    if psutil.virtual_memory().available < CASES[case] * GIGABYTE:
        pytest.skip(f"needs {CASES[case]} GB of memory")
    command = [sys.executable, "-m", "tests.trainer.worker.full_size", str(pipeline), family]
    done = subprocess.run(
        [*command, str(tmp_path), method, *options], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    shutil.rmtree(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    said = f"peak {found['peak_bytes'] / GIGABYTE:5.2f} GB in {found['seconds']} s, {found['parameters']:,} parameters"
    sys.stdout.write(f"\n{' '.join(case):50} {said}\n")
    assert found["parameters"] == PARAMETERS[family]
    assert len(found["losses"]) == 2
    assert all(math.isfinite(loss) for loss in found["losses"])
    assert found["sample"] == [128, 128]
    assert found["peak_bytes"] < CASES[case] * GIGABYTE
    if method == "full":
        assert found["weights_bytes"] == pytest.approx(PARAMETERS[family] * 2, rel=0.05)
    else:
        assert 1e6 < found["weights_bytes"] < 1e8
