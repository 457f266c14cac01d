"""All samples of a job on one picture."""

import io

import pytest
from PIL import Image

from services.common.blobs import BlobStore
from services.trainer.domain import Sample
from services.trainer.sheet import MOST_ROWS, make_sheet

COLOURS = {(10, 0): (255, 0, 0), (10, 1): (0, 255, 0), (20, 0): (0, 0, 255), (20, 1): (255, 255, 0)}


def sample(blobs: BlobStore, step: int, index: int, colour: tuple[int, int, int], side: int = 120) -> Sample:
    data = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(data, "PNG")
    return Sample(step, index, f"prompt {index} " * 12, blobs.put(data.getvalue()), side, side)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def test_steps_go_down_and_prompts_across(blobs: BlobStore) -> None:
    sheet = opened(make_sheet([sample(blobs, *key, colour) for key, colour in COLOURS.items()], blobs))
    found: dict[tuple[int, int, int], tuple[int, int]] = {}
    for x in range(0, sheet.width, 4):
        for y in range(0, sheet.height, 4):
            pixel = sheet.getpixel((x, y))
            assert isinstance(pixel, tuple)
            found.setdefault((pixel[0], pixel[1], pixel[2]), (x, y))
    places = {key: found[colour] for key, colour in COLOURS.items()}
    assert places[10, 0][0] == places[20, 0][0] < places[10, 1][0] == places[20, 1][0]
    assert places[10, 0][1] == places[10, 1][1] < places[20, 0][1] == places[20, 1][1]
    assert sheet.width == 64 + 2 * 128


def test_a_lost_sample_leaves_a_gap_and_large_ones_are_scaled(blobs: BlobStore) -> None:
    samples = [sample(blobs, 1, 0, (255, 0, 0), side=1024), sample(blobs, 2, 0, (0, 0, 255), side=1024)]
    blobs.delete(samples[1].sha256)
    sheet = opened(make_sheet(samples, blobs))
    colours = {pixel for _, pixel in sheet.getcolors(1 << 24) or []}
    assert (255, 0, 0) in colours
    assert (0, 0, 255) not in colours
    assert sheet.width == 64 + 264


@pytest.mark.parametrize("count", [1, MOST_ROWS, 500])
def test_the_first_and_the_last_step_are_on_every_sheet(blobs: BlobStore, count: int) -> None:
    samples = [sample(blobs, step, 0, (step % 256, step // 256, 7), side=8) for step in range(1, count + 1)]
    sheet = opened(make_sheet(samples, blobs))
    colours = {pixel for _, pixel in sheet.getcolors(1 << 24) or []}
    assert (1, 0, 7) in colours
    assert (count % 256, count // 256, 7) in colours
    assert sheet.height <= 100 + MOST_ROWS * 104
