"""Grids: every combination, each as a request by itself draws it, and the sheet of them all. Wildcards."""

import io
import json
from typing import Any

import numpy as np
import pytest
from atelier.catalog.v1 import model_pb2
from atelier.generator.v1 import generation_pb2 as pb
from atelier.generator.v1 import generator_service_pb2 as rpc
from google.protobuf.json_format import Parse
from PIL import Image

from services.common.errors import FailedPrecondition, InvalidArgument
from tests.generator.conftest import Studio
from tests.generator.house import at_a_step, until
from tests.generator.test_generate import draw, events, pixels, settings
from tests.tiny_families import make_tiny_sdxl


async def test_a_grid_draws_every_combination_row_by_row_and_a_sheet(studio: Studio, generator: Any) -> None:
    grid = pb.Grid(prompts=["a cat", "a blue dog"], model_ids=[studio.base_id, studio.lora_id], seeds=[3, 9])
    wanted = settings(studio.base_id, grid=grid, deterministic=True)
    seen = await events(generator.Generate(rpc.GenerateRequest(settings=wanted)))
    pictures = [event.image.image for event in seen if event.HasField("image")]
    drawn = {picture.index: picture for picture in pictures}
    assert sorted(drawn) == list(range(9))
    places = [(drawn[index].prompt, drawn[index].seed, drawn[index].model_id) for index in range(8)]
    assert places == [
        (prompt, seed, model)
        for prompt in ("a cat", "a blue dog")
        for seed in (3, 9)
        for model in (studio.base_id, studio.lora_id)
    ]
    assert [drawn[index].HasField("lora_weight") for index in range(8)] == [False, True] * 4
    assert pictures[-1].is_sheet
    assert (pictures[-1].index, pictures[-1].content_type) == (8, "image/png")
    assert not any(drawn[index].is_sheet for index in range(8))
    answer = seen[-1].done.generation
    assert answer.settings.grid == grid
    assert not answer.settings.HasField("count")
    assert sorted(image.index for image in answer.images) == list(range(9))
    # The last picture's own request draws it again, without the others.
    data = {event.image.image.index: event.image.data for event in seen if event.HasField("image")}
    request = Parse(Image.open(io.BytesIO(data[7])).text["atelier"], rpc.GenerateRequest())
    assert not request.settings.HasField("grid")
    alone = await draw(generator, request.settings)
    assert np.array_equal(pixels(alone.images[0].data), pixels(data[7]))
    assert not np.array_equal(pixels(data[6]), pixels(data[7]))


async def test_a_sheet_has_each_picture_in_its_place(studio: Studio, generator: Any) -> None:
    grid = pb.Grid(lora_weights=[0, 1.5], seeds=[1, 2, 3])
    answer = await draw(generator, settings(studio.lora_id, grid=grid))
    *pictures, sheet = answer.images
    assert [picture.image.lora_weight for picture in pictures] == [0, 1.5] * 3
    whole = pixels(sheet.data)
    assert whole.shape[:2] == (sheet.image.height, sheet.image.width)
    found = []
    for picture in pictures:
        own = Image.open(io.BytesIO(picture.data)).convert("RGB")
        cell = np.asarray(own.resize((128, 128), Image.Resampling.LANCZOS)).astype(int)  # small ones are enlarged
        corners = np.argwhere((whole == cell[0, 0]).all(axis=2))
        places = [(y, x) for y, x in corners if np.array_equal(whole[y : y + 128, x : x + 128], cell)]
        assert len(places) == 1
        found += places
    rows, columns = sorted({y for y, _ in found}), sorted({x for _, x in found})
    assert [(rows.index(y), columns.index(x)) for y, x in found] == [(y, x) for y in range(3) for x in range(2)]
    beside = whole[:, : columns[0]]
    for y in rows:  # there are words beside each row
        assert (beside[y : y + 128] < 100).any()


