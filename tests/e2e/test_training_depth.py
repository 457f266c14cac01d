"""Techniques, validation and checkpoints, through the command, the services and a model that draws."""

import io
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
from atelier.trainer.v1.training_pb2 import JOB_STATUS_COMPLETED, LOADING_STAGE_DRAWING_CLASS_IMAGES
from atelier_client import Atelier
from atelier_client.errors import InvalidArgument, NotFound
from atelier_client.stack import Stack
from PIL import Image

from tests.e2e.conftest import Command


@pytest.fixture
def dataset(client: Atelier, pictures: Path) -> int:
    known = [each for each in client.datasets.list() if each.name == "held out from"]
    if not known:
        known = [client.datasets.create("held out from")]
        client.datasets.upload(known[0], pictures)
    return known[0].id


def test_a_job_with_validation_and_techniques_ends_in_models_that_draw(
    atelier: Command, client: Atelier, dataset: int, starter: int
) -> None:
    trained = atelier(
        *("train", "--dataset", dataset, "--base-model", starter, "--name", "measured", "--watch"),
        *("--max-steps", 6, "--batch-size", 2, "--rank", 2, "--dora", "--rslora", "--lora-plus", 4),
        *("--ema-decay", 0.9, "--shuffle-tags", "--keep-tags", 1, "--aspect-buckets", "--masked-loss"),
        *("--optimizer", "adamw", "--noise-offset", 0.05, "--lr", 0.001),
        *("--validation-share", 0.3, "--validate-every", 2, "--use-best", "--checkpoint-every", 1, "--seed", 7),
    )
    assert trained.code == 0, trained.err
    assert "validation loss" in trained.err
    job = next(each for each in client.training.list() if each.output_name == "measured")
    measured = client.training.validations(job.id)
    assert [each.step for each in measured] == [2, 4, 6]
    assert {each.num_images for each in measured} == {measured[0].num_images}
    assert 1 <= measured[0].num_images <= 2
    best = min(measured, key=lambda each: each.loss).step
    assert client.models.get(job.model_id).checkpoint_step == best

    listed = atelier("jobs", "checkpoints", job.id, "--json").json
    # The three latest, and the best of those that were measured: 6 was the last step and is the job's own model.
    assert {each["step"] for each in listed} == {3, 4, 5, min(measured[:2], key=lambda each: each.loss).step}
    assert [each["is_best"] for each in listed].count(True) == 1
    promoted = atelier("jobs", "promote", job.id, 5, "--name", "the fifth", "--json").json
    assert (promoted["name"], promoted["checkpoint_step"], promoted["job_id"]) == ("the fifth", 5, job.id)
    assert client.training.promote(job.id, 5) == promoted["id"], "a checkpoint is one model, however often it is asked"
    assert "the fifth" in atelier("jobs", "promote", job.id, 5).out
    assert str(promoted["id"]) in atelier("jobs", "checkpoints", job.id).out
    with pytest.raises(NotFound, match="no checkpoint of step 1000"):
        client.training.promote(job.id, 1000)

    drawn = [client.generate("red apple", model=each, seed=1, steps=4)[0].data for each in (promoted["id"], starter)]
    assert drawn[0] != drawn[1]
    client.training.delete(job.id)
    again = client.generate("red apple", model=promoted["id"], seed=1, steps=4)[0].data
    assert again == drawn[0], "a promoted checkpoint outlives its job"


