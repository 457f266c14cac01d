"""The models in memory: bases and ControlNets kept and reused, LoRAs put on the base that they share, read while others
draw.

Only the engine's thread calls it, but for `loaded` and `shortage`. Files are read by threads of the pool's own.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from services.common.errors import FailedPrecondition, ResourceExhausted
from services.diffusion.device import work_beside
from services.diffusion.families import get_family
from services.diffusion.load import bytes_in_turns
from services.diffusion.mixed import read_adapter
from services.generator.domain import Folders, LoadedModel, Plan, Source
from services.generator.engine.base import Base
from services.generator.engine.held import Held
from services.generator.engine.nets import Net
from services.generator.engine.reading import Reader, bytes_by_part, bytes_of_folder

DRAWING_BYTES = 8192
"""A rule of thumb for what a pixel takes while it is drawn: some activations of the decoder's 256 channels."""
READERS = 2
HELD_SECONDS = 30.0
"""For so long what was loaded waits for whoever asked for it."""

# Which weights a base is: its folders' digests, nearest first.
Key = tuple[str, ...]


@dataclass(frozen=True)
class Ready:
    """What a plan is drawn with."""

    base: Base
    nets: tuple[Net, ...]  # in the plan's order


@dataclass(frozen=True)
class _Told:
    """Who is told of models that are read."""

    on_load: Callable[[int], None]
    wake: Callable[[], None]


