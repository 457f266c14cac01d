"""Images in, a fine-tuned model out, pictures from it: over real processes, by the SDK and by the command."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import pytest
from atelier.catalog.v1.catalog_service_pb2 import RegisterModelRequest
from atelier.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from atelier.catalog.v1.model_pb2 import (
    MODEL_CATEGORY_IMAGE,
    MODEL_FAMILY_STABLE_DIFFUSION,
    MODEL_TYPE_BASE_MODEL,
    MODEL_TYPE_DREAMBOOTH,
    MODEL_TYPE_FULL,
    MODEL_TYPE_LORA,
    WEIGHTS_LAYOUT_PIPELINE,
    HubWeights,
)
from atelier.trainer.v1.training_pb2 import JOB_STATUS_CANCELLED, JOB_STATUS_COMPLETED, JOB_STATUS_FAILED
from atelier_client import Atelier, FailedPrecondition, InvalidArgument, NotFound
from atelier_client.stack import Stack
from PIL import Image

from tests.e2e.conftest import WORDS, Command


def test_images_in_a_lora_out_pictures_from_it(client: Atelier, starter: int, pictures: Path) -> None:
    dataset = client.datasets.create("by the SDK")
    seen: list[int] = []
    summary = client.datasets.upload(dataset, pictures, lambda done: seen.append(done.files_done))
    assert [image.caption for image in summary.accepted] == list(WORDS)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert summary.dataset.num_items == 6

    config = {"max_steps": 6, "batch_size": 2, "learning_rate": 0.01, "seed": 1, "lora": {"rank": 2}}
    job = client.training.create(dataset, starter, config=config)
    assert job.config.lora.rank == 2
    assert job.config.epochs == 10, "a default is visible in the answer"
    client.training.start(job.id)
    events = list(client.training.watch(job.id))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    steps = [event.step for event in events if event.WhichOneof("event") == "step"]
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert all(step.images_per_second > 0 and step.loss > 0 for step in steps)
    assert events[-1].WhichOneof("event") == "done"

    ended = client.training.get(job.id)
    assert ended.status == JOB_STATUS_COMPLETED
    model = client.models.get(ended.model_id)
    assert model.type == MODEL_TYPE_LORA
    assert model.name == f"Trained-{job.id[:8]}"
    assert (model.base_model_id, model.job_id, model.dataset_id) == (starter, job.id, dataset.id)

    base = client.generate("red apple", model=starter, seed=3, steps=4)[0]
    trained = client.generate("red apple", model=model, seed=3, steps=4)[0]
    again = client.generate("red apple", model=model.name, seed=3, steps=4)[0]
    assert trained.data == again.data, "the same request and seed give the same bytes"
    assert trained.data != base.data, "training changed what is drawn"
    picture = Image.open(BytesIO(trained.data))
    assert picture.size == (64, 64)
    assert "red apple" in picture.text["parameters"]  # type: ignore[attr-defined]  # of PNG files


DREAMBOOTH = {
    "instance_prompt": "sks apple",
    "class_prompt": "apple",
    "prior_preservation": True,
    "num_class_images": 2,
}


@pytest.mark.parametrize(
    ("method", "more", "type"),
    [
        ("full", {}, MODEL_TYPE_FULL),
        ("dreambooth", {"dreambooth": DREAMBOOTH}, MODEL_TYPE_DREAMBOOTH),
        ("dreambooth", {"dreambooth": {**DREAMBOOTH, "full": True}}, MODEL_TYPE_DREAMBOOTH),
    ],
)
def test_every_method_ends_in_a_model_that_draws(
    client: Atelier, starter: int, pictures: Path, method: str, more: dict[str, Any], type: int
) -> None:
    dataset = client.datasets.create("every method")
    client.datasets.upload(dataset, pictures)
    config = {"max_steps": 3, "batch_size": 2, "learning_rate": 0.01, "seed": 1, **more}
    job = client.training.wait(client.training.create(dataset, starter, method=method, config=config, start=True).id)
    assert job.status == JOB_STATUS_COMPLETED, job.failure
    model = client.models.get(job.model_id)
    assert (model.type, model.base_model_id) == (type, starter)
    assert (
        client.generate("sks apple", model=model, seed=3, steps=4)[0].data
        != client.generate("sks apple", model=starter, seed=3, steps=4)[0].data
    )
    client.datasets.delete(dataset)


def test_the_job_by_the_command_alone(atelier: Command, starter: int, pictures: Path, tmp_path: Path) -> None:
    assert "is there" in atelier("datasets", "create", "by the command", "-d", "six of them").out
    uploaded = atelier("datasets", "upload", "by the command", pictures, "--json").json
    assert len(uploaded["accepted"]) == 6
    again = atelier("datasets", "upload", "by the command", pictures)
    assert "0 uploaded, 6 already there" in again.out
    shown = atelier("datasets", "show", "by the command", "--json").json
    assert (shown["num_items"], [image["caption"] for image in shown["images"]]) == (6, list(WORDS))
    assert "has 6 images" in atelier("datasets", "refresh", "by the command").out
    assert "by the command" in [each["name"] for each in atelier("datasets", "list", "--json").json]

    trained = atelier(
        *("train", "--dataset", "by the command", "--base-model", starter, "--name", "my style", "--watch"),
        *("--max-steps", 4, "--batch-size", 2, "--lr", 0.01, "--rank", 2),
    )
    assert trained.code == 0, trained.err
    assert "'my style' is registered" in trained.out
    (job,) = [each for each in atelier("jobs", "list", "--json").json if each["output_name"] == "my style"]
    assert (job["status"], job["progress"]["step"]) == ("completed", 4)
    shown_job = atelier("jobs", "show", job["id"], "--json").json
    assert shown_job["config"]["lora"]["rank"] == 2
    assert atelier("jobs", "show", job["id"]).out.startswith("id ")
    events = [json.loads(line) for line in atelier("jobs", "watch", job["id"], "--json").out.splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert atelier("jobs", "logs", job["id"]).code == 0

    model = atelier("models", "show", "my style", "--json").json
    assert (model["type"], model["job_id"], model["ancestors"][0]["id"]) == ("lora", job["id"], starter)
    assert "my style" in atelier("models", "list").out
    drawn = atelier(
        *("generate", "blue heart", "--model", "my style", "--steps", 3, "--seed", 5, "--count", 2, "--size", "64x32"),
        *("--lora-weight", 0.7, "--scheduler", "Euler a", "--negative", "dog", "--out", tmp_path / "drawn", "--json"),
    )
    assert drawn.code == 0, drawn.err
    answer = drawn.json
    assert [image["seed"] for image in answer["images"]] == [5, 6]
    assert (answer["settings"]["scheduler"], answer["settings"]["lora_weight"]) == ("euler_ancestral", 0.7)
    assert [Image.open(file).size for file in answer["files"]] == [(64, 32), (64, 32)]
    one = atelier("generate", "blue heart", "--model", starter, "--steps", 2, "--out", tmp_path / "one.png")
    assert one.code == 0, one.err
    assert (tmp_path / "one.png").exists()


def test_a_job_that_is_created_waits_to_be_started(
    atelier: Command, client: Atelier, starter: int, pictures: Path
) -> None:
    dataset = client.datasets.create("waiting")
    client.datasets.upload(dataset, pictures)
    job = atelier("train", "-d", "waiting", "-b", starter, "--no-start", "--max-steps", 2, "--json").json
    assert job["status"] == "pending"
    started = atelier("jobs", "start", job["id"], "--json").json
    assert started["status"] in ("queued", "running")
    assert client.training.wait(job["id"]).status == JOB_STATUS_COMPLETED


def test_a_running_job_is_cancelled(atelier: Command, client: Atelier, starter: int, pictures: Path) -> None:
    dataset = client.datasets.create("cancelled")
    client.datasets.upload(dataset, pictures)
    job = client.training.create(dataset, starter, config={"max_steps": 100_000}, start=True)
    for event in client.training.watch(job.id):
        if event.WhichOneof("event") == "step":
            assert atelier("jobs", "cancel", job.id).code == 0
            break
    watched = atelier("jobs", "watch", job.id)
    assert watched.code == 1
    assert "cancelled" in watched.err


def test_a_job_is_paused_resumed_cancelled_and_tried_again_by_the_command(
    atelier: Command, client: Atelier, starter: int, pictures: Path
) -> None:
    dataset = client.datasets.create("to be paused")
    client.datasets.upload(dataset, pictures)
    config = {"max_steps": 4000, "batch_size": 1, "lora": {"rank": 2}}
    job = client.training.create(dataset, starter, config=config, start=True)
    next(event for event in client.training.watch(job.id) if event.HasField("loading"))  # out of the queue
    waiting = [client.training.create(dataset, starter, config={"max_steps": 1}, start=True) for _ in range(2)]
    assert "has place 1" in atelier("jobs", "prioritize", waiting[1].id, 5).out
    assert [client.training.get(each.id).queue_position for each in waiting] == [2, 1]
    next(event for event in client.training.watch(job.id) if event.HasField("step"))
    assert "will pause at its next step" in atelier("jobs", "pause", job.id).out
    paused = next(event for event in client.training.watch(job.id) if event.HasField("paused"))
    client.training.cancel(waiting[0].id)
    assert client.training.wait(waiting[1].id).status == JOB_STATUS_COMPLETED, "the paused job holds up nobody"
    stood = client.training.get(job.id).progress.step
    assert "is queued" in atelier("jobs", "resume", job.id).out
    later = client.training.watch(job.id, after_sequence=paused.sequence)
    assert next(event for event in later if event.HasField("step")).step.step == stood + 1
    atelier("jobs", "cancel", job.id)
    ended = client.training.wait(job.id)
    assert ended.status == JOB_STATUS_CANCELLED
    assert "is queued" in atelier("jobs", "retry", job.id).out
    again = client.training.watch(job.id)  # from the beginning, over its first end
    assert next(event for event in again if event.sequence > ended.last_sequence and event.HasField("step"))
    client.training.cancel(job.id)
    client.training.wait(job.id)
    refused = atelier("jobs", "resume", job.id)
    assert (refused.code, "not paused" in refused.err) == (1, True)
    client.datasets.delete(dataset)


def test_a_bad_file_among_good_ones_sinks_only_itself(atelier: Command, pictures: Path) -> None:
    (pictures / "torn.png").write_bytes((pictures / "0.png").read_bytes()[:60])
    (pictures / "notes.jpg").write_text("not a picture")
    atelier("datasets", "create", "mixed")
    result = atelier("datasets", "upload", "mixed", pictures)
    assert result.code == 1
    assert "6 uploaded, 2 refused" in result.out
    assert "refused torn.png" in result.err
    assert "refused notes.jpg" in result.err


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--rank", "0"], "config.lora.rank"),
        (["--lr", "-1"], "config.learning_rate"),
        (["--lr", "nan"], "config.learning_rate"),
        (["--epochs", "0"], "config.epochs"),
        (["--schedule", "sinus"], "config.schedule"),
        (["--method", "magic"], "method"),
        (["--dataset", "nothing"], "no dataset called 'nothing'"),
        (["--base-model", "999"], "999"),
    ],
)
def test_training_refuses_by_field_and_rule(
    atelier: Command, client: Atelier, starter: int, pictures: Path, options: list[str], field: str
) -> None:
    if not [each for each in client.datasets.list() if each.name == "strict"]:
        client.datasets.upload(client.datasets.create("strict"), pictures)
    result = atelier("train", "--dataset", "strict", "--base-model", starter, "--no-start", *options)
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert field in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "513"], ["settings.width", "multiple of 8"]),
        (["--steps", "100000"], ["settings.steps", "1000"]),
        (["--scheduler", "warp"], ["scheduler", "dpmpp_2m_karras"]),
        (["--size", "big"], ["size"]),
        (["--model", "nobody"], ["no model called 'nobody'"]),
        (["--lora", "x=heavy"], ["--lora", "heavy"]),
    ],
)
def test_drawing_refuses_by_field_and_rule(
    atelier: Command, starter: int, options: list[str], words: list[str]
) -> None:
    result = atelier("generate", "a cat", "--model", starter, *options)
    assert result.code == 1
    assert all(word in result.err for word in words), result.err


def test_a_wrong_option_is_a_usage_error(atelier: Command) -> None:
    assert atelier("train", "--rank", "four").code == 2
    assert atelier("nonsense").code == 2


def test_an_empty_dataset_is_not_trained_on(client: Atelier, starter: int) -> None:
    dataset = client.datasets.create("empty")
    with pytest.raises(FailedPrecondition, match="empty"):
        client.training.create(dataset, starter)


def test_a_base_of_another_family_is_refused(client: Atelier, pictures: Path) -> None:
    dataset = client.datasets.create("another family")
    client.datasets.upload(dataset, pictures)
    with pytest.raises((FailedPrecondition, InvalidArgument)):
        client.training.create(dataset, 3)


def test_a_failed_job_keeps_its_reason_and_its_log(
    atelier: Command, client: Atelier, starter: int, pictures: Path
) -> None:
    dataset = client.datasets.create("failing")
    client.datasets.upload(dataset, pictures)
    config = {"max_steps": 1, "lora": {"target_modules": ["no_such_module"]}}
    job = client.training.create(dataset, starter, config=config, start=True)
    ended = client.training.wait(job.id)
    assert ended.status == JOB_STATUS_FAILED
    assert "no_such_module" in ended.failure.message
    shown = atelier("jobs", "watch", job.id)
    assert shown.code == 1
    assert "no_such_module" in shown.err
    assert atelier("jobs", "logs", job.id).out


def test_a_name_that_several_models_have_asks_for_the_id(client: Atelier, stack: Stack) -> None:
    request = RegisterModelRequest(
        name="twins",
        type=MODEL_TYPE_BASE_MODEL,
        category=MODEL_CATEGORY_IMAGE,
        family=MODEL_FAMILY_STABLE_DIFFUSION,
        layout=WEIGHTS_LAYOUT_PIPELINE,
        hub=HubWeights(repo_id="somebody/something", revision="0" * 40),
    )
    with grpc.insecure_channel(stack.addresses.catalog) as channel:
        ids = [CatalogServiceStub(channel).RegisterModel(request).model.id for _ in range(2)]
    with pytest.raises(InvalidArgument, match=f"2 models are called 'twins': say which of the ids {ids[0]}, {ids[1]}"):
        client.models.get("twins")
    assert client.models.get(ids[1]).id == ids[1]


def test_what_is_missing_is_said_with_a_hint(client: Atelier) -> None:
    client.datasets.create("portraits")
    with pytest.raises(NotFound, match="did you mean 'portraits'"):
        client.datasets.get("portrait")
    with pytest.raises(NotFound):
        client.models.get(98765)
