"""Training's tensors out of the device's memory and back, so that others can use it meanwhile.

What is moved is not the tensors but the storages behind them, which shrink to nothing in their place: whatever points
at one, a view, a gradient, an optimizer's memory, a cache in a closure, finds the same bytes in it afterwards.
"""

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import torch

SPARED_SHARE = 0.1
"""Of the machine's memory, which is left to others."""
RETURN_SECONDS = 600.0
"""How long a device is waited for that is still full when it has been given back: who borrowed it may be ending."""


@contextmanager
def room_made(device: str, folder: Path) -> Iterator[None]:
    """Inside the block a CUDA device's memory is free of all that training has there: it is in the machine's memory, or
    in `folder` where that would not suffice. Raises OSError when the disk does not either."""
    import torch

    with put_aside(storages_on(device), folder):
        torch.cuda.empty_cache()
        yield


@contextmanager
def put_aside(
    storages: "Iterable[torch.UntypedStorage]", folder: Path, *, memory: Callable[[], float] | None = None
) -> Iterator[None]:
    """Inside the block the storages are empty; afterwards each holds its bytes again. `memory` says how many bytes may
    go into the machine's memory."""
    import torch

    left = (memory or _spare_memory)()
    aside: list[tuple[torch.UntypedStorage, int, torch.UntypedStorage]] = []
    try:
        for place, storage in enumerate(storages):
            size = storage.nbytes()
            left -= size
            if left >= 0:
                copy = torch.UntypedStorage(size)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                copy = _in_file(folder / f"{place}.bytes", size)
            copy.copy_(storage)
            storage.resize_(0)
            aside.append((storage, size, copy))
        yield
    finally:
        while aside:
            storage, size, copy = aside.pop()
            _grow(storage, size)
            storage.copy_(copy)
        for file in folder.glob("*.bytes"):
            file.unlink()


def storages_on(device: str) -> "list[torch.UntypedStorage]":
    """What lies behind every tensor on the device that Python knows, each once."""
    import torch

    gc.collect()
    found: dict[int, torch.UntypedStorage] = {}
    for each in gc.get_objects():
        # By the type itself: to ask some lazy object of another library for its class would make it come to life.
        if issubclass(type(each), torch.Tensor) and each.device.type == device and each.layout is torch.strided:
            storage = each.untyped_storage()
            # What a compiler keeps of a tensor's shape names a device, and has nothing on it.
            if storage.device.type == device and storage.resizable() and storage.nbytes():
                found[storage.data_ptr()] = storage
    return list(found.values())


def _in_file(path: Path, size: int) -> "torch.UntypedStorage":
    import torch

    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, and not a crash later
    return cast("torch.UntypedStorage", torch.UntypedStorage.from_file(str(path), shared=True, nbytes=size))


def wait_for_device(device: str) -> None:
    """Returns when a GPU has done what it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _grow(storage: "torch.UntypedStorage", size: int) -> None:
    """Raises torch.OutOfMemoryError when the device stays full."""
    import torch

    deadline = time.monotonic() + RETURN_SECONDS
    while True:
        try:
            storage.resize_(size)
        except torch.OutOfMemoryError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def _spare_memory() -> float:
    import psutil

    memory = psutil.virtual_memory()
    return float(memory.available - memory.total * SPARED_SHARE)
