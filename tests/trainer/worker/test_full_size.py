"""Stable Diffusion 1.5's own configuration with random weights: trains, draws and fits, with nothing to download.

`pytest -m slow tests/trainer/worker/test_full_size.py -s` prints the peaks of memory.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.tiny import make_tiny_pipeline
from tests.trainer.house import ENVIRONMENT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

GIGABYTE = 1e9
PARAMETERS = 859_520_964
"""Of the UNet, as published."""
CASES = {
    ("lora", "adamw", "plain"): 8,
    ("full", "adamw", "plain"): 17,
    ("full", "adamw_8bit", "plain"): 12,
    ("full", "adamw_8bit", "unclipped"): 9,
    ("full", "adafactor", "checkpointing"): 12,
}
"""Gigabytes that each has to stay under; weights are in 32 bits on a CPU."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classes and sizes of runwayml's repository, its weights halved on disk; but for the tokenizer, whose words
    are the tiny model's."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = make_tiny_pipeline(tmp_path_factory.mktemp("stable-diffusion-1.5"))
    config = json.loads((folder / "tokenizer/tokenizer_config.json").read_text())
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 77}))
    torch.manual_seed(0)
    with torch.device("cpu"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        assert sum(parameter.numel() for parameter in unet.parameters()) == PARAMETERS
        unet.half().save_pretrained(folder / "unet")
        del unet
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )
        vae.half().save_pretrained(folder / "vae")
        words = CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, projection_dim=768, num_hidden_layers=12, num_attention_heads=12
        )
        CLIPTextModel(words).half().save_pretrained(folder / "text_encoder")
    DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_stable_diffusion_15_trains_and_draws_within_its_memory(
    pipeline: Path, tmp_path: Path, case: tuple[str, str, str]
) -> None:
    if psutil.virtual_memory().available < CASES[case] * GIGABYTE:
        pytest.skip(f"needs {CASES[case]} GB of memory")
    command = [sys.executable, "-m", "tests.trainer.worker.full_size", str(pipeline), str(tmp_path), *case]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(f"\n{' '.join(case):30} peak {found['peak_bytes'] / GIGABYTE:5.2f} GB in {found['seconds']} s\n")
    assert len(found["losses"]) == 2
    assert all(math.isfinite(loss) for loss in found["losses"])
    assert found["sample"] == [128, 128]
    assert found["peak_bytes"] < CASES[case] * GIGABYTE
    expected = PARAMETERS * 2 if case[0] == "full" else 6_400_000
    assert found["weights_bytes"] == pytest.approx(expected, rel=0.05)
