"""Connections that are cut: what was seen is not seen twice, and nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from atelier.trainer.v1.training_pb2 import JOB_STATUS_RUNNING
from atelier_client import Atelier
from atelier_client.stack import Stack
from PIL import Image

from tests.e2e.conftest import import_path
from tests.e2e.proxy import Proxy


def test_a_watch_that_is_cut_goes_on_without_loss_or_repeats(
    stack: Stack, client: Atelier, starter: int, pictures: Path
) -> None:
    dataset = client.datasets.create("cut in mid-watch")
    client.datasets.upload(dataset, pictures)
    job = client.training.create(dataset, starter, config={"max_steps": 30, "batch_size": 1}, start=True)
    cuts = 0
    with (
        Proxy(stack.addresses.trainer) as proxy,
        Atelier(catalog=stack.addresses.catalog, trainer=proxy.address, generator="") as distant,
    ):
        seen = []
        for event in distant.training.watch(job.id):
            seen.append(event)
            if event.WhichOneof("event") == "step" and event.step.step in (2, 10, 20):
                proxy.cut()
                cuts += 1
        assert proxy.accepted >= 2
    assert cuts == 3
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].WhichOneof("event") == "done"
    assert seen == list(client.training.watch(job.id)), "the same as a watcher sees who was never cut"


def test_an_upload_that_is_cut_is_taken_up_again(stack: Stack, client: Atelier, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(20):
        Image.effect_noise((256, 256), 60 + index).save(folder / f"{index:02d}.png")
    size = sum(file.stat().st_size for file in folder.iterdir())
    dataset = client.datasets.create("cut in mid-upload")
    with (
        Proxy(stack.addresses.catalog) as proxy,
        Atelier(catalog=proxy.address, trainer="", generator="") as distant,
    ):
        proxy.cut_after_bytes = size // 2
        summary = distant.datasets.upload(dataset, folder)
        assert proxy.accepted >= 2
    assert summary.dataset.num_items == 20
    assert len(summary.accepted) + len(summary.already_there) == 20
    assert not summary.refused


def test_a_drawing_that_is_cut_is_not_drawn_twice(stack: Stack, client: Atelier, starter: int) -> None:
    with (
        Proxy(stack.addresses.generator) as proxy,
        Atelier(catalog=stack.addresses.catalog, trainer="", generator=proxy.address) as distant,
    ):
        was_cut = False

        def cut_once(answer: object) -> None:
            nonlocal was_cut
            if not was_cut and answer.WhichOneof("event") == "step":  # type: ignore[attr-defined]
                was_cut = True
                proxy.cut()

        drawing = distant.generate("a cat", model=starter, seed=11, steps=20, on_event=cut_once)
    assert was_cut
    (found,) = [each for each in client.generations.recent() if each.settings.seed == 11]
    assert found.id == drawing.generation.id
    assert drawing[0].data == client.generate("a cat", model=starter, seed=11, steps=20)[0].data


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(
    stack: Stack, client: Atelier, starter: int, pictures: Path, tmp_path: Path
) -> None:
    dataset = client.datasets.create("left alone")
    client.datasets.upload(dataset, pictures)
    command = ["--data", str(stack.data_dir), "train", "-d", "left alone", "-b", str(starter), "--watch"]
    process = subprocess.Popen(
        [sys.executable, "-m", "atelier_client.cli", *command, "--max-steps", "100000"],
        env={**os.environ, **import_path(), "COLUMNS": "200"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (running := [job for job in client.training.list(unfinished=True) if job.progress.step]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        job = client.training.get(running[0].id)
    finally:  # or the tests after this one wait for a hundred thousand steps
        process.kill()
        for each in client.training.list(unfinished=True):
            client.training.cancel(each.id)
            client.training.wait(each.id)
    assert process.returncode == 130
    assert f"atelier jobs watch {job.id}" in err
    assert f"atelier jobs cancel {job.id}" in err
    assert job.status == JOB_STATUS_RUNNING
