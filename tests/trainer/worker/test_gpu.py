"""What only a GPU can show: half precision learns, and gives weights that load."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.common.blobs import BlobStore
from services.trainer.domain import Device, Method, Optimizer, Precision, Progress, SampleConfig, Trained
from services.trainer.worker.assignment import Assignment, BaseModel
from services.trainer.worker.job import run_job
from services.trainer.worker.room import room_made
from tests.tiny_families import MAKERS
from tests.trainer.worker.conftest import make_config
from tests.trainer.worker.test_job import House, house

__all__ = ["house"]  # a fixture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """The suite's own is for the CPU."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def trains(house: House, method: Method = Method.LORA, **changes: object) -> None:
    config = make_config(max_steps=4, device=Device.CUDA, **changes)
    assignment = Assignment("1" * 36, method, config, "ab" * 32, (house.base,))
    reports = list(run_job(assignment, house.items, house.places))
    assert isinstance(reports[-1], Trained)
    assert [report.step for report in reports if isinstance(report, Progress)] == [1, 2, 3, 4]


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
@pytest.mark.parametrize("precision", [Precision.AUTO, Precision.NO, Precision.FP16])
def test_a_job_runs_on_cuda(house: House, method: Method, precision: Precision) -> None:
    trains(house, method, mixed_precision=precision)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": Optimizer.ADAMW_8BIT},
        {"compile": True},
        {"gradient_checkpointing": True, "train_text_encoder": True},
        {"samples": SampleConfig(("a cat",), interval_steps=2, steps=2)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_techniques_run_on_cuda(house: House, changes: dict[str, object]) -> None:
    trains(house, **changes)


@pytest.mark.parametrize("family", sorted(MAKERS))
def test_every_family_runs_on_cuda(house: House, blobs: BlobStore, tmp_path: Path, family: str) -> None:
    folder = MAKERS[family](tmp_path / "pipeline")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = tuple((path.relative_to(folder).as_posix(), blobs.put_file(path)[0]) for path in paths)
    trains(replace(house, base=BaseModel(7, "tiny", family, "cd" * 32, files)))


def test_the_gpus_memory_is_free_while_room_is_made(tmp_path: Path) -> None:
    model = torch.nn.Linear(1024, 1024, device="cuda")
    before, view = model.weight.detach().clone().cpu(), model.weight.view(-1)[:5]
    with room_made("cuda", tmp_path / "aside"):
        assert torch.cuda.memory_allocated() < 1 << 20
    assert torch.equal(model.weight.cpu(), before)
    assert torch.equal(view.cpu(), before.view(-1)[:5])
