"""A deployment's safety checker: its verdict is in the answer, and flagged pictures are blanked on demand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc

from services.diffusion.safety import load_safety_checker
from services.diffusion.weights import WeightsUnavailable
from tests.generator.conftest import Studio
from tests.generator.test_generate import draw, pixels, settings
from tests.tiny import make_tiny_safety_checker


async def test_verdicts_are_in_the_answer_and_flagged_pictures_may_be_blanked(studio: Studio, tmp_path: Path) -> None:
    make_tiny_safety_checker(tmp_path / "safety_checker")
    checker = load_safety_checker(tmp_path / "safety_checker", device="cpu", dtype=torch.float32)
    wanted = settings(studio.base_id, count=12, steps=1, deterministic=True, guidance_scale=1)
    async with studio.generator(safety_checker=tmp_path) as generator:
        answer = await draw(generator, wanted)
        capabilities = await generator.GetGeneratorCapabilities(rpc.GetGeneratorCapabilitiesRequest())
        assert capabilities.has_safety_checker
    drawn = [pixels(each.data).astype(np.uint8) for each in answer.images]
    expected = checker.judge(drawn)
    assert 0 < sum(bool(each) for each in expected) < 12  # there is something to tell apart
    found = [each.image.safety for each in answer.images]
    assert [tuple(each.concepts) for each in found] == expected
    assert [each.is_flagged for each in found] == [bool(each) for each in expected]
    async with studio.generator(safety_checker=tmp_path, safety_action="blank") as generator:
        later = await generator.GetGeneration(rpc.GetGenerationRequest(generation_id=answer.generation.id))
        assert [each.safety for each in later.generation.images] == found  # it is remembered
        blanked = await draw(generator, wanted)
        for index, each in enumerate(blanked.images):
            assert each.image.safety == found[index]
            shown = pixels(each.data)
            assert not shown.any() if found[index].is_flagged else np.array_equal(shown, drawn[index])
        grid = pb.Grid(seeds=range(7, 19))
        *_, sheet = (await draw(generator, settings(studio.base_id, steps=1, guidance_scale=1, grid=grid))).images
        assert (pixels(sheet.data) == 0).all(axis=2).sum() > 64 * 64  # blanked on the sheet too


async def test_without_a_checker_nothing_is_said(studio: Studio, tmp_path: Path) -> None:
    async with studio.generator() as generator:
        answer = await draw(generator, settings(studio.base_id, steps=1))
        assert not answer.images[0].image.HasField("safety")
    with pytest.raises(WeightsUnavailable):
        async with studio.generator(safety_checker=tmp_path):
            pass