class Pool:
    """Bases, LoRAs and ControlNets within `memory_bytes`: what was unused for longest leaves first, what is in use
    never."""

    def __init__(self, reader: Reader, *, device: str, memory_bytes: int, max_loras: int) -> None:
        self._reader = reader
        self._device = device
        self._memory_bytes = memory_bytes
        self._max_loras = max_loras
        self._bases: dict[Key, Base] = {}
        self._nets: dict[str, Net] = {}  # by digest
        self._reading: dict[tuple[Key, str], Future[Any]] = {}
        self._expected: dict[tuple[Key, str], int] = {}  # bytes of what is being read
        self.lacks_room = False
        """Whether what is in use is why `ready` has last said None."""
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader", initializer=work_beside)
        self._lock = threading.Lock()

    def ready(
        self, plan: Plan, folders: Folders, *, on_load: Callable[[int], None], wake: Callable[[], None]
    ) -> Ready | None:
        """The plan's base with its LoRAs on it, and its ControlNets; None while something is read, whose end another
        thread tells `wake`. `on_load` is told a model's id when it is about to be read from disk.

        Raises WeightsUnavailable, FailedPrecondition (a LoRA that does not fit), ResourceExhausted (too big for the
        memory there is).
        """
        self.lacks_room = False
        key, told = _key(plan), _Told(on_load, wake)
        base = self._bases.get(key) or self._base(key, plan, folders, told)
        if base is None:
            return None
        names = lora_names(plan)
        base.used = time.monotonic()
        nets = [
            self._net(source, folder, plan.family, told)
            for source, folder in zip(plan.controls, folders.controls, strict=True)
        ]
        whole = all(net is not None for net in nets)
        for name, lora, path in zip(names, plan.loras, folders.loras, strict=True):
            if name not in base.loras:
                whole = self._lora(key, base, name, lora.source.model_id, path, told) and whole
        if not whole:
            loras = sum(path.stat().st_size for path in folders.loras if path.is_file())
            self._check_budget(base.own_bytes + loras + sum(map(bytes_of_folder, folders.controls)), plan.base)
            # What is here already shall be when the rest is; but two that lack room must not keep each other waiting.
            places = [*((key, name) for name in names), *map(_net_place, plan.controls)]
            reads = any(place in self._reading for place in places)
            base.held_until = time.monotonic() + HELD_SECONDS if reads else 0.0
            return None
        there = tuple(net for net in nets if net is not None)
        for name in names:
            base.loras[name].used = time.monotonic()
        for net in there:
            net.used = time.monotonic()
        everything: tuple[Held, ...] = (base, *there)
        for held in everything:
            held.held_until = 0.0
        self._thin_out(base, keep=names)
        return Ready(base, there)

    def loaded(self) -> list[LoadedModel]:
        """What is in memory, latest used first. From any thread."""
        with self._lock:
            held: list[Held] = [*self._bases.values(), *self._nets.values()]
        return [each.describe() for each in sorted(held, key=lambda each: -each.used)]

    def shortage(self, plan: Plan, folders: Folders, *, pixels: int) -> int:
        """By how many bytes a GPU's free memory falls short of loading the plan's base and drawing `pixels` at once, as
        far as that can be told before; 0 where it suffices, and on a CPU. From any thread."""
        if not self._device.startswith("cuda"):
            return 0
        import torch

        with self._lock:
            loaded = _key(plan) in self._bases
        wanted = pixels * DRAWING_BYTES + (0 if loaded else self._fit(plan, folders)[0])
        # What torch keeps for itself and does not use is free to it.
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return max(0, wanted - torch.cuda.mem_get_info(self._device)[0] - kept)

    def clear(self) -> None:
        """Lets go of everything that is not in use: what a device that is out of memory wants first."""
        with self._lock:
            self._bases = {key: base for key, base in self._bases.items() if base.is_busy}
            self._nets = {key: net for key, net in self._nets.items() if net.is_busy}
        release_memory(self._device)

    def close(self) -> None:
        self._readers.shutdown(wait=True, cancel_futures=True)

    def _base(self, key: Key, plan: Plan, folders: Folders, told: "_Told") -> Base | None:
        place = (key, "")
        if place not in self._reading:
            wanted, in_turns = self._fit(plan, folders)
            self._check_budget(wanted, plan.base)
            self._read(place, wanted, plan.base.model_id, told, partial(self._reader.base, plan, folders, in_turns))
        if (read := self._take(place)) is None:
            return None
        base = Base(read.result(), model_id=plan.base.model_id, name=plan.base.name)
        base.held_until = time.monotonic() + HELD_SECONDS
        with self._lock:
            self._bases[key] = base
        return base

    def _lora(self, key: Key, base: Base, name: str, model_id: int, path: Path, told: "_Told") -> bool:
        """True once it is on the base."""
        place = (key, name)
        if place not in self._reading:
            wanted = path.stat().st_size if path.is_file() else 0
            self._read(place, wanted, model_id, told, partial(read_adapter, base.components, path))
        if (read := self._take(place)) is None:
            return False
        base.put_on(name, model_id, read.result(), path)
        return True

    def _net(self, source: Source, folder: Path, family: str, told: "_Told") -> Net | None:
        if (net := self._nets.get(source.digest)) is not None:
            return net
        place = _net_place(source)
        if place not in self._reading:
            wanted = bytes_of_folder(folder)
            self._check_budget(wanted, source)
            self._read(place, wanted, source.model_id, told, partial(self._reader.net, folder, family))
        if (read := self._take(place)) is None:
            return None
        net = Net(read.result(), model_id=source.model_id, name=source.name)
        net.held_until = time.monotonic() + HELD_SECONDS
        with self._lock:
            self._nets[source.digest] = net
        return net

    def _read(
        self, place: tuple[Key, str], wanted: int, model_id: int, told: "_Told", work: Callable[[], object]
    ) -> None:
        """Begins to, if what is in use leaves room for it; else it will be done some time."""
        if not self._make_room(wanted):
            self.lacks_room = True
            return
        told.on_load(model_id)
        self._expected[place] = wanted
        read = self._reading[place] = self._readers.submit(work)
        read.add_done_callback(lambda _: told.wake())

    def _take(self, place: tuple[Key, str]) -> "Future[Any] | None":
        """What has been read."""
        read = self._reading.get(place)
        if read is None or not read.done():
            return None
        del self._reading[place], self._expected[place]
        return read

    def _fit(self, plan: Plan, folders: Folders) -> tuple[int, bool]:
        """Bytes of a base, and whether its parts must take turns so that a GPU takes it."""
        sizes = bytes_by_part(folders.pipeline)
        whole = sum(sizes.values())
        if whole <= self._memory_bytes or not self._device.startswith("cuda"):
            return whole, False
        return bytes_in_turns(sizes, get_family(plan.family).denoiser), True

    def _check_budget(self, wanted: int, source: Source) -> None:
        if wanted > self._memory_bytes:
            message = (
                f"model {source.model_id} '{source.name}' takes {wanted >> 20} MiB,"
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
            if not self._drop_longest_unused():
                break
            left = True
        if left:
            release_memory(self._device)
        return self._taken() + wanted <= self._memory_bytes

    def _drop_longest_unused(self) -> bool:
        """False where everything is in use."""
        idle: list[tuple[float, Callable[[], object]]] = [
            *((base.used, partial(self._bases.pop, key)) for key, base in self._bases.items() if not base.is_busy),
            *((net.used, partial(self._nets.pop, key)) for key, net in self._nets.items() if not net.is_busy),
        ]
        for base in self._bases.values():
            idle += [(lora.used, partial(base.take_off, name)) for name, lora in base.loras.items() if not lora.users]
        if not idle:
            return False
        _, drop = min(idle, key=lambda each: each[0])
        with self._lock:
            drop()
        return True

    def _taken(self) -> int:
        held: tuple[Held, ...] = (*self._bases.values(), *self._nets.values())
        return sum(each.memory_bytes for each in held) + sum(self._expected.values())

    def _thin_out(self, base: Base, *, keep: list[str]) -> None:
        idle = sorted((lora.used, name) for name, lora in base.loras.items() if not lora.users and name not in keep)
        for _, name in idle[: max(0, len(base.loras) - self._max_loras)]:
            base.take_off(name)

    def unload(self, model_id: int) -> None:
        """Takes a base, a LoRA or a ControlNet out of memory; one that is not there is no error. Raises
        FailedPrecondition while it draws."""
        for digest, net in list(self._nets.items()):
            if net.model_id == model_id:
                if net.is_busy:
                    raise FailedPrecondition(f"model {model_id} is drawing just now", reason="MODEL_BUSY")
                with self._lock:
                    del self._nets[digest]
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


def _net_place(source: Source) -> tuple[Key, str]:
    return (source.digest,), "net"


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
