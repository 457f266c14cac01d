"""What a model's weights go through before they draw: parts that rest, blocks that are compiled."""

import numpy as np
import pytest
import torch

from services.diffusion.encode import decode_latents, encode_prompts
from services.diffusion.load import Components, bytes_in_turns, load_components
from services.diffusion.sample import Sample, step_together
from services.diffusion.schedulers import make_scheduler
from tests.generator.conftest import Studio
from tests.generator.test_generate import draw, pixels, settings


def test_parts_that_take_turns_need_room_for_the_largest() -> None:
    sizes = {"text_encoder": 5, "text_encoder_2": 20, "unet": 50, "vae": 4}
    assert bytes_in_turns(sizes, "unet") == 54
    assert bytes_in_turns({**sizes, "text_encoder_3": 100}, "unet") == 129
    assert bytes_in_turns({"image_encoder": 12, "unet": 30, "vae": 2}, "unet") == 32


def words_and_picture(studio: Studio, device: str, *, in_turns: bool) -> tuple[list[torch.Tensor], Components]:
    components = load_components(
        [studio.pipeline], family="stable_diffusion", device=device, dtype=torch.float32, in_turns=in_turns
    )
    words = encode_prompts(components, ["a red apple"])
    sample = Sample(
        components, make_scheduler(components), said=words, unsaid=words, seed=1, width=64, height=64, steps=2
    )
    for _ in range(2):
        step_together([sample])
    return [words["words"].cpu(), decode_latents(components, sample.latents).int()], components


async def test_parts_that_take_turns_draw_the_same(studio: Studio) -> None:
    plain, whole = words_and_picture(studio, "cpu", in_turns=False)
    turning, components = words_and_picture(studio, "cpu", in_turns=True)
    assert all(torch.equal(one, other) for one, other in zip(plain, turning, strict=True))
    assert components.memory_bytes < whole.memory_bytes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
async def test_parts_take_turns_on_a_gpu(studio: Studio) -> None:
    plain, _ = words_and_picture(studio, "cuda", in_turns=False)
    turning, components = words_and_picture(studio, "cuda", in_turns=True)
    for one, other in zip(plain, turning, strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1)
    places = {name: part.device.type for name, part in components.modules.items()}
    assert places == {"text_encoder": "cpu", "unet": "cuda", "vae": "cuda"}


@pytest.mark.slow
@pytest.mark.timeout(600)  # a compiler at work
async def test_compiled_models_draw_the_same_with_loras_and_without(
    studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [
        settings(studio.base_id),
        settings(studio.base_id, seed=8, guidance_scale=1.0),
        settings(studio.lora_id, seed=9),
        settings(studio.base_id, seed=10, count=3),
        settings(studio.base_id, seed=11, width=96, height=80),
    ]
    async with studio.generator() as generator:
        plain = [await draw(generator, each) for each in wanted]
    async with studio.generator(compile=True) as generator:
        compiled = [await draw(generator, each) for each in wanted]
    for one, other in zip(plain, compiled, strict=True):
        for mine, theirs in zip(one.images, other.images, strict=True):
            assert np.abs(pixels(mine.data) - pixels(theirs.data)).max() <= 1
    assert "uncompiled" not in capsys.readouterr().out
