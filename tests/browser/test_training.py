"""The training pages beyond the main job: techniques, validation, checkpoints made models."""

import re
from pathlib import Path
from typing import Any

from atelier_client import Atelier
from PIL import Image, ImageDraw
from playwright.sync_api import expect

from tests.browser.conftest import until


def test_a_job_is_validated_and_a_checkpoint_made_a_model(
    visit: Any, client: Atelier, dataset: int, starter: int
) -> None:
    visitor = visit()
    page = visitor.page
    page.goto("/training")
    page.get_by_role("button", name="New Training Job").click()
    page.get_by_label("Output name").fill("measured by eye")
    page.get_by_role("button", name="Advanced settings").click()
    page.get_by_label("Batch size").fill("2")
    page.get_by_label("Maximum steps").fill("40")
    page.get_by_label("Steps between checkpoints").fill("10")
    page.get_by_role("button", name="Techniques").click()
    page.get_by_role("combobox", name="Optimizer").click()
    page.get_by_role("option", name="Adafactor").click()
    page.get_by_label("Shuffle the captions' tags").check()
    page.get_by_label("Tags that stay in front").fill("1")
    page.get_by_label("DoRA").check()
    visitor.shot("training-techniques", whole=False)
    page.get_by_role("button", name="Validation", exact=True).click()
    page.get_by_label("Share held out").fill("0.9")
    page.get_by_label("Steps between measurements").fill("10")
    page.get_by_label("The model is the best checkpoint").check()
    page.get_by_role("button", name="Create and start").click()
    held = page.get_by_label("Share held out")
    expect(held).to_have_attribute("aria-invalid", "true")
    expect(held).to_be_focused()
    held.fill("0.2")
    page.get_by_role("button", name="Estimate").click()
    estimate = page.get_by_test_id("estimate")
    expect(estimate.get_by_text("40 in 8 epochs of 10 images")).to_be_visible(timeout=60_000)
    expect(estimate.get_by_text(re.compile("; .* are free"))).to_be_visible()
    estimate.scroll_into_view_if_needed()
    visitor.shot("training-validation", whole=False)
    page.get_by_role("button", name="Create and start").click()
    page.get_by_role("link", name="measured by eye").first.click()
    expect(page.get_by_role("heading", name="measured by eye")).to_be_visible()
    expect(page.get_by_test_id("job-status")).to_have_text("completed", timeout=40_000)
    until(page, "document.querySelector('[data-testid=loss-chart]')?.dataset.validations == 4")
    expect(page.get_by_text(re.compile("^Best on the pictures held out: "))).to_be_visible()
    expect(page.get_by_text("Adafactor")).to_be_visible()
    checkpoints = page.get_by_role("region", name="Checkpoints")
    expect(checkpoints.get_by_text("best", exact=True)).to_have_count(1)
    checkpoints.get_by_role("button", name="Make it a model: the checkpoint of step 30").click()
    link = checkpoints.get_by_role("link", name=re.compile("^Model "))
    expect(link).to_have_count(1)
    visitor.shot("training-validated")
    link.click()
    expect(page.get_by_role("heading", name="measured by eye-30")).to_be_visible()
    page.get_by_role("button", name="Download").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="With a model card").click()
    assert download.value.suggested_filename == "measured-by-eye-30.zip"
    assert download.value.path().read_bytes().startswith(b"PK")
    job = next(each for each in client.training.list() if each.output_name == "measured by eye")
    assert [each.step for each in client.training.checkpoints(job.id) if each.HasField("model_id")] == [30]
    assert visitor.complaints == []


def test_a_dataset_is_inspected_and_what_is_found_selected(visit: Any, client: Atelier, tmp_path: Path) -> None:
    made = client.datasets.create("to be inspected")
    for place, colour in enumerate(("red", "red", "green", "blue")):
        picture = Image.new("RGB", (640, 640), "white")
        ImageDraw.Draw(picture).polygon(
            [(60, 60), (580, 60 + 160 * (place // 2)), (60 + 170 * (place // 2), 580)], colour
        )
        picture.save(tmp_path / f"{place}.{'webp' if place else 'png'}", lossless=True)
        (tmp_path / f"{place}.txt").write_text("" if place == 3 else f"a {colour} triangle, number {place}")
    client.datasets.upload(made, tmp_path)
    visitor = visit()
    page = visitor.page
    page.goto(f"/datasets/{made.id}")
    page.get_by_role("button", name="Inspect").click()
    found = page.get_by_test_id("inspection")
    expect(found.get_by_text("4 pictures, for training at 512 pixels")).to_be_visible()
    expect(found.get_by_text("2 files with the same picture")).to_be_visible()
    expect(found.get_by_text("1 picture has no caption")).to_be_visible()
    visitor.shot("inspection")
    found.get_by_role("button", name="Select all but the first").first.click()
    expect(page.get_by_text("1 selected")).to_be_visible()
    assert visitor.complaints == []
    client.datasets.delete(made)
