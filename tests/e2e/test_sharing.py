"""One device, two masters: a job that shares its CPU trains while a picture is asked for."""

import time
from pathlib import Path

import psutil
import pytest
from atelier.generator.v1.generator_service_pb2 import GenerateResponse
from atelier.trainer.v1.training_pb2 import JOB_STATUS_COMPLETED, JobStatus
from atelier_client import Atelier
from atelier_client.stack import Stack

from tests.e2e.conftest import Command


@pytest.fixture
def dataset(client: Atelier, pictures: Path) -> int:
    made = client.datasets.create("shared with")
    client.datasets.upload(made, pictures)
    return made.id


def test_a_picture_is_drawn_between_two_steps_of_a_job_that_shares_its_device(
    atelier: Command, client: Atelier, dataset: int, starter: int
) -> None:
    client.generate("warm", model=starter, seed=1, steps=1)  # the model is in memory from here on
    started = atelier(
        *("train", "--dataset", dataset, "--base-model", starter, "--name", "lends", "--json"),
        *("--max-steps", 300, "--batch-size", 4, "--device", "cpu", "--share-device", "--rank", 8, "--seed", 7),
    )
    assert started.code == 0, started.err
    id = started.json["id"]
    deadline = time.monotonic() + 60
    while client.training.get(id).progress.step < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)

    answers: list[GenerateResponse] = []
    settings = client.generations.settings(model=starter, prompt="red apple", seed=1, steps=30)
    drawing = client.generations.draw(settings, on_event=answers.append)
    assert len(drawing.pictures) == 1
    during = client.training.get(id)
    assert JobStatus.Name(during.status) == "JOB_STATUS_RUNNING", "it was drawn while the job trained"

    events = list(client.training.watch(id))
    job = client.training.get(id)
    assert job.status == JOB_STATUS_COMPLETED
    assert job.progress.lent_millis > 0
    kinds = [event.WhichOneof("event") for event in events]
    begun, over = [place for place, kind in enumerate(kinds) if kind == "lent"]
    assert "step" not in kinds[begun:over], "nothing is learnt while the device is lent"
    assert "step" in kinds[:begun]
    assert "step" in kinds[over:]
    assert events[over].lent.lent_millis == job.progress.lent_millis
    apart = events[over].created_at.ToMilliseconds() - events[begun].created_at.ToMilliseconds()
    assert abs(apart - job.progress.lent_millis) < 1500
    assert any(answer.HasField("step") for answer in answers)
    client.training.delete(id)


def test_a_stack_tells_its_generator_where_the_trainer_is(stack: Stack) -> None:
    environment = psutil.Process(stack.pid("generator")).environ()
    assert environment["ATELIER_GENERATOR_TRAINER_ADDRESS"] == stack.addresses.trainer
