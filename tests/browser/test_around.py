"""What stands around training: captions that a model writes, pictures of a class, a hub."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from atelier.trainer.v1 import training_pb2 as tr
from atelier_client import Atelier
from PIL import Image
from playwright.sync_api import expect

from tests.catalog.hub_made import TOKEN, HubMade


def test_a_model_writes_the_captions_that_are_missing(visit: Any, client: Atelier, tmp_path: Path) -> None:
    for place, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{place}.png")
    (tmp_path / "0.txt").write_text("all red")
    made = client.datasets.create("to be captioned")
    client.datasets.upload(made, tmp_path)
    visitor = visit()
    page = visitor.page
    page.goto(f"/datasets/{made.id}")
    page.get_by_role("button", name="Write captions").click()
    region = page.get_by_test_id("captioning")
    region.get_by_label("Before each").fill("inkstyle, ")
    assert visitor.violations() == []
    region.get_by_role("button", name="Write captions").click()
    expect(region.get_by_text("2 captioned, 1 kept their caption.")).to_be_visible(timeout=60_000)
    visitor.shot("captioned")
    expect(page.get_by_text(re.compile("^inkstyle, ")).first).to_be_visible()
    captions = sorted(image.caption for image in client.datasets.images(made))
    assert captions[0] == "all red"
    assert all(caption.startswith("inkstyle, ") for caption in captions[1:])
    assert visitor.complaints == []
    client.datasets.delete(made)


def test_a_dreambooth_job_takes_its_class_from_a_dataset(
    visit: Any, client: Atelier, dataset: int, starter: int, tmp_path: Path
) -> None:
    for place in range(3):
        Image.new("RGB", (96, 96), (80 * place, 10, 10)).save(tmp_path / f"{place}.png")
    others = client.datasets.create("stars of all kinds")
    client.datasets.upload(others, tmp_path)
    visitor = visit()
    page = visitor.page
    page.goto("/training")
    page.get_by_role("button", name="New Training Job").click()
    page.get_by_label("Output name").fill("one star")
    page.get_by_text("DreamBooth", exact=True).click()
    page.get_by_label("Subject prompt").fill("a sks star")
    page.get_by_label("Keep the class as it was (prior preservation)").check()
    page.get_by_label("Class prompt").fill("a star")
    expect(page.get_by_label("Class pictures")).to_be_visible()
    page.get_by_role("combobox", name="Dataset of the class").click()
    page.get_by_role("option", name="stars of all kinds").click()
    expect(page.get_by_label("Class pictures")).to_have_count(0)  # they are there already
    visitor.shot("training-class-dataset", whole=False)
    page.get_by_role("button", name="Advanced settings").click()
    page.get_by_label("Maximum steps").fill("4")
    page.get_by_role("button", name="Create and start").click()
    page.get_by_role("link", name="one star").first.click()
    expect(page.get_by_test_id("job-status")).to_have_text("completed", timeout=60_000)
    job = next(each for each in client.training.list() if each.output_name == "one star")
    assert job.method == tr.TRAINING_METHOD_DREAMBOOTH
    assert job.config.dreambooth.class_dataset_id == others.id
    assert visitor.complaints == []


def test_a_model_is_pushed_to_a_hub_and_pulled_from_it(
    visit: Any, client: Atelier, hub: HubMade, trained: tuple[str, int]
) -> None:
    visitor = visit()
    page = visitor.page
    page.goto(f"/models/{trained[1]}")
    page.get_by_role("button", name="Push to a hub").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox", name="Repository").fill("someone/rounder")
    dialog.get_by_label("Token").fill("hf_a_wrong_one")
    assert visitor.violations() == []
    dialog.get_by_role("button", name="Push", exact=True).click()
    expect(dialog.get_by_role("alert").or_(dialog.locator("[aria-invalid=true]")).first).to_be_visible()
    visitor.shot("hub-refused", whole=False)
    dialog.get_by_label("Token").fill(TOKEN)
    dialog.get_by_role("button", name="Push", exact=True).click()
    expect(dialog.get_by_text("rounder is on the hub.")).to_be_visible()
    expect(dialog.get_by_role("link")).to_have_attribute("href", re.compile(f"^{re.escape(hub.url)}/someone/rounder"))
    visitor.shot("hub-pushed", whole=False)
    assert hub.repositories["someone/rounder"].private
    page.goto("/models")
    page.get_by_role("button", name="Pull from a hub").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox", name="Repository").fill("someone/rounder")
    dialog.get_by_role("combobox", name="Base").click()
    page.get_by_role("option", name="Atelier Starter").click()
    dialog.get_by_label("Name", exact=True).fill("rounder from afar")
    dialog.get_by_label("Token").fill(TOKEN)
    assert visitor.violations() == []
    visitor.shot("hub-pull", whole=False)
    dialog.get_by_role("button", name="Pull", exact=True).click()
    expect(page.get_by_role("heading", name="rounder from afar")).to_be_visible()
    pulled = next(each for each in client.models.list() if each.name == "rounder from afar")
    first = client.models.get(trained[1])
    assert pulled.base_model_id == first.base_model_id
    drawn = [client.generate("red apple", model=each, seed=3, steps=3) for each in (first.id, pulled.id)]
    one, other = (np.asarray(Image.open(io.BytesIO(each[0].data))).astype(int) for each in drawn)
    assert np.abs(one - other).max() <= 1
    visitor.complaints = [
        each for each in visitor.complaints if "40" not in each
    ]  # the refusal is one of the browser's
    assert visitor.complaints == []
