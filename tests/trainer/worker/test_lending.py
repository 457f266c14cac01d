"""A job that lends its device: it stands still meanwhile, and ends with the bytes of one that was left alone."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from services.trainer.domain import (
    CheckpointConfig,
    DreamBoothConfig,
    Lent,
    LoraConfig,
    Method,
    Optimizer,
    Paused,
    Progress,
    Report,
    SampleConfig,
    Trained,
    ValidationConfig,
)
from services.trainer.worker.attach import Borrowed
from services.trainer.worker.lending import TrainingClock, lending
from services.trainer.worker.room import put_aside, storages_on
from tests.trainer.worker.conftest import make_config
from tests.trainer.worker.test_job import House, digests, house, last

__all__ = ["house"]  # a fixture

pytestmark = pytest.mark.usefixtures("accelerator")


@dataclass
class Borrower:
    """Borrows the device at every moment that it could be, or one in `every`, `askings` times each, and gives it back
    `seconds` later."""

    make_room: bool = False
    askings: int = 1
    seconds: float = 0.0
    now: float = 0.0
    asked: int = field(default=0)
    every: int = 1
    looks: int = field(default=0)

    @property
    def borrowed(self) -> Borrowed | None:
        self.looks += 1
        return Borrowed(self.asked, self.make_room) if self.looks % self.every == 0 else None

    def await_change(self, known: Borrowed) -> Borrowed | None:
        self.now += self.seconds
        self.asked += 1
        return None if self.asked % self.askings == 0 else Borrowed(self.asked, self.make_room)

    def clock(self) -> float:
        """Time that passes by a second a look, and by the loans."""
        self.now += 1
        return self.now


def room(folder: Path, *, memory: float) -> Callable[[], AbstractContextManager[None]]:
    """Of the CPU, which has none to make: what a GPU does, on the tensors of this process."""
    return lambda: put_aside(storages_on("cpu"), folder, memory=lambda: memory)


JOBS: dict[str, tuple[Method, dict[str, object]]] = {
    "lora": (Method.LORA, {"random_flip": True, "caption_dropout": 0.2, "lora": LoraConfig(rank=2, dropout=0.1)}),
    "average": (Method.LORA, {"ema_decay": 0.9, "train_text_encoder": True}),
    "prodigy": (Method.LORA, {"optimizer": Optimizer.PRODIGY, "learning_rate": 1.0}),
    "full": (Method.FULL, {"lora": None, "optimizer": Optimizer.ADAFACTOR}),
    "class": (
        Method.DREAMBOOTH,
        {"dreambooth": DreamBoothConfig("a photo of sks dog", "a photo of a dog", True, num_class_images=2)},
    ),
}


@pytest.mark.parametrize(
    ("kind", "memory"), [("lora", None), ("class", None), ("average", 1e12), ("prodigy", 1e12), ("full", 0.0)]
)
def test_a_job_that_lends_again_and_again_ends_with_the_bytes_of_one_that_never_does(
    house: House, tmp_path: Path, kind: str, memory: float | None
) -> None:
    method, changes = JOBS[kind]
    config = make_config(
        max_steps=3,
        samples=SampleConfig(("red apple",), steps=2),
        validation=ValidationConfig(share=0.3, interval_steps=2),
        checkpoints=CheckpointConfig(interval_steps=2),
        **changes,
    )
    undisturbed = last(house.reports(config, method))
    borrower = Borrower(make_room=memory is not None, every=1 if memory is None else 5)
    makes = None if memory is None else room(tmp_path / "aside", memory=memory)
    lent = list(lending(house.run(config, method), borrower, TrainingClock(), room=makes))
    assert isinstance(lent[-1], Trained)
    assert digests(lent[-1]) == digests(undisturbed)
    loans = [report for report in lent if isinstance(report, Lent)]
    assert len(loans) * borrower.every > 2 * undisturbed.step, "also between the passes of samples and validations"
    assert {each.made_room for each in loans} == {memory is not None}
    assert not list(tmp_path.glob("aside/*"))


def test_nothing_is_asked_of_the_job_between_the_loan_and_its_end() -> None:
    done: list[int] = []

    def job() -> "list[Report | None]":
        return [None, None, Trained(2, 2, ())]

    def working() -> "object":
        for place, report in enumerate(job()):
            done.append(place)
            yield report

    waits: list[list[int]] = []

    class Looking(Borrower):
        def await_change(self, known: Borrowed) -> Borrowed | None:
            waits.append(list(done))
            return super().await_change(known)

    seen = list(lending(working(), Looking(askings=2), TrainingClock()))  # type: ignore[arg-type]
    # Each asking is answered, and the end of a loan is told once. The last word is nobody's to hold up.
    kinds = [(type(each).__name__, each.lent_millis is None) if isinstance(each, Lent) else each for each in seen]
    loan = [("Lent", True), ("Lent", True), ("Lent", False)]
    assert kinds == [None, *loan, None, *loan, Trained(2, 2, ())]
    assert waits == [[0], [0], [0, 1], [0, 1]]


def test_time_that_is_lent_is_not_training_time(house: House) -> None:
    borrower = Borrower(seconds=1000.0)
    clock = TrainingClock(lent_before=5000, clock=borrower.clock)
    config = make_config(epochs=1, max_steps=3)
    reports = list(lending(house.run(config, clock=clock), borrower, clock))
    steps = [report for report in reports if isinstance(report, Progress)]
    assert steps[-1].elapsed_millis < 100_000, "the looks at the clock, a second each"
    assert steps[-1].images_per_second > 0.1
    lent = [report.lent_millis for report in reports if isinstance(report, Lent) and report.lent_millis is not None]
    assert min(lent) >= 1_000_000
    before_last = reports.index(steps[-1])
    told = [each.lent_millis or 0 for each in reports[:before_last] if isinstance(each, Lent)]
    assert steps[-1].lent_millis == 5000 + sum(told), "what is lent adds up over attempts"


def test_storages_shrink_to_nothing_and_views_find_their_bytes_again(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    view = whole.view(3, 4)[1]
    half = torch.ones(5, dtype=torch.bfloat16)
    held = [each.untyped_storage() for each in (whole, half)]
    for memory in (1000.0, 48.0, 0.0):
        with put_aside(held, tmp_path, memory=partial(float, memory)):
            assert [each.untyped_storage().nbytes() for each in (whole, view, half)] == [0, 0, 0]
            assert len(list(tmp_path.glob("*.bytes"))) == {1000.0: 0, 48.0: 1, 0.0: 2}[memory]
        assert whole.tolist() == list(range(12))
        assert view.tolist() == [4, 5, 6, 7]
        assert half.tolist() == [1] * 5
        assert not list(tmp_path.iterdir())
    whole[4] = 9
    assert view[0] == 9, "it still is a view"


def test_every_tensor_of_a_device_is_found_once() -> None:
    kept = torch.zeros(7)
    views = [kept[1:], kept.view(1, 7)]
    pointers = [each.data_ptr() for each in storages_on("cpu")]
    assert pointers.count(kept.untyped_storage().data_ptr()) == 1
    assert not storages_on("mps")
    del views


def test_what_a_compiler_keeps_of_a_tensor_is_no_tensor_of_the_device() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        shape = torch.zeros(8)
    assert shape.device.type == "cpu"
    assert all(each.device.type == "cpu" for each in storages_on("cpu"))


def test_a_disk_that_is_full_leaves_training_where_it_was(tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("and no folder")
    whole = torch.arange(4.0)
    with pytest.raises(OSError, match="a file"), put_aside([whole.untyped_storage()], blocked, memory=lambda: 0):
        raise AssertionError("there is no room")
    assert whole.tolist() == [0, 1, 2, 3]


def test_a_job_that_pauses_while_it_is_lent_leaves_its_checkpoint(house: House) -> None:
    config = make_config(epochs=2, checkpoints=CheckpointConfig(interval_steps=1))  # each step is told at once
    reports: list[Report | None] = []
    paused = False

    class Pausing(Borrower):
        """Borrows once a step has been told, and is still there when the job is to pause."""

        @property
        def borrowed(self) -> Borrowed | None:
            trains = any(isinstance(report, Progress) for report in reports)
            return Borrowed(1, make_room=False) if trains and not paused else None

        def await_change(self, known: Borrowed) -> Borrowed | None:
            nonlocal paused
            paused = True
            return None

    for report in lending(house.run(config, pausing=lambda: paused), Pausing(), TrainingClock()):
        reports.append(report)
    assert isinstance(reports[-1], Paused)
    saved = reports[-2]
    assert not isinstance(saved, Lent | None)
    resumed = list(house.run(config, checkpoints=[saved]))  # type: ignore[list-item]  # it is one
    assert isinstance(resumed[-1], Trained)
    assert digests(resumed[-1]) == digests(last(house.reports(replace(config))))
