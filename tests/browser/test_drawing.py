"""All that is drawn from the web app: over a picture, within a mask, grids, clips, ControlNets; and the gallery."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atelier.generator.v1.generation_pb2 import (
    GENERATION_STATUS_COMPLETED,
    PICTURE_FORMAT_ANIMATED_WEBP,
    PICTURE_FORMAT_MP4,
    PROMPT_SYNTAX_PLAIN,
    Generation,
)
from atelier_client import Atelier
from atelier_client.stack import Stack
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import settle, until
from tests.registered import register_clips, register_control
from tests.tiny import make_tiny_control, make_tiny_lora, make_tiny_pipeline
from tests.tiny_families import make_tiny_svd

pytestmark = pytest.mark.slow  # minutes on two cores

BLUE = (40, 90, 200)
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of one colour, 96 x 64, of about a megabyte: what nobody wants in a browser's storage."""
    file = tmp_path_factory.mktemp("sky") / "sky.png"
    Image.new("RGB", (96, 64), BLUE).save(file, compress_level=0)
    file.write_bytes(file.read_bytes() + bytes(1_000_000))  # behind the picture's end
    return file


@pytest.fixture(scope="module")
def clips(stack: Stack, client: Atelier, tmp_path_factory: pytest.TempPathFactory) -> int:
    """A model that draws clips."""
    return register_clips(stack, client, make_tiny_svd(tmp_path_factory.mktemp("svd") / "waves"))


@pytest.fixture(scope="module")
def edges(stack: Stack, client: Atelier, tmp_path_factory: pytest.TempPathFactory) -> int:
    """A ControlNet that has learnt nothing, but is not silent."""
    place = tmp_path_factory.mktemp("control")
    return register_control(stack, client, make_tiny_control(place / "edges", make_tiny_pipeline(place / "pipeline")))


@pytest.fixture(scope="module")
def ink(client: Atelier, starter: int, tmp_path_factory: pytest.TempPathFactory) -> int:
    """A LoRA."""
    place = tmp_path_factory.mktemp("ink")
    file = make_tiny_lora(place, make_tiny_pipeline(place / "base"))
    return client.models.import_weights(file, starter, name="ink").id


def newest(client: Atelier) -> Generation:
    return client.generations.recent(limit=1)[0]


def pixels(client: Atelier, generation: Generation, index: int = 0) -> np.ndarray:
    """(H, W, 3)."""
    with Image.open(io.BytesIO(client.generations.image_bytes(generation.id, index))) as picture:
        return np.asarray(picture.convert("RGB"))


def draw(page: Any, button: str = "Generate") -> None:
    """Presses the button and waits for the pictures."""
    drawing = page.get_by_test_id("drawing")
    before = drawing.get_attribute("data-request") if drawing.count() else None
    page.get_by_role("button", name=button, exact=True).click()
    if before:
        expect(drawing).not_to_have_attribute("data-request", before)
    expect(page.locator("[data-phase=done]")).to_be_visible(timeout=90_000)


def unfold(page: Any, title: str) -> None:
    heading = page.get_by_role("button", name=title)
    if heading.get_attribute("aria-expanded") != "true":
        heading.click()
    expect(heading).to_have_attribute("aria-expanded", "true")


