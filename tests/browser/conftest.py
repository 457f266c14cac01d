"""A real Chromium before the whole system: the built web app, the gateway, the three services, a tiny starter model."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from atelier_client import Atelier
from atelier_client.stack import Stack, gateway_problem
from PIL import Image, ImageDraw
from playwright.sync_api import expect, sync_playwright

from tests.catalog.hub_made import HubMade, hub_made
from tests.tiny import make_tiny_captioner, make_tiny_pipeline

ROOT = Path(__file__).parents[2]
WEB = ROOT / "gateway" / "web"
SHOTS = ROOT / "out" / "browser"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 30
"""How long a step of a test may take before it has failed: the tests beside it want the same cores."""
expect.set_options(timeout=SECONDS * 1000)


def settle(page: Any) -> None:
    """Waits until the page has its heading and nothing on it is still being fetched for the first time."""
    page.get_by_role("heading", level=1).wait_for()
    until(page, "!document.querySelector('.mantine-Skeleton-root, .mantine-Loader-root')")
    until(page, "[...document.images].every(image => image.complete)")


def until(page: Any, expression: str, seconds: float = 60) -> None:
    """Waits until JavaScript is true. Playwright's own wait evaluates in the page, which the page's policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """A browser of this machine. One a test run: it starts in half a second, and pages do not share anything."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    if problem := gateway_problem():
        pytest.skip(problem)
    # Of the package and no wider: Playwright keeps an event loop in this thread, and asynchronous tests need their own.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def built(chromium: Any) -> Path:
    """The built app, built first where it is missing or older than its sources."""
    index = WEB / "dist" / "index.html"
    skipped = {"node_modules", "dist", "gen"}
    sources = [
        file
        for folder in (WEB, ROOT / "protos")
        for file in folder.rglob("*")
        if file.is_file() and not skipped & set(file.relative_to(folder).parts)
    ]
    if not index.exists() or index.stat().st_mtime < max(file.stat().st_mtime for file in sources):
        subprocess.run([WEB / "build.sh", sys.executable], cwd=ROOT, check=True)
    return index.parent


@pytest.fixture(scope="package")
def hub() -> Iterator[HubMade]:
    """The hub that the studio pushes to and pulls from."""
    with hub_made() as made:
        yield made


@pytest.fixture(scope="package")
def stack(built: Path, hub: HubMade, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    captioner = make_tiny_captioner(tmp_path_factory.mktemp("captioner") / "tiny-blip")
    environment = {
        "ATELIER_CATALOG_STARTER_MODEL_DIR": str(make_tiny_pipeline(tmp_path_factory.mktemp("starter"))),
        "ATELIER_CATALOG_HUB_ENDPOINT": hub.url,
        "ATELIER_TRAINER_CAPTION_MODEL": str(captioner),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with Stack(tmp_path_factory.mktemp("stack"), environment=environment) as running:
        yield running


@pytest.fixture(scope="package")
def client(stack: Stack) -> Iterator[Atelier]:
    """The SDK, for what a test needs to be there and is not about."""
    with stack.client() as connected:
        connected.models.seed()
        yield connected


@pytest.fixture(scope="package")
def starter(client: Atelier) -> int:
    """The id of the model whose weights are here."""
    (model,) = [each for each in client.models.list() if each.id <= 100 and each.WhichOneof("weights") == "stored"]
    return model.id


class Visitor:
    """One person's browser: a page, and everything it complained of."""

    def __init__(self, context: Any, shots: Path) -> None:
        self.context = context
        self.shots = shots
        self.page = context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self._complain(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))

    def _complain(self, kind: str, text: str) -> None:
        if kind == "error":
            self.complaints.append(text)

    def shot(self, name: str, *, whole: bool = True) -> None:
        """A picture for people."""
        self.shots.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(350)  # the library's transitions
        self.page.screenshot(path=self.shots / f"{name}.png", full_page=whole)

    def violations(self) -> list[str]:
        """What axe finds that is serious or worse on the page as it is."""
        self.page.wait_for_timeout(350)  # colours in a transition are nobody's
        if not self.page.evaluate("typeof axe !== 'undefined'"):
            # By the debugger's way in: the page itself allows no foreign script.
            self.page.evaluate((WEB / "node_modules/axe-core/axe.min.js").read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            f"{each['id']}: {node['target']} {node['failureSummary']}"
            for each in found
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]


@contextmanager
def visitors(chromium: Any, stack: Stack) -> Iterator[Callable[..., Visitor]]:
    """Opens browsers before a studio: `visit(locale="fr-FR", color_scheme="dark", ...)`."""
    contexts: list[Any] = []

    def open_one(shots: Path = SHOTS, **options: Any) -> Visitor:
        context = chromium.new_context(
            base_url=f"http://{stack.addresses.gateway}",
            **{"locale": "en-GB", "viewport": {"width": 1280, "height": 860}, **options},
        )
        contexts.append(context)
        return Visitor(context, shots)

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def visit(chromium: Any, stack: Stack) -> Iterator[Callable[..., Visitor]]:
    """Opens browsers before the package's studio."""
    with visitors(chromium, stack) as open_one:
        yield open_one


@pytest.fixture(scope="package")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve captioned pictures and one file that is cut off in the middle."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(12):
        picture = Image.new("RGB", (96, 96), (20 * index, 255 - 20 * index, 140))
        # Each at a place of its own: moved far enough, they are no near-duplicates.
        left, top = 13 * (index % 4), 19 * (index // 4)
        ImageDraw.Draw(picture).ellipse((left, top, left + 56, top + 56), fill=(255 - 20 * index, 40, 20 * index))
        picture.save(folder / f"apple-{index:02}.png")
        (folder / f"apple-{index:02}.txt").write_text("red apple" if index % 2 else "blue star")
    (folder / "broken.png").write_bytes((folder / "apple-00.png").read_bytes()[:150])
    return sorted(folder.iterdir())


@pytest.fixture(scope="package")
def dataset(client: Atelier, pictures: list[Path]) -> int:
    """A dataset with the twelve pictures in it."""
    made = client.datasets.create("round things", description="Twelve of them")
    client.datasets.upload(made, pictures[0].parent)
    return int(made.id)


@pytest.fixture(scope="package")
def trained(client: Atelier, dataset: int, starter: int) -> tuple[str, int]:
    """A completed job and its model: what pages look like once there is something on them."""
    config = {
        "max_steps": 12,
        "batch_size": 2,
        "samples": {"prompts": ["red apple"], "interval_steps": 6, "steps": 4},
        "checkpoints": {"interval_steps": 4},
    }
    job = client.training.create(dataset, starter, output_name="rounder", config=config, start=True)
    *_, last = client.training.watch(job.id)
    assert last.WhichOneof("event") == "done"
    client.generate("red apple", model=last.done.model_id, seed=3, steps=4, count=2)
    return job.id, int(last.done.model_id)
