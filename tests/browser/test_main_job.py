"""A person's whole way through the browser: pictures in, a model out, pictures from it."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from atelier.generator.v1.generation_pb2 import GENERATION_STATUS_CANCELLED
from atelier.trainer.v1.training_pb2 import JOB_STATUS_CANCELLED
from atelier_client import Atelier
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import until

STEPS = 150


def drop(page: Any, files: list[Path]) -> None:
    """Drops files on the page as a hand does: with a DataTransfer that holds them."""
    contents = [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files]
    transfer = page.evaluate_handle(
        """contents => {
            const transfer = new DataTransfer();
            for (const [name, data] of contents) {
                const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
                transfer.items.add(new File([bytes], name));
            }
            return transfer;
        }""",
        contents,
    )
    area = page.get_by_test_id("drop-area")
    area.dispatch_event("dragover", {"dataTransfer": transfer})
    area.dispatch_event("drop", {"dataTransfer": transfer})


def difference(one: bytes, other: bytes) -> float:
    """Mean over two pictures' channels, of 255."""
    pixels = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB"), np.float32) for each in (one, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def points(page: Any) -> int:
    """Steps that the loss curve shows."""
    chart = page.get_by_test_id("loss-chart")
    return int(chart.get_attribute("data-points")) if chart.count() else 0


def fill_job(page: Any, name: str, steps: int) -> None:
    page.get_by_label("Output name").fill(name)
    page.get_by_role("button", name="Advanced settings").click()
    page.get_by_label("Batch size").fill("2")
    page.get_by_label("Maximum steps").fill(str(steps))
    page.get_by_label("Sample prompts").fill("red apple\nblue star")
    page.get_by_label("Steps between samples").fill("50")
    page.get_by_label("Steps between checkpoints").fill("50")


def test_images_in_a_model_out_pictures_from_it(
    visit: Any, client: Atelier, starter: int, pictures: list[Path]
) -> None:
    visitor = visit()
    page = visitor.page

    page.goto("/")
    expect(page).to_have_url(re.compile("/datasets$"))
    page.get_by_role("button", name="Create New Dataset").first.click()
    page.get_by_label("Name").fill("portraits-anime")
    page.get_by_label("Description").fill("Round and red")
    page.get_by_role("button", name="Create Dataset", exact=True).click()
    expect(page.get_by_role("heading", name="portraits-anime")).to_be_visible()
    expect(page.get_by_text("No pictures yet")).to_be_visible()

    drop(page, pictures)
    uploads = page.get_by_test_id("uploads")
    expect(uploads.get_by_role("status")).to_have_text("13 of 13 files · 12 taken · 1 refused")
    first = uploads.get_by_role("listitem").first
    expect(first).to_have_text("broken.pngDamaged: it cannot be read to its end.")
    expect(page.get_by_text("12 images ·")).to_be_visible()
    grid = page.get_by_test_id("image-grid")
    expect(grid.locator("img")).to_have_count(12)
    expect(grid.get_by_text("red apple")).to_have_count(6)
    page.get_by_role("button", name="Refresh Count").click()
    expect(page.get_by_text("12 images, every file read and sound")).to_be_visible()
    visitor.shot("dataset")

    page.get_by_role("link", name="Train on this dataset").click()
    expect(page.get_by_role("combobox", name="Dataset")).to_have_value("portraits-anime (12 images)")
    expect(page.get_by_role("combobox", name="Base model")).to_have_value("Atelier Starter")
    expect(page.get_by_role("radio", name="LoRA")).to_be_checked()
    fill_job(page, "anime-style", STEPS)
    expect(page.get_by_label("Learning rate", exact=True)).to_have_value("0.0001")
    visitor.shot("training-form", whole=False)
    page.get_by_role("button", name="Create Job").click()
    row = page.get_by_test_id("job-row").filter(has_text="anime-style")
    expect(row.get_by_test_id("job-status")).to_have_text("pending")
    visitor.shot("training-pending")
    row.get_by_role("button", name="Start anime-style").click()
    expect(row.get_by_text(re.compile(f"step \\d+ of {STEPS}"))).to_be_visible(timeout=60_000)
    row.get_by_role("link", name="anime-style").click()

    until(page, "document.querySelector('[data-testid=loss-chart]')?.dataset.points > 5")
    before = points(page)
    until(page, f"document.querySelector('[data-testid=loss-chart]').dataset.points > {before}")
    visitor.shot("training-running")

    page.reload()
    until(page, f"document.querySelector('[data-testid=loss-chart]')?.dataset.points >= {before}")
    status = page.get_by_test_id("job-status")
    expect(status).to_have_text("completed", timeout=90_000)
    assert points(page) == STEPS, "reloading in the middle lost no step"
    expect(page.get_by_role("img", name=re.compile("^Sample at step 150"))).to_have_count(2)
    checkpoints = page.get_by_role("region", name="Checkpoints")
    expect(checkpoints.get_by_role("row")).to_have_count(3)  # two checkpoints, at steps 50 and 100, and the heading
    visitor.shot("training-done")

    page.get_by_role("navigation").get_by_role("link", name="Text to image").click()
    model = page.get_by_role("combobox", name="Model")
    model.click()
    model.fill("anime-st")
    page.get_by_role("option", name="anime-style").click()
    page.get_by_label("Prompt", exact=True).fill("red apple")
    page.get_by_label("Steps").fill("600")
    page.get_by_label("Pictures").fill("2")
    page.get_by_role("button", name="Generate", exact=True).click()
    drawing = page.get_by_test_id("drawing")
    # The first drawing waits for the model to be loaded.
    expect(drawing.get_by_role("img", name=re.compile("taking shape"))).to_have_count(2, timeout=60_000)
    visitor.shot("drawing", whole=False)
    expect(page.locator("[data-phase=done]")).to_be_visible(timeout=60_000)
    result = drawing.get_by_role("img", name=re.compile("^red apple, seed"))
    expect(result).to_have_count(2)
    assert result.first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    with page.expect_download() as download:
        drawing.get_by_role("link", name="Download").first.click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    visitor.shot("drawn")

    drawing.get_by_role("button", name="Same seed").nth(1).click()
    seed = page.get_by_label("Seed").input_value()
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("[data-phase=done]").get_by_role("img")).to_have_count(1, timeout=60_000)
    again, both = client.generations.recent(limit=2)
    pair = [client.generations.image_bytes(both.id, 1), client.generations.image_bytes(again.id, 0)]
    # Drawn alone it differs from its twin by no more than the rounding of a batch.
    assert difference(*pair) < 2, "the same seed gives the same picture"
    expect(drawing.get_by_role("img")).to_have_attribute("alt", f"red apple, seed {seed}")
    assert visitor.complaints == []


