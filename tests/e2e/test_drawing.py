"""All ways of drawing, as a user has them: by the SDK through the gateway, and by the command."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atelier.generator.v1.generation_pb2 import (
    GENERATION_STATUS_CANCELLED,
    GENERATION_STATUS_COMPLETED,
    GENERATION_STATUS_RUNNING,
    Generation,
)
from atelier_client import Atelier, Control, HighResolution
from atelier_client.errors import FailedPrecondition, InvalidArgument, NotFound
from atelier_client.stack import Stack, gateway_problem
from PIL import Image

from services.common.clips import probe
from tests.e2e.conftest import Command, import_path
from tests.registered import register_clips, register_control
from tests.tiny import make_tiny_control, make_tiny_lora
from tests.tiny_families import make_tiny_svd


@pytest.fixture(scope="module")
def through(stack: Stack, client: Atelier) -> Iterator[Atelier]:
    """A client that reaches everything through the gateway."""
    if problem := gateway_problem():
        pytest.skip(problem)
    edge = str(stack.addresses.gateway)
    with Atelier(catalog=edge, trainer=edge, generator=edge) as connected:
        yield connected


@pytest.fixture(scope="module")
def lora(client: Atelier, starter: int, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> int:
    pipeline = Path(environment["ATELIER_CATALOG_STARTER_MODEL_DIR"])
    file = make_tiny_lora(tmp_path_factory.mktemp("ink"), pipeline)
    return client.models.import_weights(file, starter, name="ink").id


@pytest.fixture(scope="module")
def clips(stack: Stack, client: Atelier, tmp_path_factory: pytest.TempPathFactory) -> int:
    """A model that draws clips."""
    return register_clips(stack, client, make_tiny_svd(tmp_path_factory.mktemp("svd") / "waves"))


@pytest.fixture(scope="module")
def canny(stack: Stack, client: Atelier, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> int:
    """A ControlNet that has learnt nothing, but is not silent."""
    pipeline = Path(environment["ATELIER_CATALOG_STARTER_MODEL_DIR"])
    folder = make_tiny_control(tmp_path_factory.mktemp("controlnet") / "canny", pipeline)
    return register_control(stack, client, folder)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of the model's own size: left half red, right half blue."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32, 0], pixels[:, 32:, 2] = 220, 220
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def pixels_of(data: bytes) -> np.ndarray:
    """(H, W, 3) int."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def distance(one: bytes, other: bytes) -> float:
    return float(abs(pixels_of(one) - pixels_of(other)).mean())


def ended(client: Atelier, generation_id: str) -> Generation:
    """A generation that is about to end, once it has."""
    deadline = time.monotonic() + 30
    while (found := client.gallery.get(generation_id)).status <= GENERATION_STATUS_RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_a_picture_is_drawn_over_as_strongly_as_asked(
    through: Atelier, starter: int, photo: Path, pictures: Path
) -> None:
    other = Image.new("RGB", (64, 64), (250, 250, 40))
    weak, strong = (
        [through.generate("red apple", model=starter, seed=1, steps=10, image=each, strength=strength) for each in both]
        for strength, both in ((0.1, (photo, other)), (1.0, (photo, other)))
    )
    assert distance(strong[0][0].data, strong[1][0].data) < distance(weak[0][0].data, weak[1][0].data) / 2
    again = through.generate("red apple", model=starter, seed=1, steps=10, image=Image.open(photo), strength=0.1)
    assert distance(again[0].data, weak[0][0].data) < 1
    settings = weak[0].generation.settings
    assert settings.image_to_image.image.sha256, "bytes are kept, and named by their digest"
    redrawn = through.generations.draw(settings)
    assert distance(redrawn[0].data, weak[0][0].data) < 1, "an answer's settings are a request's"
    child = through.generate("red apple", model=starter, seed=1, steps=4, image=weak[0][0])
    (parent,) = child.generation.parents
    assert (parent.generation_id, parent.index) == (weak[0].generation.id, 0)
    dataset = through.datasets.create("to be drawn over")
    through.datasets.upload(dataset, pictures)
    image = next(iter(through.datasets.images(dataset)))
    assert len(through.generate("red apple", model=starter, seed=1, steps=4, image=image)) == 1


