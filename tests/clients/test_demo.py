"""The demo's plan and its pictures; `make demo` runs the whole."""

from pathlib import Path

import pytest
from atelier.trainer.v1.training_pb2 import StepProgress
from atelier_client.demo.__main__ import ASSETS, read_plan
from atelier_client.demo.loss import draw_loss
from atelier_client.demo.sheet import CELL, Row, _text_within, draw_sheet
from atelier_client.files import find_files, read_images
from atelier_client.training import training_config
from PIL import Image, ImageDraw


def test_the_plan_is_one_that_the_services_take() -> None:
    plan = read_plan(ASSETS / "demo-prompts.json")
    config = training_config(plan.training)
    assert config.max_steps > 0
    assert config.lora.rank > 0
    assert len(plan.prompts) == len(plan.seeds) == len(set(plan.prompts))


def test_no_prompt_of_the_demo_is_a_caption_it_was_trained_on() -> None:
    plan = read_plan(ASSETS / "demo-prompts.json")
    images, _ = read_images(find_files([plan.images]))
    captions = {image.caption for image in images}
    assert "" not in captions, "every demo image has its caption"
    assert not captions & set(plan.prompts)


@pytest.mark.parametrize("count", [1, 8, 11])
def test_the_sheet_shows_every_picture_where_its_prompt_is(tmp_path: Path, count: int) -> None:
    before = [Image.new("RGB", (64, 64), (200, 0, index)) for index in range(count)]
    after = [Image.new("RGB", (64, 64), (0, 200, index)) for index in range(count)]
    file = draw_sheet(
        tmp_path / "out" / "sheet.png",
        title="Title",
        subtitle="Subtitle",
        learnt=Row("Learnt", "note", before),
        prompts=[f"prompt {index}" for index in range(count)],
        before=Row("Before", "note", before),
        after=Row("After", "note", after),
    )
    sheet = Image.open(file).convert("RGB")
    colours = {colour for _, colour in sheet.getcolors(sheet.width * sheet.height) or []}
    assert {(200, 0, index) for index in range(count)} <= colours
    assert {(0, 200, index) for index in range(count)} <= colours


def test_a_long_prompt_stays_within_its_cell() -> None:
    sheet = Image.new("RGB", (600, 40), "white")
    _text_within(ImageDraw.Draw(sheet), (300, 5), "a very long prompt that nobody could fit under one small picture")
    left, _, right, _ = sheet.convert("L").point(lambda value: 255 - value).getbbox() or (0, 0, 0, 0)
    assert 0 < right - left <= CELL + 12


def test_the_loss_curve_is_drawn(tmp_path: Path) -> None:
    points = [StepProgress(step=step, loss=1 / step, smoothed_loss=1 / step) for step in range(1, 20)]
    file = draw_loss(tmp_path / "loss.png", points, title="A loss")
    assert Image.open(file).size[0] > 800
