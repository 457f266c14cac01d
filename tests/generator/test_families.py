"""Models of the other families are drawn over gRPC as a plain diffusers pipeline draws them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from atelier.catalog.v1 import model_pb2
from atelier.generator.v1 import generation_pb2 as pb
from diffusers import DiffusionPipeline

from tests.generator.conftest import Studio
from tests.generator.test_generate import draw, pixels
from tests.tiny_families import MAKERS, make_tiny_svd

FAMILIES = {name: model_pb2.ModelFamily.Value(f"MODEL_FAMILY_{name.upper()}") for name in MAKERS}


@pytest.mark.parametrize("family", sorted(MAKERS))
async def test_a_picture_agrees_with_a_plain_pipeline(
    studio: Studio, generator: Any, tmp_path: Path, family: str
) -> None:
    folder = MAKERS[family](tmp_path / "pipeline")
    model_id = await studio.register(folder, family=FAMILIES[family])
    wanted = pb.GenerationSettings(
        model_id=model_id, prompt="a red apple", width=64, height=80, steps=3, guidance_scale=4.0, seed=7
    )
    (image,) = (await draw(generator, wanted)).images
    without_t5 = {"text_encoder_3": None, "tokenizer_3": None} if family == "stable_diffusion_3" else {}
    plain = DiffusionPipeline.from_pretrained(folder, **without_t5)
    plain.set_progress_bar_config(disable=True)
    theirs = plain(
        "a red apple",
        num_inference_steps=3,
        guidance_scale=4.0,
        width=64,
        height=80,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]
    assert np.abs(pixels(image.data) - np.asarray(theirs).astype(int)).max() <= 1


async def test_a_model_that_draws_clips_draws_no_picture_from_words(
    studio: Studio, generator: Any, tmp_path: Path
) -> None:
    folder = make_tiny_svd(tmp_path / "pipeline")
    fields = {"family": model_pb2.MODEL_FAMILY_STABLE_VIDEO_DIFFUSION, "category": model_pb2.MODEL_CATEGORY_VIDEO}
    model_id = await studio.register(folder, **fields)
    with pytest.raises(Exception, match="draws clips, and they begin with a picture"):
        await draw(generator, pb.GenerationSettings(model_id=model_id, prompt="a cat", steps=1))
