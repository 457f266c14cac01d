"""The models in memory: bases kept and reused, LoRAs put on the base that they share, read while others draw.

Only the engine's thread calls it, but for `loaded` and `shortage`. Files are read by threads of the pool's own.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.errors import FailedPrecondition, ResourceExhausted
from services.diffusion.load import Components, load_components
from services.diffusion.mixed import read_adapter
from services.generator.domain import Folders, LoadedModel, Plan
from services.generator.engine.base import MAKING, Base

if TYPE_CHECKING:
    import torch

DRAWING_BYTES = 8192
"""A rule of thumb for what a pixel takes while it is drawn: some activations of the decoder's 256 channels."""
READERS = 2
HELD_SECONDS = 30.0
"""For so long what was loaded waits for whoever asked for it."""

# Which weights a base is: its folders' digests, nearest first.
Key = tuple[str, ...]


class Pool:
    """Bases and LoRAs within `memory_bytes`: what was unused for longest leaves first, and what is in use never."""

    def __init__(self, *, device: str, dtype: "torch.dtype", memory_bytes: int, max_loras: int) -> None:
        self._device = device
        self._dtype = dtype
        self._memory_bytes = memory_bytes
        self._max_loras = max_loras
        self._bases: dict[Key, Base] = {}
        self._reading: dict[tuple[Key, str], Future[Any]] = {}
        self._expected: dict[tuple[Key, str], int] = {}  # bytes of what is being read
        self.lacks_room = False
        """Whether what is in use is why `ready` has last said None."""
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._lock = threading.Lock()

    def ready(
        self, plan: Plan, folders: Folders, *, on_load: Callable[[int], None], wake: Callable[[], None]
    ) -> Base | None:
        """The plan's base with its LoRAs on it; None while something is read, whose end another thread tells `wake`.
        `on_load` is told a model's id when it is about to be read from disk.

        Raises WeightsUnavailable, FailedPrecondition (a LoRA that does not fit), ResourceExhausted (too big for the
        memory there is).
        """
        self.lacks_room = False
        key = _key(plan)
        base = self._bases.get(key) or self._base(key, plan, folders, on_load, wake)
        if base is None:
            return None
        names = lora_names(plan)
        base.used = time.monotonic()
        whole = True
        for name, lora, path in zip(names, plan.loras, folders.loras, strict=True):
            if name not in base.loras:
                base.held_until = time.monotonic() + HELD_SECONDS
                whole = self._lora(key, base, name, lora.source.model_id, path, on_load, wake) and whole
        if not whole:
            return None
        for name in names:
            base.loras[name].used = time.monotonic()
        base.held_until = 0.0
        self._thin_out(base, keep=names)
        return base

    def loaded(self) -> list[LoadedModel]:
        """What is in memory, latest used first. From any thread."""
        with self._lock:
            bases = list(self._bases.values())
        return [base.describe() for base in sorted(bases, key=lambda each: -each.used)]

    def shortage(self, plan: Plan, folders: Folders, *, pixels: int) -> int:
        """By how many bytes a GPU's free memory falls short of loading the plan's base and drawing `pixels` at once, as
        far as that can be told before; 0 where it suffices, and on a CPU. From any thread."""
        if not self._device.startswith("cuda"):
            return 0
        import torch

        with self._lock:
            loaded = _key(plan) in self._bases
        wanted = pixels * DRAWING_BYTES + (0 if loaded else _bytes_on_disk(folders.pipeline))
        # What torch keeps for itself and does not use is free to it.
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return max(0, wanted - torch.cuda.mem_get_info(self._device)[0] - kept)

    def clear(self) -> None:
        """Lets go of everything that is not in use: what a device that is out of memory wants first."""
        with self._lock:
            self._bases = {key: base for key, base in self._bases.items() if base.is_busy}
        release_memory(self._device)

    def close(self) -> None:
        self._readers.shutdown(wait=True, cancel_futures=True)

    def _base(
        self, key: Key, plan: Plan, folders: Folders, on_load: Callable[[int], None], wake: Callable[[], None]
    ) -> Base | None:
        read = self._reading.get((key, ""))
        if read is None:
            wanted = _bytes_on_disk(folders.pipeline)
            self._check_budget(wanted, plan)
            if not self._make_room(wanted):
                self.lacks_room = True
                return None  # what is in use will be done some time
            on_load(plan.base.model_id)
            self._expected[(key, "")] = wanted
            read = self._readers.submit(self._read_base, plan, folders)
            self._reading[(key, "")] = read
            read.add_done_callback(lambda _: wake())
        if not read.done():
            return None
        del self._reading[(key, "")], self._expected[(key, "")]
        base = Base(read.result(), model_id=plan.base.model_id, name=plan.base.name)
        base.held_until = time.monotonic() + HELD_SECONDS
        with self._lock:
            self._bases[key] = base
        return base

    def _read_base(self, plan: Plan, folders: Folders) -> Components:
        with MAKING:
            components = load_components(folders.pipeline, family=plan.family, device=self._device, dtype=self._dtype)
        _order_channels_last(components)
        return components

    def _lora(
        self,
        key: Key,
        base: Base,
        name: str,
        model_id: int,
        path: Path,
        on_load: Callable[[int], None],
        wake: Callable[[], None],
    ) -> bool:
        """True once it is on the base."""
        read = self._reading.get((key, name))
        if read is None:
            wanted = path.stat().st_size if path.is_file() else 0
            if not self._make_room(wanted):
                self.lacks_room = True
                return False
            on_load(model_id)
            self._expected[(key, name)] = wanted
            read = self._readers.submit(read_adapter, base.components, path)
            self._reading[(key, name)] = read
            read.add_done_callback(lambda _: wake())
        if not read.done():
            return False
        del self._reading[(key, name)], self._expected[(key, name)]
        base.put_on(name, model_id, read.result(), path)
        return True

    def _check_budget(self, wanted: int, plan: Plan) -> None:
        if wanted > self._memory_bytes:
            message = (
                f"model {plan.base.model_id} '{plan.base.name}' takes {wanted >> 20} MiB,"
                f" and loaded models may take {self._memory_bytes >> 20} MiB"
            )
            raise ResourceExhausted(message, reason="OUT_OF_MEMORY")

    def _make_room(self, wanted: int) -> bool:
        """Lets the longest unused leave until `wanted` bytes are free; False when what is in use leaves too little."""
        if self._taken() + wanted > self._memory_bytes:
            # What was read and not fetched: most likely whoever asked for it has left.
            for place in [place for place, read in self._reading.items() if read.done()]:
                del self._reading[place], self._expected[place]
        left = False
        while self._taken() + wanted > self._memory_bytes:
            idle = [(base.used, key, "") for key, base in self._bases.items() if not base.is_busy]
            for key, base in self._bases.items():
                idle += [(lora.used, key, name) for name, lora in base.loras.items() if not lora.users]
            if not idle:
                break
            _, key, name = min(idle)
            with self._lock:
                base = self._bases[key] if name else self._bases.pop(key)
            if name:
                base.take_off(name)
            left = True
        if left:
            release_memory(self._device)
        return self._taken() + wanted <= self._memory_bytes

    def _taken(self) -> int:
        return sum(base.memory_bytes for base in self._bases.values()) + sum(self._expected.values())

    def _thin_out(self, base: Base, *, keep: list[str]) -> None:
        idle = sorted((lora.used, name) for name, lora in base.loras.items() if not lora.users and name not in keep)
        for _, name in idle[: max(0, len(base.loras) - self._max_loras)]:
            base.take_off(name)

    def unload(self, model_id: int) -> None:
        """Takes a base or a LoRA out of memory; one that is not there is no error. Raises FailedPrecondition while it
        draws."""
        for key, base in list(self._bases.items()):
            names = [name for name, lora in base.loras.items() if lora.model_id == model_id]
            busy = base.is_busy if base.model_id == model_id else any(base.loras[name].users for name in names)
            if busy:
                raise FailedPrecondition(f"model {model_id} is drawing just now", reason="MODEL_BUSY")
            for name in names:
                base.take_off(name)
            if base.model_id == model_id:
                with self._lock:
                    del self._bases[key]
        release_memory(self._device)