async def test_a_base_beside_a_lora_has_one_column(studio: Studio, generator: Any) -> None:
    grid = pb.Grid(model_ids=[studio.base_id, studio.lora_id], lora_weights=[0.5, 1])
    *pictures, sheet = (await draw(generator, settings(studio.base_id, grid=grid))).images
    drawn = [(each.image.model_id, each.image.lora_weight) for each in pictures]
    assert drawn == [(studio.base_id, 0), (studio.lora_id, 0.5), (studio.lora_id, 1)]
    assert (sheet.image.is_sheet, sheet.image.index) == (True, 3)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"grid": pb.Grid(seeds=[1, 2]), "count": 2}, "settings.count"),
        ({"grid": pb.Grid(prompts=["a"] * 5, seeds=range(60))}, "settings.grid"),
        ({"grid": pb.Grid(lora_weights=[0.5, 1])}, "settings.grid.lora_weights"),
        ({"grid": pb.Grid(seeds=[1, 2]), "lora_weight": 0.5}, "settings.lora_weight"),
        ({"grid": pb.Grid(seeds=[1, 1])}, "settings.grid.seeds"),
        ({"grid": pb.Grid(prompts=["a", "b\0"])}, "settings.grid.prompts[1]"),
    ],
)
async def test_a_bad_grid_names_its_field(studio: Studio, generator: Any, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, settings(studio.base_id, **fields))
    assert list(caught.value.violations) == [field]


async def test_a_grid_of_models_that_draw_other_sizes_is_refused(studio: Studio, generator: Any, tmp_path: Any) -> None:
    family = model_pb2.MODEL_FAMILY_STABLE_DIFFUSION_XL
    other = await studio.register(make_tiny_sdxl(tmp_path / "xl"), family=family)
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, settings(studio.base_id, grid=pb.Grid(model_ids=[studio.base_id, other])))
    assert list(caught.value.violations) == ["settings.grid.model_ids"]
    loras = [pb.LoraWeight(model_id=studio.lora_id)]
    with pytest.raises(FailedPrecondition):  # a LoRA of one of them does not fit the other
        await draw(generator, settings(other, grid=pb.Grid(seeds=[1, 2]), loras=loras))


async def test_a_grid_goes_on_after_a_restart(studio: Studio) -> None:
    grid = pb.Grid(model_ids=[studio.base_id, studio.lora_id], seeds=[1, 2])
    wanted = settings(studio.lora_id, grid=grid, steps=150)
    async with studio.generator() as generator:
        running = await at_a_step(generator.Generate(rpc.GenerateRequest(settings=wanted)))
    async with studio.generator() as generator:
        request = rpc.GetGenerationRequest(generation_id=running.generation_id)
        finished = await until(generator, request, pb.GENERATION_STATUS_COMPLETED)
    assert [image.is_sheet for image in finished.images] == [False] * 4 + [True]
    assert finished.settings.grid == grid


async def test_wildcards_are_chosen_by_the_seed_and_shown(studio: Studio, generator: Any) -> None:
    wildcards = {"colour": pb.WildcardLines(lines=["red", "blue"])}
    wanted = settings(studio.base_id, prompt="a __colour__ {cat|dog}", wildcards=wildcards, count=8, steps=1)
    answer = await draw(generator, wanted)
    prompts = [picture.image.prompt for picture in answer.images]
    assert set(prompts) <= {"a red cat", "a red dog", "a blue cat", "a blue dog"}
    assert len(set(prompts)) > 1
    assert answer.generation.settings.prompt == "a __colour__ {cat|dog}"
    assert answer.generation.settings.wildcards["colour"].lines == ["red", "blue"]
    one = await draw(generator, settings(studio.base_id, prompt=wanted.prompt, wildcards=wildcards, seed=10, steps=1))
    assert one.images[0].image.prompt == prompts[3]  # the fourth's seed
    text = Image.open(io.BytesIO(answer.images[3].data)).text
    assert text["parameters"].startswith(prompts[3])
    assert json.loads(text["atelier"])["settings"]["prompt"] == wanted.prompt
    plain = settings(studio.base_id, prompt="a __colour__", prompt_syntax=pb.PROMPT_SYNTAX_PLAIN, steps=1)
    assert (await draw(generator, plain)).images[0].image.prompt == "a __colour__"
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, settings(studio.base_id, prompt="a __colour__"))
    assert list(caught.value.violations) == ["settings.wildcards"]
