"""Clips and masks in the web app."""

from pathlib import Path
from typing import Any

import pytest
from atelier_client import Atelier
from PIL import Image
from playwright.sync_api import expect

from tests.clips_made import animation, film

pytestmark = pytest.mark.slow  # minutes on two cores


def test_clips_are_dropped_counted_and_played(visit: Any, client: Atelier, tmp_path: Path) -> None:
    made = client.datasets.create("films", type="video")
    (tmp_path / "fade.webm").write_bytes(film(12, 6, (320, 240), codec="libvpx-vp9", format="webm"))
    (tmp_path / "blink.gif").write_bytes(animation("GIF"))
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "still.png")
    visitor = visit()
    page = visitor.page
    page.goto(f"/datasets/{made.id}")
    expect(page.get_by_text("Drop clips here")).to_be_visible()
    page.locator("input[type=file]").set_input_files(sorted(tmp_path.iterdir()))
    expect(page.get_by_text("2 taken · 1 refused")).to_be_visible()
    expect(page.get_by_test_id("uploads")).to_contain_text("Not a clip that is taken")
    grid = page.get_by_test_id("image-grid")
    expect(grid.get_by_text("2 s", exact=True)).to_be_visible()
    expect(grid.get_by_text("1 s", exact=True)).to_be_visible()
    visitor.shot("clips")
    page.get_by_role("button", name="Open fade.webm").click()
    video = page.get_by_role("dialog").locator("video")
    expect(page.get_by_role("dialog")).to_contain_text("12 frames, 6 a second")
    page.wait_for_function("document.querySelector('video').videoWidth === 320")
    assert video.evaluate("video => Math.round(video.duration)") == 2
    visitor.shot("clip")
    expect(page.get_by_test_id("mask")).to_have_count(0)


def test_a_mask_is_given_changed_and_taken_away(visit: Any, client: Atelier, tmp_path: Path) -> None:
    made = client.datasets.create("masked things")
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "cat.png")
    for name, side in (("left", 0), ("right", 32)):
        mask = Image.new("L", (64, 48))
        mask.paste(255, (side, 0, side + 32, 48))
        mask.save(tmp_path / f"{name}.png")
    client.datasets.upload(made, tmp_path / "cat.png")
    visitor = visit()
    page = visitor.page
    page.goto(f"/datasets/{made.id}")
    page.get_by_role("button", name="Open cat.png").click()
    mask = page.get_by_test_id("mask")
    for name in ("left", "right"):
        mask.locator("input[type=file]").set_input_files(tmp_path / f"{name}.png")
        expect(mask.get_by_role("button", name="Remove the mask")).to_be_visible()
        shown = mask.get_by_role("img", name="Mask")
        expect(shown).to_be_visible()
        page.wait_for_function(LEFT_IS, arg=255 if name == "left" else 0)  # and not the one before
        visitor.shot(f"mask-{name}")
    mask.get_by_role("button", name="Remove the mask").click()
    expect(mask.get_by_role("img")).to_have_count(0)
    assert not next(client.datasets.images(made)).mask_sha256


LEFT_IS = """(wanted) => {
  const image = document.querySelector("[data-testid=mask] img");
  if (!image || !image.complete || !image.naturalWidth) return false;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(4, 4, 1, 1).data[0] === wanted;
}"""