def lora_names(plan: Plan) -> list[str]:
    """What a plan's LoRAs are called on its base."""
    return [f"model{each.source.model_id}_{each.source.digest[:16]}" for each in plan.loras]


def memory_budget(device: str) -> int:
    """Two thirds of the device's memory, in bytes: the rest is for drawing, and for others."""
    import psutil
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(torch.device(device)).total_memory) * 2 // 3
    return int(psutil.virtual_memory().total) * 2 // 3


def release_memory(device: str) -> None:
    """Gives freed memory back to the device."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _key(plan: Plan) -> Key:
    return tuple(source.digest for source in plan.pipeline)


def _order_channels_last(components: Components) -> None:
    """The convolutions' favourite order of axes. Always the same one, so that equal requests give equal bytes.

    On two CPU cores one picture of the starter model took 0.89 of the time, four together and a larger model the same.
    """
    import torch

    for module in (components.denoiser, components.vae):
        module.to(memory_format=torch.channels_last)


def _bytes_on_disk(folders: tuple[Path, ...]) -> int:
    """An estimate before loading: each component's safetensors, from the nearest folder that has it."""
    sizes: dict[str, int] = {}
    for folder in reversed(folders):
        for home in (each for each in folder.iterdir() if each.is_dir()):
            weights = sum(file.stat().st_size for file in home.glob("*.safetensors"))
            if weights:
                sizes[home.name] = weights
    return sum(sizes.values())