def test_a_drawing_is_cancelled_and_a_job_paused_resumed_cancelled_and_tried_again(
    visit: Any, client: Atelier, dataset: int, starter: int
) -> None:
    page = visit().page
    page.goto(f"/text-to-image?model={starter}")
    page.get_by_label("Prompt", exact=True).fill("dog")
    page.get_by_label("Steps").fill("1000")
    page.get_by_label("Pictures").fill("32")  # so that it is under way still when the page has come again
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("[data-phase=drawing]")).to_be_visible(timeout=60_000)
    page.reload()
    expect(page.locator("[data-phase=drawing]")).to_be_visible()  # it is found again after a reload
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("dog")
    page.get_by_test_id("drawing").get_by_role("button", name="Cancel").click()
    expect(page.locator("[data-phase=cancelled]")).to_be_visible()
    expect(page.get_by_test_id("history").get_by_text("cancelled").first).to_be_visible()
    assert client.generations.recent(limit=1)[0].status == GENERATION_STATUS_CANCELLED

    job = client.training.create(dataset, starter, config={"max_steps": 5000, "batch_size": 2}, start=True)
    page.goto(f"/training/{job.id}")
    until(page, "document.querySelector('[data-testid=loss-chart]')?.dataset.points > 1")
    page.get_by_role("button", name="Pause").click()
    status = page.get_by_test_id("job-status")
    expect(status).to_have_text("paused")
    stood = points(page)
    page.get_by_role("button", name="Resume").click()
    until(page, f"document.querySelector('[data-testid=loss-chart]').dataset.points > {stood}")
    assert page.get_by_text(f"training goes on after step {stood}").count() == 1
    page.get_by_role("button", name="Cancel job").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel job").click()
    expect(page.get_by_test_id("job-status")).to_have_text("cancelled")
    assert client.training.get(job.id).status == JOB_STATUS_CANCELLED
    page.get_by_role("button", name="Try again").click()
    expect(status).to_have_text("running")
    until(page, "document.querySelector('[data-testid=loss-chart]').dataset.points > 1")
    client.training.cancel(job.id)
    expect(status).to_have_text("cancelled")


def test_losing_the_network_in_mid_training_loses_no_step(
    visit: Any, client: Atelier, dataset: int, starter: int
) -> None:
    visitor = visit()
    page = visitor.page
    job = client.training.create(dataset, starter, config={"max_steps": 200, "batch_size": 2}, start=True)
    page.goto(f"/training/{job.id}")
    until(page, "document.querySelector('[data-testid=loss-chart]')?.dataset.points > 5")
    visitor.context.set_offline(True)
    expect(page.get_by_text("No connection.")).to_be_visible()
    page.wait_for_timeout(4000)
    missed = points(page)
    visitor.context.set_offline(False)
    expect(page.get_by_test_id("job-status")).to_have_text("completed", timeout=90_000)
    assert missed < 200
    assert points(page) == 200
    page.get_by_role("link", name="All jobs").click()
    page.go_back()
    expect(page.get_by_test_id("loss-chart")).to_have_attribute("data-points", "200", timeout=2000)