def choose(page: Any, box: str, option: str) -> None:
    page.get_by_role("combobox", name=box, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def begin(page: Any, model: int, prompt: str = "red apple", steps: int = 4) -> None:
    page.goto(f"/text-to-image?model={model}")
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Steps", exact=True).fill(str(steps))


def paint(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drags over the canvas from and to places that are shares of its sides."""
    box = page.locator("canvas").bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=8)
    page.mouse.up()


def test_a_picture_is_drawn_over_where_a_mask_is_painted_and_a_reload_keeps_it(
    visit: Any, client: Atelier, starter: int, sky: Path
) -> None:
    visitor = visit()
    page = visitor.page
    begin(page, starter)
    unfold(page, "Begin with a picture")
    page.get_by_role("group", name="Picture").locator("input[type=file]").first.set_input_files(sky)
    expect(page.get_by_text("sky.png")).to_be_visible()
    page.get_by_label("Strength", exact=True).fill("1")
    page.get_by_role("button", name="Paint a mask").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("canvas")).to_be_focused()
    for place in (0.06, 0.14, 0.22):  # a brush is a tenth wide
        paint(page, (place, 0.1), (place, 0.9))
    visitor.shot("mask-painted", whole=False)
    assert visitor.violations() == []
    dialog.get_by_role("button", name="Use this mask").click()
    expect(page.get_by_text("What is painted is drawn anew")).to_be_visible()
    page.get_by_label("Mask blur", exact=True).fill("0")
    visitor.shot("image-to-image")
    draw(page)
    drawn = newest(client)
    assert drawn.settings.image_to_image.mask.sha256
    assert (drawn.settings.image_to_image.strength, drawn.settings.image_to_image.mask_blur) == (1, 0)
    picture = pixels(client, drawn).astype(int)
    away = np.abs(picture - np.array(BLUE)).max(axis=2)
    wide = picture.shape[1]
    assert away[:, wide // 2 :].max() <= 2, "what is not painted stays"
    assert np.median(away[4:-4, wide // 20 : wide // 6]) > 10, "what is painted does not"
    visitor.shot("image-to-image-drawn")

    stored = page.evaluate("Object.values(sessionStorage).join('').length")
    assert stored < 30_000, "the storage has digests, and no megabyte"
    page.reload()
    expect(page.get_by_text("sky.png")).to_be_visible()
    expect(page.get_by_role("button", name="Change the mask")).to_be_visible()
    draw(page)
    again = newest(client)
    assert again.id != drawn.id
    assert again.settings.image_to_image.mask.sha256 == drawn.settings.image_to_image.mask.sha256
    assert visitor.complaints == []


def test_a_mask_is_painted_by_keyboard_and_by_finger(visit: Any, client: Atelier, starter: int, sky: Path) -> None:
    visitor = visit(viewport=PHONE, device_scale_factor=2, has_touch=True, is_mobile=True, locale="fr-FR")
    page = visitor.page
    page.goto(f"/text-to-image?model={starter}")
    page.get_by_label("Prompt", exact=True).fill("red apple")
    unfold(page, "Partir d'une image")
    page.get_by_role("group", name="Image").locator("input[type=file]").first.set_input_files(sky)
    page.get_by_role("button", name="Peindre un masque").tap()
    canvas = page.locator("canvas")
    expect(canvas).to_be_focused()
    painted = """() => {
        const canvas = document.querySelector('canvas');
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return data.filter((value, place) => place % 4 === 3 && value > 127).length;
    }"""
    assert page.evaluate(painted) == 0
    page.keyboard.press("Space")
    dot = page.evaluate(painted)
    assert dot > 0
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    line = page.evaluate(painted)
    assert line > dot
    box = canvas.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.1)
    touched = page.evaluate(painted)
    assert touched > line
    page.get_by_role("button", name="Inverser").tap()
    assert page.evaluate(painted) == 96 * 64 - touched
    page.get_by_text("Gomme", exact=True).tap()
    page.touchscreen.tap(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.8)
    assert page.evaluate(painted) < 96 * 64 - touched
    visitor.shot("phone-mask", whole=False)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_role("button", name="Garder ce masque").tap()
    expect(page.get_by_role("button", name="Modifier le masque")).to_be_visible()
    page.get_by_role("button", name="Modifier le masque").tap()
    until(page, f"({painted})() > 0")  # it goes on with what was painted
    page.get_by_role("button", name="Effacer tout").tap()
    page.get_by_role("button", name="Garder ce masque").tap()
    expect(page.get_by_role("button", name="Peindre un masque")).to_be_visible()  # nothing painted is no mask
    assert visitor.complaints == []


def test_a_drawn_picture_begins_another_which_is_kept_found_and_deleted(
    visit: Any, client: Atelier, starter: int
) -> None:
    first = client.generate("green tree", model=starter, steps=3, seed=5).generation
    visitor = visit()
    page = visitor.page
    page.goto("/text-to-image")
    history = page.get_by_test_id("history")
    history.get_by_role("button", name=re.compile("green tree")).first.click()
    page.get_by_role("dialog").get_by_role("button", name="Use as a start").click()
    expect(page.get_by_text("Picture 1 of another drawing")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("green tree")
    page.get_by_label("Prompt", exact=True).fill("blue tree")
    draw(page)
    child = newest(client)
    assert [(each.generation_id, each.index) for each in child.parents] == [(first.id, 0)]

    history.get_by_role("button", name=re.compile("blue tree")).first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_test_id("beginnings")).to_contain_text("Begun with")
    dialog.get_by_role("button", name="Keep", exact=True).click()
    expect(dialog.get_by_role("button", name="Keep no longer")).to_be_visible()
    visitor.shot("gallery-dialog", whole=False)
    assert visitor.violations() == []
    assert client.gallery.get(child.id).is_kept
    dialog.get_by_role("button", name="Picture 1 of another drawing").click()
    expect(dialog.get_by_role("heading", name="green tree", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)

    page.get_by_label("Words of the prompt").fill("tree")
    expect(history.get_by_role("listitem")).to_have_count(2)
    page.get_by_role("search").get_by_text("Kept", exact=True).click()
    expect(history.get_by_role("listitem")).to_have_count(1)
    expect(history.get_by_role("img", name="Kept")).to_be_visible()
    visitor.shot("gallery-filtered")
    assert visitor.violations() == []
    page.get_by_role("combobox", name="State").click()
    page.get_by_role("option", name="failed").click()
    expect(page.get_by_text("Nothing drawn fits that.")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    choose(page, "Model of the drawings", "Stable Diffusion XL")
    expect(page.get_by_text("Nothing drawn fits that.")).to_be_visible()
    page.get_by_role("button", name="Show all").click()

    history.get_by_role("button", name=re.compile("blue tree")).first.click()
    dialog.get_by_role("button", name="Delete from history").click()
    expect(page.get_by_text("You have kept it.")).to_be_visible()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(history.get_by_role("button", name=re.compile("blue tree"))).to_have_count(0)
    assert child.id not in {each.id for each in client.generations.recent(limit=50)}
    assert visitor.complaints == []


def test_a_picture_of_a_dataset_begins_a_drawing(visit: Any, client: Atelier, starter: int, dataset: int) -> None:
    visitor = visit()
    page = visitor.page
    begin(page, starter)
    unfold(page, "Begin with a picture")
    page.get_by_role("button", name="From a dataset").click()
    dialog = page.get_by_role("dialog")
    choose(page, "Dataset", "round things")
    choices = dialog.get_by_test_id("picture-choices").get_by_role("button")
    expect(choices).to_have_count(12)
    until(page, "[...document.images].every(image => image.complete)")
    visitor.shot("picture-of-dataset", whole=False)
    assert visitor.violations() == []
    choices.first.click()
    expect(page.get_by_text(re.compile(r"Picture \d+ of a dataset"))).to_be_visible()
    draw(page)
    image = next(client.datasets.images(dataset))
    assert newest(client).settings.image_to_image.image.dataset_image_id == image.id


def test_a_grid_says_its_count_and_comes_as_a_sheet_with_its_cells(visit: Any, client: Atelier, starter: int) -> None:
    visitor = visit()
    page = visitor.page
    page.goto("/text-to-image/grid")
    settle(page)
    page.get_by_label("Prompts", exact=True).fill("cat\ndog")
    expect(page.get_by_text("Atelier Starter", exact=True).first).to_be_visible()  # chosen already
    page.get_by_label("Seeds").fill("1, 2, x")
    expect(page.get_by_text("Not a number here: x")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^Draw "))).to_be_disabled()
    page.get_by_label("Seeds").fill("1, 2, 3")
    expect(page.get_by_text("2 prompts × 3 seeds = 6 pictures")).to_be_visible()
    page.get_by_label("Steps", exact=True).fill("3")
    visitor.shot("grid-form")
    draw(page, "Draw 6 pictures")
    result = page.get_by_test_id("drawing")
    expect(result.get_by_role("img", name="Labelled sheet of 6 pictures")).to_be_visible()
    expect(result.get_by_role("img", name=re.compile("^(cat|dog), seed [123]$"))).to_have_count(6)
    until(page, "[...document.images].every(image => image.complete)")
    visitor.shot("grid-drawn")
    assert visitor.violations() == []
    drawn = newest(client)
    assert (list(drawn.settings.grid.prompts), list(drawn.settings.grid.seeds)) == (["cat", "dog"], [1, 2, 3])
    assert drawn.images[-1].is_sheet
    with page.expect_download() as download:
        result.get_by_role("link", name="Download the sheet").click()
    assert download.value.suggested_filename.endswith("-grid.png")

    result.get_by_role("button", name="Same seed").nth(4).click()
    expect(page).to_have_url(re.compile("/text-to-image$"))
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("dog")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("2")
    page.get_by_test_id("history").get_by_role("button", name=re.compile("Labelled sheet")).first.click()
    page.get_by_role("dialog").get_by_role("button", name="Use these settings").click()
    expect(page).to_have_url(re.compile("/text-to-image/grid$"))
    expect(page.get_by_label("Seeds")).to_have_value("1, 2, 3")
    assert visitor.complaints == []


def test_a_grid_compares_weights_of_a_lora(visit: Any, client: Atelier, ink: int) -> None:
    page = visit().page
    page.goto(f"/text-to-image?model={ink}")
    page.get_by_label("Prompt", exact=True).fill("cat")
    page.get_by_label("Steps", exact=True).fill("3")
    page.get_by_role("tab", name="Grid").click()
    expect(page.get_by_label("Prompts", exact=True)).to_have_value("cat")
    page.get_by_label("LoRA weights").fill("0, 0.5, 1")
    page.get_by_label("Seeds").fill("4")
    expect(page.get_by_text("3 weights = 3 pictures")).to_be_visible()
    draw(page, "Draw 3 pictures")
    drawn = newest(client)
    assert [image.lora_weight for image in drawn.images if not image.is_sheet] == [0, 0.5, 1]
    assert {image.model_id for image in drawn.images if not image.is_sheet} == {ink}


def test_formats_signs_lists_and_exactness_are_asked_for(visit: Any, client: Atelier, starter: int) -> None:
    visitor = visit()
    page = visitor.page
    begin(page, starter, "a (red:1.3) __fruit__")
    unfold(page, "Weights and wildcards")
    page.get_by_role("button", name="Write “fruit”").click()
    page.get_by_label("One a line").fill("apple\n# not a pear\napple")
    unfold(page, "File and exactness")
    choose(page, "Format", "JPEG")
    page.get_by_label("Quality", exact=True).fill("40")
    page.get_by_label("Guidance rescale", exact=True).fill("0.7")
    page.get_by_label("The same bytes each time").check()
    visitor.shot("formats")
    assert visitor.violations() == []
    draw(page)
    drawn = newest(client)
    assert drawn.images[0].content_type == "image/jpeg"
    assert drawn.images[0].prompt == "a (red:1.3) apple"
    assert (drawn.settings.quality, drawn.settings.deterministic) == (40, True)
    assert drawn.settings.guidance_rescale == pytest.approx(0.7)
    assert list(drawn.settings.wildcards["fruit"].lines) == ["apple", "apple"]
    with page.expect_download() as download:
        page.get_by_test_id("drawing").get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes().startswith(b"\xff\xd8")
    assert download.value.suggested_filename.endswith(".jpg")

    choose(page, "Format", "WebP")
    page.get_by_text("As they stand", exact=True).click()
    draw(page)
    plain = newest(client)
    assert plain.images[0].content_type == "image/webp"
    assert plain.settings.prompt_syntax == PROMPT_SYNTAX_PLAIN
    assert plain.images[0].prompt == "a (red:1.3) __fruit__"


def test_what_the_server_refuses_in_a_folded_section_is_shown_there(visit: Any, starter: int) -> None:
    page = visit().page
    begin(page, starter, "a __nowhere__")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_role("button", name="Weights and wildcards")).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("alert")).to_contain_text("nowhere")


def test_a_controlnet_steers_and_a_second_pass_enlarges(
    visit: Any, client: Atelier, starter: int, edges: int, sky: Path
) -> None:
    visitor = visit()
    page = visitor.page
    begin(page, starter)
    unfold(page, "ControlNets")
    page.get_by_role("combobox", name="Add a ControlNet").click()
    page.get_by_role("option", name="edges").click()
    net = page.get_by_role("group", name="edges")
    net.locator("input[type=file]").set_input_files(sky)
    net.get_by_label("Weight").fill("0.8")
    net.get_by_label("Until").fill("0.5")
    unfold(page, "Larger picture")
    page.get_by_role("switch", name="Enlarge it, and draw over it").check()
    page.get_by_label("Times").fill("1.5")
    visitor.shot("controlnet")
    assert visitor.violations() == []
    draw(page)
    drawn = newest(client)
    (control,) = drawn.settings.controls
    assert (control.model_id, control.weight, control.start, control.end) == (edges, 0.8, 0, 0.5)
    assert drawn.settings.high_resolution.scale == 1.5
    assert (drawn.images[0].width, drawn.images[0].height) == (96, 96)
    expect(page.get_by_test_id("drawing")).to_contain_text("1.5 times, strength 0.5, 4 steps")
    assert visitor.complaints == []


def test_a_clip_is_drawn_from_its_first_picture_and_played(visit: Any, client: Atelier, clips: int, sky: Path) -> None:
    visitor = visit()
    page = visitor.page
    page.goto(f"/text-to-image?model={clips}")
    page.get_by_label("Steps", exact=True).fill("3")
    expect(page.get_by_label("Prompt", exact=True)).to_have_count(0)
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_disabled()
    expect(page.get_by_label("Guidance", exact=True)).to_have_value("")  # clips have a default of their own
    page.get_by_role("group", name="First picture").locator("input[type=file]").set_input_files(sky)
    page.get_by_label("Frames", exact=True).fill("4")
    page.get_by_label("Frames a second").fill("5")
    visitor.shot("clip-form")
    assert visitor.violations() == []
    draw(page)
    film = newest(client)
    assert film.status == GENERATION_STATUS_COMPLETED
    assert (film.settings.format, film.images[0].num_frames) == (PICTURE_FORMAT_MP4, 4)
    assert film.settings.guidance_scale == 3
    until(page, "document.querySelector('[data-testid=drawing] video')?.videoWidth > 0")
    visitor.shot("clip-drawn")
    unfold(page, "File and exactness")
    choose(page, "Format", "Animated WebP")
    draw(page)
    animation = newest(client)
    assert animation.settings.format == PICTURE_FORMAT_ANIMATED_WEBP
    expect(page.get_by_test_id("drawing").get_by_role("img")).to_have_count(1)
    expect(page.get_by_test_id("drawing")).to_contain_text("4 frames")
    assert visitor.complaints == []


def test_a_model_leaves_memory_and_is_brought_back(visit: Any, client: Atelier, starter: int) -> None:
    client.generations.load(starter)
    page = visit().page
    page.goto(f"/models/{starter}")
    memory = page.get_by_test_id("memory")
    expect(memory).to_contain_text("In memory")
    memory.get_by_role("button", name="Make room").click()
    expect(memory).to_contain_text("Not in memory")
    assert starter not in {each.model_id for each in client.generations.loaded()}
    memory.get_by_role("button", name="Load").click()
    expect(memory).to_contain_text("In memory", timeout=60_000)