@pytest.mark.parametrize(
    ("method", "config", "field"),
    [
        ("lora", {"prediction_type": "v_prediction"}, "config.prediction_type"),
        ("lora", {"zero_terminal_snr": True}, "config.zero_terminal_snr"),
        ("full", {"zero_terminal_snr": True, "prediction_type": "epsilon"}, "config.zero_terminal_snr"),
        ("lora", {"optimizer": "prodigy", "lora": {"plus_ratio": 4}}, "config.lora.plus_ratio"),
        ("lora", {"validation": {"patience": 3}}, "config.validation.share"),
        ("lora", {"validation": {"share": 0.9}}, "config.validation.share"),
        ("lora", {"ema_decay": 1.0}, "config.ema_decay"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_name(
    client: Atelier, dataset: int, starter: int, method: str, config: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        client.training.create(dataset, starter, method=method, config=config)
    assert list(raised.value.fields) == [field]


def test_prodigy_begins_with_a_rate_of_one(client: Atelier, dataset: int, starter: int) -> None:
    job = client.training.create(dataset, starter, config={"optimizer": "prodigy"})
    assert job.config.learning_rate == 1.0
    client.training.delete(job.id)


def test_the_command_estimates_and_makes_no_job(atelier: Command, client: Atelier, dataset: int, starter: int) -> None:
    before = len(client.training.list())
    options = ("train", "--dataset", dataset, "--base-model", starter, "--estimate", "--batch-size", 2, "--epochs", 3)
    found = atelier(*options, "--json").json
    assert (found["total_steps"], found["total_epochs"], found["device"]) == (9, 3, "cpu")
    assert found["memory_bytes"] > 100_000_000
    assert "9 in 3 epochs of 6 images" in atelier(*options).out
    assert len(client.training.list()) == before


def test_the_command_inspects_a_dataset(atelier: Command, client: Atelier, dataset: int) -> None:
    found = atelier("datasets", "inspect", dataset, "--resolution", 96, "--json").json
    assert (found["num_images"], found["resolution"]) == (6, 96)
    small = [each for each in found["findings"] if each["kind"] == "too_small"]
    sizes = [min(image.width, image.height) for image in client.datasets.images(dataset)]
    assert [each["num_images"] for each in small] == [sum(size < 96 for size in sizes)]
    said = atelier("datasets", "inspect", dataset, "--resolution", 96).out
    assert "smaller than the resolution" in said
    assert "--aspect-buckets" in said


def test_a_trained_lora_is_exported_for_others_and_taken_in_again(
    atelier: Command, client: Atelier, stack: Stack, dataset: int, starter: int, tmp_path: Path
) -> None:
    config: dict[str, Any] = {"max_steps": 2, "batch_size": 2, "learning_rate": 0.05, "seed": 3}
    config["samples"] = {"prompts": ["red apple", "blue heart"], "interval_steps": 1, "steps": 2}
    job = client.training.wait(
        client.training.create(dataset, starter, output_name="to share", config=config, start=True).id
    )
    written = atelier("models", "export", job.model_id, "--out", tmp_path, "--format", "lora_kohya").out.strip()
    assert written == str(tmp_path / "to-share-kohya.safetensors")
    assert atelier("models", "export", job.model_id, "--out", tmp_path / "all.zip").code == 0
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        names = set(archive.namelist())
        assert names >= {"README.md", "training.json", "pytorch_lora_weights.safetensors", "images/sample-0.png"}
    assert atelier("jobs", "sheet", job.id, "--out", tmp_path / "sheet.png").code == 0
    assert Image.open(tmp_path / "sheet.png").width == 64 + 2 * (96 + 8)
    back = atelier("models", "import", written, "--base-model", starter, "--trigger-word", "ink", "--json").json
    assert (back["name"], back["trigger_words"], back["type"]) == ("to-share-kohya", ["ink"], "lora")
    pictures = [client.generate("red apple", model=each, seed=1, steps=4)[0] for each in (job.model_id, back["id"])]
    pixels = [numpy.asarray(Image.open(io.BytesIO(each.data))).astype(int) for each in pictures]
    assert abs(pixels[0] - pixels[1]).max() <= 1
    ckpt = tmp_path / "bad.safetensors"
    ckpt.write_bytes(b"PK" + bytes(100))
    result = atelier("models", "import", ckpt, "--base-model", starter)
    assert result.code == 1
    assert "pickle" in result.err
    url = f"http://{stack.addresses.gateway}/api/models/{job.model_id}/export?format=EXPORT_FORMAT_LORA_KOHYA"
    with urllib.request.urlopen(url) as answer:
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.read() == Path(written).read_bytes()


def test_an_optimizer_that_is_an_extra_is_found_by_the_worker(client: Atelier, dataset: int, starter: int) -> None:
    # Workers hide bitsandbytes from peft unless they need it themselves.
    config: dict[str, Any] = {"max_steps": 2, "batch_size": 2, "optimizer": "adamw_8bit"}
    job = client.training.wait(client.training.create(dataset, starter, config=config, start=True).id)
    assert job.status == JOB_STATUS_COMPLETED, job.failure


def test_the_command_captions_a_dataset(atelier: Command, client: Atelier, pictures: Path) -> None:
    dataset = client.datasets.create("to be captioned")
    for text in pictures.glob("[1-5].txt"):
        text.unlink()
    client.datasets.upload(dataset, [pictures])
    found = atelier("datasets", "caption", dataset.id, "--prefix", "sks, ", "--json").json
    assert (found["num_captioned"], found["num_kept"]) == (5, 1)
    captions = [image.caption for image in client.datasets.images(dataset)]
    assert sorted(caption.startswith("sks, ") for caption in captions) == [False] + 5 * [True]
    said = atelier("datasets", "caption", dataset.id, "--overwrite", "--max-tokens", 3).out
    assert "6 captioned, 0 kept their caption" in said
    after = {image.id: image.caption for image in client.datasets.images(dataset)}
    assert all(f"{id} {caption}" in said and len(caption.split()) <= 3 for id, caption in after.items())


def test_the_command_takes_a_class_by_its_datasets_name(
    atelier: Command, client: Atelier, dataset: int, starter: int, pictures: Path
) -> None:
    classes = client.datasets.create("the class")
    client.datasets.upload(classes, [pictures])
    prompts = ("--instance-prompt", "a sks cat", "--class-prompt", "a cat", "--class-dataset", "the class")
    made = (
        "train",
        "--dataset",
        dataset,
        "--base-model",
        starter,
        "--method",
        "dreambooth",
        *prompts,
        "--max-steps",
        1,
    )
    job = client.training.wait(atelier(*made, "--json").json["id"])
    assert job.status == JOB_STATUS_COMPLETED, job.failure
    assert (job.config.dreambooth.class_dataset_id, job.config.dreambooth.prior_preservation) == (classes.id, True)
    assert not any(event.loading.stage == LOADING_STAGE_DRAWING_CLASS_IMAGES for event in client.training.watch(job.id))
    estimate = atelier(*made, "--estimate", "--json").json
    assert estimate["num_images"] == 6
