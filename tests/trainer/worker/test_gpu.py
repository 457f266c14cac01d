"""What only a GPU can show: half precision learns, and gives weights that load."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.common.blobs import BlobStore
from services.trainer.domain import Device, Method, Precision, Progress, Trained
from services.trainer.worker.assignment import Assignment
from services.trainer.worker.job import run_job
from tests.trainer.worker.conftest import make_config
from tests.trainer.worker.test_job import House, house

__all__ = ["house"]  # a fixture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
@pytest.mark.parametrize("precision", [Precision.AUTO, Precision.NO])
def test_a_job_runs_on_cuda(
    house: House, blobs: BlobStore, tmp_path: Path, method: Method, precision: Precision
) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # the suite's own is for the CPU
    config = replace(make_config(max_steps=4), device=Device.CUDA, mixed_precision=precision)
    assignment = Assignment("1" * 36, method, config, "ab" * 32, (house.base,))
    reports = list(run_job(assignment, house.items, house.places))
    assert isinstance(reports[-1], Trained)
    assert [report.step for report in reports if isinstance(report, Progress)] == [1, 2, 3, 4]
    AcceleratorState._reset_state(reset_partial_state=True)
