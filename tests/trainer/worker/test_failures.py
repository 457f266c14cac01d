"""Every way to fail has a word for programs and a sentence for people."""

import errno

import pytest

from services.common.errors import InvalidArgument
from services.diffusion.weights import WeightsUnavailable
from services.trainer.worker.failures import failure_of
from services.trainer.worker.meter import LossNotFinite


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (InvalidArgument("must be 8", field="config.resolution"), "INVALID_CONFIG", "config.resolution"),
        (WeightsUnavailable("the file unet/config.json is gone"), "WEIGHTS_UNAVAILABLE", "unet/config.json"),
        (LossNotFinite("the loss of step 3 is nan"), "LOSS_NOT_FINITE", "step 3"),
        (MemoryError(), "OUT_OF_MEMORY", "smaller batch"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "OUT_OF_MEMORY", "smaller batch"),
        (OSError(errno.ENOSPC, "No space left on device", "/somewhere"), "DISK_FULL", "/somewhere"),
        (ZeroDivisionError("division by zero"), "INTERNAL", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_failure_names_its_reason_and_what_to_do(error: Exception, reason: str, words: str) -> None:
    failure = failure_of(error)
    assert failure.reason == reason
    assert words in failure.message


def test_torchs_own_lack_of_memory_is_told_apart() -> None:
    import torch

    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert failure_of(raised.value).reason == "OUT_OF_MEMORY"
