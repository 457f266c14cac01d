"""Why a job failed, in a stable word for programs and a sentence for people."""

import errno

from services.common.errors import AtelierError, InvalidArgument
from services.trainer.domain import Failure

NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")  # torch's words, on its devices


def failure_of(error: BaseException) -> Failure:
    """Domain errors keep their reason (WEIGHTS_UNAVAILABLE, BAD_IMAGE, LOSS_NOT_FINITE, ...); broken rules of the
    configuration are INVALID_CONFIG, lack of memory OUT_OF_MEMORY, of disk DISK_FULL, anything else INTERNAL."""
    match error:
        case InvalidArgument():
            return Failure("INVALID_CONFIG", error.message)
        case AtelierError():
            return Failure(error.reason, error.message)
        case _ if _is_out_of_memory(error):
            rule = "try a smaller batch size or resolution, gradient checkpointing, or mixed precision"
            return Failure("OUT_OF_MEMORY", f"the training device has too little memory: {rule}")
        case OSError(errno=errno.ENOSPC):
            return Failure("DISK_FULL", f"no space is left on the disk of {error.filename or 'the worker'}")
        case _:
            return Failure("INTERNAL", f"{type(error).__name__}: {error}")


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(each in text for each in NO_MEMORY)
    )
