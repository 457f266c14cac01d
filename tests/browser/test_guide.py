"""The walk of docs/guide.*.md in both languages, on the starter model: it takes the pictures that the guides show."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from atelier_client import Atelier
from atelier_client.demo.__main__ import ASSETS, read_plan
from atelier_client.stack import Stack
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import ROOT, Visitor, settle, until, visitors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GUIDE = ROOT / "out" / "guide"
"""`make guide-images` copies it into docs/images/guide."""
WINDOW = {"width": 1180, "height": 800}
LOCALES = {"en": "en-GB", "fr": "fr-FR"}
SAYS = {
    "en": {
        "advanced": "Advanced settings",
        "output": "Output name",
        "model": "Model",
        "models": "Models",
        "guidance": "Guidance",
        "count": "Pictures",
        "generate": "Generate",
        "compare": "Compare",
        "start": "Use as a start",
        "mask": "Paint a mask",
        "grid": "Prompts",
        "draw": "Draw",
    },
    "fr": {
        "advanced": "Configuration avancée",
        "output": "Nom du modèle",
        "model": "Modèle",
        "models": "Modèles",
        "guidance": "Guidage",
        "count": "Images",
        "generate": "Générer",
        "compare": "Comparer",
        "start": "Partir de cette image",
        "mask": "Peindre un masque",
        "grid": "Prompts",
        "draw": "Dessiner",
    },
}


@pytest.fixture(scope="module")
def studio(built: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """As `make up` starts it: with the starter model."""
    with Stack(tmp_path_factory.mktemp("studio"), environment={"HF_HUB_OFFLINE": "1"}) as running:
        yield running


def choose(page: Any, box: str, *names: str) -> None:
    page.get_by_role("combobox", name=box, exact=True).click()
    for name in names:
        page.get_by_role("option", name=name, exact=True).click()
    page.keyboard.press("Escape")


def test_the_walk_of_the_guide(chromium: Any, studio: Stack) -> None:
    with studio.client() as client, visitors(chromium, studio) as visit:
        walk(client, {name: visit(GUIDE / name, locale=LOCALES[name], viewport=WINDOW) for name in LOCALES})
    for name in LOCALES:
        for shot in (GUIDE / name).glob("*.png"):
            with Image.open(shot) as picture:
                picture.save(shot.with_suffix(".webp"), quality=85, method=6)


def walk(client: Atelier, people: dict[str, Visitor]) -> None:
    plan = read_plan(ASSETS / "demo-prompts.json")

    def everyone(shot: str, path: str, look: Callable[[Any, dict[str, str]], None] = lambda *_: None) -> None:
        for language, person in people.items():
            person.page.goto(path)
            settle(person.page)
            look(person.page, SAYS[language])
            person.page.evaluate("window.scrollTo(0, 0)")
            person.shot(shot, whole=False)

    starter = next(model for model in client.models.seed().models if model.WhichOneof("weights") == "stored")
    dataset = client.datasets.create("line icons", description="Forty black line icons")
    client.datasets.upload(dataset, plan.images)
    everyone("dataset", f"/datasets/{dataset.id}")

    def fill(page: Any, says: dict[str, str]) -> None:
        page.get_by_label(says["output"]).fill("Line icons")
        page.get_by_role("button", name=says["advanced"]).click()

    everyone("training-form", f"/training?new={dataset.id}", fill)
    config = {**plan.training, "samples": {"prompts": plan.prompts[:6], "interval_steps": 50, "steps": 20}}
    job = client.training.create(dataset, starter.id, output_name="Line icons", config=config)
    everyone("training-pending", "/training")
    client.training.start(job.id)
    halfway = "document.querySelector('[data-testid=loss-chart]')?.dataset.points > 100"
    everyone("training-running", f"/training/{job.id}", lambda page, _: until(page, halfway, 200))
    for person in people.values():
        expect(person.page.get_by_test_id("job-status")).to_have_text(
            "completed" if person is people["en"] else "terminée", timeout=200_000
        )

    def draw(page: Any, says: dict[str, str]) -> None:
        choose(page, says["model"], "Line icons")
        page.get_by_label("Prompt", exact=True).fill("red apple")
        page.get_by_label(says["guidance"], exact=True).fill("3")
        page.get_by_label(says["count"], exact=True).fill("4")
        page.get_by_role("button", name=says["generate"], exact=True).click()
        expect(page.locator("[data-phase=done]")).to_be_visible(timeout=120_000)

    def compare(page: Any, says: dict[str, str]) -> None:
        choose(page, says["models"], "Atelier Starter", "Line icons")
        page.get_by_label("Prompt", exact=True).fill("dog face")
        page.get_by_label(says["guidance"], exact=True).fill("3")
        page.get_by_role("button", name=says["compare"], exact=True).click()
        expect(page.locator("[data-phase=done]")).to_have_count(2, timeout=120_000)

    def mask(page: Any, says: dict[str, str]) -> None:
        page.get_by_test_id("history").get_by_role("button", name=re.compile("^red apple, ")).first.click()
        page.get_by_role("dialog").get_by_role("button", name=says["start"]).first.click()
        page.get_by_role("button", name=says["mask"]).click()
        box = page.locator("canvas").bounding_box()
        across, down = box["x"] + 0.5 * box["width"], box["y"] + 0.14 * box["height"]
        page.mouse.move(across, down)
        page.mouse.down()
        for x, y in ((0.64, 0.1), (0.74, 0.2), (0.6, 0.22), (0.5, 0.3), (0.44, 0.2)):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
        page.mouse.up()

    def grid(page: Any, says: dict[str, str]) -> None:
        page.get_by_label(says["grid"], exact=True).fill("red apple\ndog face\nrocket")
        page.get_by_role("combobox", name=says["models"], exact=True).click()
        page.get_by_role("option", name="Atelier Starter", exact=True).click()
        page.keyboard.press("Escape")
        page.get_by_role("button", name=re.compile(f"^{says['draw']} 6 ")).click()
        expect(page.locator("[data-phase=done]")).to_be_visible(timeout=120_000)

    everyone("text-to-image", "/text-to-image", draw)
    everyone("compare", "/text-to-image/compare", compare)
    everyone("grid", "/text-to-image/grid", grid)
    everyone("model", f"/models/{client.training.get(job.id).model_id}")
    everyone("mask", "/text-to-image", mask)
    assert [person.complaints for person in people.values()] == [[], []]