def test_what_the_mask_leaves_stays(through: Atelier, starter: int, photo: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    drawing = through.generate(
        "red apple", model=starter, seed=1, steps=6, image=photo, mask=mask, mask_blur=0, strength=1.0
    )
    before, after = pixels_of(photo.read_bytes()), pixels_of(drawing[0].data)
    assert abs(before - after)[:, :32].max() <= 1
    assert abs(before - after)[:, 32:].mean() > 5
    with pytest.raises(InvalidArgument) as wrong:
        through.generate("x", model=starter, image=photo, mask=Image.new("L", (30, 20)))
    assert "settings.image_to_image.mask" in wrong.value.fields


def test_the_command_paints_within_a_mask(atelier: Command, starter: int, photo: Path, tmp_path: Path) -> None:
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    done = atelier(
        *("generate", "red apple", "--model", starter, "--steps", 4, "--seed", 2, "--image", photo),
        *("--mask", tmp_path / "mask.png", "--strength", 0.9, "--out", tmp_path / "over.jpg", "--json"),
    )
    assert done.code == 0, done.err
    assert (done.json["settings"]["format"], done.json["images"][0]["content_type"]) == ("jpeg", "image/jpeg")
    assert Image.open(tmp_path / "over.jpg").format == "JPEG"


def test_clips_are_drawn_from_a_picture(
    through: Atelier, atelier: Command, clips: int, photo: Path, tmp_path: Path
) -> None:
    drawing = through.generate("", model=clips, image=photo, frames=3, fps=5, steps=2, seed=1)
    assert (drawing[0].num_frames, drawing[0].suffix) == (3, ".mp4")
    clip = probe(drawing[0].data)
    assert (clip.width, clip.height, clip.num_frames) == (drawing[0].width, drawing[0].height, 3)
    done = atelier(
        *("generate", "", "--model", clips, "--image", photo, "--frames", 3, "--steps", 2, "--seed", 1),
        *("--out", tmp_path / "waves.webp"),
    )
    assert done.code == 0, done.err
    assert "3 frames" in done.out
    assert getattr(Image.open(tmp_path / "waves.webp"), "n_frames", 1) == 3


def test_loras_are_mixed_by_their_weights(through: Atelier, atelier: Command, starter: int, lora: int) -> None:
    base, silent, loud = (
        through.generate("red apple", model=starter, seed=1, steps=4, loras=loras)[0].data
        for loras in ({}, {"ink": 0.0}, {"ink": 1.0})
    )
    assert distance(base, silent) < 1 < distance(base, loud)
    alone = through.generate("red apple", model=lora, seed=1, steps=4, lora_weight=1.0)[0].data
    assert distance(alone, loud) < 1
    done = atelier("generate", "red apple", "-m", starter, "--lora", "ink=0.5", "--steps", 2, "--json")
    assert done.json["settings"]["loras"] == [{"model_id": lora, "weight": 0.5}]


def test_a_controlnet_has_its_say(through: Atelier, atelier: Command, starter: int, canny: int, photo: Path) -> None:
    free, silent, told = (
        through.generate("red apple", model=starter, seed=1, steps=4, controls=controls)[0].data
        for controls in ([], [Control(canny, photo, weight=0.0)], [Control("canny", photo)])
    )
    assert distance(free, silent) < 1 < distance(free, told)
    done = atelier("generate", "x", "-m", starter, "--control", f"canny={photo}:0.5:0:0.5", "--steps", 2, "--json")
    assert done.code == 0, done.err
    (control,) = done.json["settings"]["controls"]
    assert (control["model_id"], control["weight"], control["end"]) == (canny, 0.5, 0.5)
    with pytest.raises((FailedPrecondition, InvalidArgument)):
        through.generate("x", model=canny, steps=2)


def test_a_second_pass_draws_it_larger(through: Atelier, starter: int) -> None:
    second = HighResolution(2, strength=0.5, steps=2)
    drawing = through.generate("red apple", model=starter, seed=1, steps=2, high_resolution=second)
    assert (drawing[0].width, drawing[0].height) == (128, 128)


def test_wildcards_are_chosen_by_the_seed(through: Atelier, atelier: Command, starter: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": starter, "steps": 1, "count": 6, "seed": 1}
    first, again = (
        through.generate("{red|blue} __what__", wildcards={"what": ["cat", "dog"]}, **options) for _ in range(2)
    )
    chosen = [picture.prompt for picture in first]
    assert set(chosen) <= {f"{colour} {what}" for colour in ("red", "blue") for what in ("cat", "dog")}
    assert len(set(chosen)) > 1
    assert chosen == [picture.prompt for picture in again]
    plain = through.generate("{red|blue} (cat:1.2)", prompt_syntax="plain", model=starter, steps=1)
    assert plain[0].prompt == "{red|blue} (cat:1.2)"
    (tmp_path / "what.txt").write_text("cat\n# no dogs\n")
    done = atelier(
        *("generate", "a __what__", "-m", starter, "--steps", 1, "--wildcard", f"what={tmp_path / 'what.txt'}"),
        "--json",
    )
    assert done.json["images"][0]["prompt"] == "a cat"


def test_a_grid_is_every_combination_and_a_sheet(
    through: Atelier, atelier: Command, starter: int, lora: int, tmp_path: Path
) -> None:
    drawing = through.grid(["cat", "dog"], models=[starter, lora], weights=[0.5, 1.0], seeds=[3, 4], steps=1)
    cells = {(each.prompt, each.model_id, each.lora_weight, each.seed) for each in drawing}
    assert {(prompt, lora, weight, seed) for prompt in ("cat", "dog") for weight in (0.5, 1.0) for seed in (3, 4)} < (
        cells
    )
    assert {(prompt, starter) for prompt in ("cat", "dog")} <= {cell[:2] for cell in cells}
    assert drawing.sheet is not None
    assert drawing.sheet.width > 2 * drawing[0].width
    done = atelier("grid", "cat", "dog", "-m", starter, "-s", 1, "-s", 2, "--steps", 1, "--out", tmp_path / "all.png")
    assert done.code == 0, done.err
    assert "the sheet" in done.out
    assert sorted(file.name for file in tmp_path.glob("*.png")) == [f"all-{n}.png" for n in range(1, 5)] + ["all.png"]


@pytest.mark.parametrize(("name", "kind"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_each_format_carries_its_settings(through: Atelier, starter: int, name: str, kind: str) -> None:
    picture = through.generate("red apple", model=starter, steps=1, seed=9, format=name, quality=80)[0]
    opened = Image.open(io.BytesIO(picture.data))
    assert opened.format == kind
    assert b"Seed: 9" in picture.data or "Seed: 9".encode("utf-16-be") in picture.data


def test_the_gallery_is_filtered_kept_fetched_and_emptied(
    through: Atelier, atelier: Command, starter: int, lora: int, tmp_path: Path
) -> None:
    drawing = through.generate("a very rare owl", model=lora, steps=1, count=2, seed=5)
    id = drawing.generation.id
    found = list(through.gallery.list(model=lora, prompt="RARE owl", status="completed"))
    assert [each.id for each in found] == [id]
    assert list(through.gallery.list(prompt="rare owl", kept=True)) == []
    assert atelier("gallery", "keep", id).code == 0
    assert [each["id"] for each in atelier("gallery", "list", "--kept", "--prompt", "rare owl", "--json").json] == [id]
    shown = atelier("gallery", "show", id).out
    assert "a very rare owl" in shown
    assert "image/png" in shown
    done = atelier("gallery", "download", id, "--out", tmp_path / "owls", "--json")
    assert [Path(file).read_bytes() for file in done.json["files"]] == [each.data for each in drawing]
    assert [each.data for each in through.gallery.open(id)] == [each.data for each in drawing]
    assert through.gallery.picture(id, 1).seed == 6
    assert not through.gallery.unkeep(id).is_kept
    assert atelier("gallery", "delete", id).code == 0
    with pytest.raises(NotFound):
        through.gallery.get(id)
    assert atelier("gallery", "show", id).code == 1


def test_models_are_brought_into_memory_and_taken_out(through: Atelier, atelier: Command, starter: int) -> None:
    through.generations.load(starter)
    (loaded,) = [each for each in through.generations.loaded() if each.model_id == starter]
    assert loaded.memory_bytes > 0
    assert loaded.name in atelier("models", "loaded").out
    assert atelier("models", "unload", starter).code == 0
    assert starter not in [each["model_id"] for each in atelier("models", "loaded", "--json").json]
    assert "is in memory" in atelier("models", "load", starter).out


def test_a_detached_drawing_is_found_in_the_gallery(
    atelier: Command, client: Atelier, starter: int, tmp_path: Path
) -> None:
    started = atelier("generate", "red apple", "-m", starter, "--steps", 20, "--detach", "--json").json
    done = atelier("gallery", "download", started["id"], "--wait", "--out", tmp_path / "later.png")
    assert done.code == 0, done.err
    assert (tmp_path / "later.png").exists()
    assert client.gallery.wait(started["id"]).status == GENERATION_STATUS_COMPLETED


def test_whoever_leaves_frees_the_place(through: Atelier, starter: int) -> None:
    settings = through.generations.settings("red apple", starter, steps=1000)
    answers = through.generations.stream(settings)
    answer = next(each for each in answers if each.HasField("step"))
    answers.close()  # type: ignore[attr-defined]  # a generator, which says Iterator
    assert ended(through, answer.generation_id).status == GENERATION_STATUS_CANCELLED


def test_ctrl_c_frees_the_place(stack: Stack, client: Atelier, starter: int, tmp_path: Path) -> None:
    command = ["--data", str(stack.data_dir), "generate", "an interrupted cat", "-m", str(starter)]
    process = subprocess.Popen(
        [sys.executable, "-m", "atelier_client.cli", *command, "--steps", "1000", "--count", "8"],
        env={**os.environ, **import_path(), "COLUMNS": "200"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (running := list(client.gallery.list(prompt="an interrupted cat", status="running"))):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, "Cancelled." in err) == (130, True)
    assert ended(client, running[0].id).status == GENERATION_STATUS_CANCELLED


def test_a_deterministic_picture_has_its_bytes_whoever_else_draws(through: Atelier, starter: int) -> None:
    options: dict[str, Any] = {"model": starter, "seed": 4, "steps": 6, "deterministic": True}
    alone = through.generate("red apple", **options)[0].data
    beside = through.generations.start(through.generations.settings("blue heart", starter, steps=300, count=4))
    assert through.generate("red apple", **options)[0].data == alone
    if through.gallery.get(beside.id).status <= GENERATION_STATUS_RUNNING:
        through.generations.cancel(beside.id)
