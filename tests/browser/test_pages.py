"""Every page as people meet it: accessible, in two languages, dark, on a phone, light to load, plain in error."""

import io
import re
from typing import Any

import pytest
from atelier_client import Atelier
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import settle

pytestmark = pytest.mark.slow  # minutes on two cores

BUDGET = 400_000
"""Bytes of a first load, compressed, as they come over the wire."""
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="package")
def pages(dataset: int, trained: tuple[str, int]) -> dict[str, str]:
    """Every page of the app, with something on it."""
    job, model = trained
    return {
        "datasets": "/datasets",
        "dataset": f"/datasets/{dataset}",
        "training": "/training",
        "job": f"/training/{job}",
        "text-to-image": "/text-to-image",
        "compare": "/text-to-image/compare",
        "grid": "/text-to-image/grid",
        "models": "/models",
        "model": f"/models/{model}",
        "missing": "/models/0815/nothing",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(visit: Any, pages: dict[str, str], scheme: str) -> None:
    visitor = visit(color_scheme=scheme)
    found: dict[str, list[str]] = {}
    for name, path in pages.items():
        visitor.page.goto(path)
        settle(visitor.page)
        visitor.shot(f"{scheme}-{name}")
        found[name] = visitor.violations()
    assert visitor.page.evaluate("getComputedStyle(document.documentElement).colorScheme") == scheme
    assert {name: each for name, each in found.items() if each} == {}
    assert visitor.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_dialog(visit: Any, pages: dict[str, str], scheme: str) -> None:
    visitor = visit(color_scheme=scheme)
    page = visitor.page
    dialogs = [
        ("datasets", lambda: page.get_by_role("button", name="Create New Dataset").click()),
        ("dataset", lambda: page.get_by_role("button", name=re.compile("^Open apple")).first.click()),
        ("dataset", lambda: page.get_by_role("button", name="Edit captions").click()),
        ("training", lambda: page.get_by_role("button", name="New Training Job").click()),
        ("text-to-image", lambda: page.get_by_test_id("history").get_by_role("button").first.click()),
        ("model", lambda: page.get_by_role("button", name="Edit").click()),
        ("model", lambda: page.get_by_role("button", name="Delete model").click()),
    ]
    found: list[str] = []
    for number, (name, open_dialog) in enumerate(dialogs):
        page.goto(pages[name])
        settle(page)
        open_dialog()
        page.get_by_role("dialog").wait_for()
        if name == "training":
            page.get_by_role("button", name="Advanced settings").click()
        visitor.shot(f"{scheme}-dialog-{number}", whole=False)
        found += visitor.violations()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    assert found == []


def test_no_page_overflows_a_phone(visit: Any, pages: dict[str, str]) -> None:
    visitor = visit(viewport=PHONE, device_scale_factor=2, has_touch=True, is_mobile=True, locale="fr-FR")
    page = visitor.page
    too_wide: dict[str, int] = {}
    for name, path in pages.items():
        page.goto(path)
        settle(page)
        visitor.shot(f"phone-{name}")
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            too_wide[name] = width
    assert too_wide == {}
    page.get_by_role("button", name="Menu").tap()
    page.get_by_role("link", name="Entraînement").tap()
    expect(page).to_have_url(re.compile("/training$"))
    expect(page.get_by_role("heading", level=1, name="Entraînement")).to_be_visible()


def test_the_language_is_the_browsers_and_a_switch_keeps_another(visit: Any, pages: dict[str, str]) -> None:
    visitor = visit(locale="fr-CA")
    page = visitor.page
    page.goto("/training")
    expect(page.get_by_role("button", name="Nouvelle Tâche d'Entraînement")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "fr"
    for name in ("datasets", "dataset", "job", "text-to-image", "model"):
        page.goto(pages[name])
        settle(page)
        visitor.shot(f"french-{name}")
    page.get_by_text("EN", exact=True).click()
    page.goto("/datasets")
    expect(page.get_by_role("button", name="Create New Dataset")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "en"


def test_the_colours_are_the_systems_and_a_switch_keeps_others(visit: Any) -> None:
    page = visit(color_scheme="dark").page
    page.goto("/datasets")
    page.get_by_role("button", name="Switch to light colours").click()
    page.reload()
    expect(page.get_by_role("button", name="Switch to dark colours")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"


def test_the_first_load_is_small_and_all_from_here(visit: Any, pages: dict[str, str]) -> None:
    for path in pages.values():
        visitor = visit()
        page = visitor.page
        page.goto(path)
        settle(page)
        loaded = page.evaluate(
            """[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
               .filter(({name}) => !new URL(name).pathname.startsWith('/api/'))
               .map(({name, transferSize}) => [name, transferSize])"""
        )
        assert {name.split("/")[2] for name, _ in loaded} == {page.url.split("/")[2]}, "nothing from elsewhere"
        assert 50_000 < sum(size for _, size in loaded) < BUDGET, path
        assert page.evaluate("document.querySelectorAll('script:not([src])').length") == 0
        assert visitor.complaints == []


def test_a_refused_field_says_why_where_it_is(visit: Any, pages: dict[str, str]) -> None:
    visitor = visit()
    page = visitor.page
    page.goto("/datasets")
    page.get_by_role("button", name="Create New Dataset").click()
    page.get_by_label("Name").fill("a/b")
    page.get_by_role("button", name="Create Dataset", exact=True).click()
    name = page.get_by_label("Name")
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(name).to_be_focused()
    expect(name).to_have_accessible_description(re.compile("no control character or slash"))
    page.get_by_label("Name").fill("round things")
    page.get_by_role("button", name="Create Dataset", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("round things")

    page.goto("/training")
    page.get_by_role("button", name="New Training Job").click()
    page.get_by_role("button", name="Advanced settings").click()
    page.get_by_label("LoRA rank").fill("100000")
    page.get_by_role("button", name="Create Job").click()
    rank = page.get_by_label("LoRA rank")
    expect(rank).to_have_attribute("aria-invalid", "true")
    expect(rank).to_be_focused()
    visitor.shot("field-error", whole=False)

    page.goto("/text-to-image")
    page.get_by_label("Width").fill("68")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_text("must be a multiple of 8")).to_be_visible()
    expect(page.get_by_label("Width")).to_be_focused()


def test_captions_change_one_by_one_and_all_at_once(visit: Any, client: Atelier, pictures: list[Any]) -> None:
    made = client.datasets.create("captions to change")
    client.datasets.upload(made, pictures[0].parent)
    page = visit().page
    page.goto(f"/datasets/{made.id}")
    page.get_by_role("button", name="Open apple-00.png").click()
    page.get_by_label("Caption").fill("a very blue star")
    page.get_by_label("Caption").press("Control+Enter")  # saves, and shows the next
    expect(page.get_by_role("dialog")).to_contain_text("2 / 12")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Edit captions").click()
    page.get_by_label("Put before every caption").fill("sks, ")
    page.get_by_label("Find").fill("blue")
    page.get_by_label("Replace with").fill("green")
    expect(page.get_by_role("dialog").get_by_role("status")).to_have_text("12 captions will change")
    page.get_by_role("button", name="Change captions").click()
    expect(page.get_by_text("12 captions changed")).to_be_visible()
    expect(page.get_by_test_id("image-grid").get_by_text("sks, green star")).to_have_count(5)
    captions = sorted(image.caption for image in client.datasets.images(made))
    assert captions == sorted(["sks, a very green star"] + ["sks, green star"] * 5 + ["sks, red apple"] * 6)

    for name in ("apple-01.png", "apple-02.png"):
        page.get_by_role("checkbox", name=f"Select {name}").check()
    page.get_by_role("button", name="Delete selected").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("10 images ·")).to_be_visible()
    assert client.datasets.get(made.id).num_items == 10


def test_the_same_prompt_and_seed_are_compared_across_models(
    visit: Any, client: Atelier, trained: tuple[str, int]
) -> None:
    visitor = visit()
    page = visitor.page
    page.goto("/text-to-image/compare")
    models = page.get_by_role("combobox", name="Models")
    models.click()
    page.get_by_role("option", name="rounder").click()
    page.get_by_role("option", name="Atelier Starter").click()
    page.keyboard.press("Escape")
    page.get_by_label("Prompt", exact=True).fill("cat")
    page.get_by_label("Steps").fill("6")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("[data-phase=done]")).to_have_count(2, timeout=60_000)
    visitor.shot("compared")
    one, other = client.generations.recent(limit=2)
    assert one.settings.seed == other.settings.seed
    assert {one.settings.model_id, other.settings.model_id} == {trained[1], 4}
    assert one.images[0].sha256 != other.images[0].sha256


def test_a_model_is_renamed_and_a_deactivated_one_is_not_offered(
    visit: Any, client: Atelier, dataset: int, starter: int
) -> None:
    job = client.training.create(dataset, starter, config={"max_steps": 1, "batch_size": 1}, start=True)
    *_, last = client.training.watch(job.id)
    page = visit().page
    page.goto(f"/models/{last.done.model_id}")
    lineage = page.get_by_test_id("lineage")
    expect(lineage.get_by_role("link")).to_have_text(["Atelier Starter", "round things", job.id[:8]])
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Name").fill("renamed")
    page.get_by_role("switch", name="Active").uncheck()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1, name="renamed")).to_be_visible()
    expect(page.get_by_text("inactive", exact=True)).to_be_visible()
    assert client.models.get(last.done.model_id).name == "renamed"
    page.goto("/text-to-image")
    page.get_by_role("combobox", name="Model").click()
    expect(page.get_by_role("option", name="Atelier Starter")).to_be_visible()
    expect(page.get_by_role("option", name="renamed")).to_have_count(0)
    page.goto(f"/models/{last.done.model_id}")
    page.get_by_role("button", name="Delete model").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page).to_have_url(re.compile("/models$"))


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (number % 256, number // 256, 99)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_thousand_images_scroll_like_ten(visit: Any, client: Atelier, tmp_path: Any) -> None:
    for number in range(5000):
        (tmp_path / f"{number:04}.png").write_bytes(png(number))
    made = client.datasets.create("five thousand")
    client.datasets.upload(made, tmp_path)
    page = visit().page
    page.goto(f"/datasets/{made.id}")
    grid = page.get_by_test_id("image-grid")
    expect(grid.get_by_role("checkbox").first).to_be_visible()
    assert grid.get_by_role("checkbox").count() < 100, "only what is in view is in the page"
    most = page.evaluate(
        """async () => {
            let most = 0;
            for (let frame = 0; frame < 120; frame += 1) {
                window.scrollBy(0, 400);
                await new Promise(requestAnimationFrame);
                most = Math.max(most, document.querySelectorAll('[data-testid=image-grid] [type=checkbox]').length);
            }
            return most;
        }"""
    )
    assert 10 < most < 100, "scrolling draws a screenful, whatever the dataset's size"
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    expect(grid.get_by_role("checkbox", name="Select 4999.png")).to_be_visible()
