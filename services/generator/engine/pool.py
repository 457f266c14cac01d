"""The models in memory: bases kept and reused, LoRAs attached to the base that they share.

Only the engine's thread calls `components`; `loaded` may be read from anywhere.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.errors import ResourceExhausted
from services.diffusion.adapters import load_loras, remove_lora, set_lora_weights
from services.diffusion.load import Components, load_components
from services.generator.domain import Folders, LoadedModel, Plan

if TYPE_CHECKING:
    import torch

DRAWING_BYTES = 8192
"""A rule of thumb for what a pixel takes while it is drawn: some activations of the decoder's 256 channels."""

# Which weights a base is: its folders' digests, nearest first.
Key = tuple[str, ...]


@dataclass
class _Loaded:
    components: Components
    model_id: int
    name: str
    memory_bytes: int
    used: float = field(default_factory=time.monotonic)
    loras: "OrderedDict[str, int]" = field(default_factory=OrderedDict)  # adapter name -> model id, latest used last


class Pool:
    """Loaded bases within `memory_bytes`; the one unused for longest leaves first."""

    def __init__(self, *, device: str, dtype: "torch.dtype", memory_bytes: int, max_loras: int) -> None:
        self._device = device
        self._dtype = dtype
        self._memory_bytes = memory_bytes
        self._max_loras = max_loras
        self._bases: OrderedDict[Key, _Loaded] = OrderedDict()
        self._lock = threading.Lock()

    def components(self, plan: Plan, folders: Folders, *, on_load: Callable[[int], None]) -> Components:
        """The plan's base with exactly its LoRAs acting. `on_load` is told a model's id before it is read from disk.

        Raises WeightsUnavailable, FailedPrecondition (a LoRA that does not fit), ResourceExhausted (too big for the
        memory there is).
        """
        key = tuple(source.digest for source in plan.pipeline)
        entry = self._bases.get(key) or self._load(key, plan, folders, on_load)
        names = [f"model{each.source.model_id}_{each.source.digest[:16]}" for each in plan.loras]
        for name, lora, path in zip(names, plan.loras, folders.loras, strict=True):
            if name not in entry.loras:
                on_load(lora.source.model_id)
                load_loras(entry.components, [(name, path)])
        with self._lock:
            for name, lora in zip(names, plan.loras, strict=True):
                entry.loras[name] = lora.source.model_id
                entry.loras.move_to_end(name)
            crowd = [name for name in entry.loras if name not in names][: max(0, len(entry.loras) - self._max_loras)]
            for name in crowd:
                del entry.loras[name]
            entry.used = time.monotonic()
            self._bases.move_to_end(key)
        for name in crowd:
            remove_lora(entry.components, name)
        set_lora_weights(entry.components, {name: each.weight for name, each in zip(names, plan.loras, strict=True)})
        return entry.components

    def loaded(self) -> list[LoadedModel]:
        """What is in memory, latest used first."""
        now = time.monotonic()
        with self._lock:
            return [
                LoadedModel(
                    entry.model_id,
                    entry.name,
                    entry.memory_bytes,
                    tuple(entry.loras.values()),
                    int((now - entry.used) * 1000),
                )
                for entry in reversed(self._bases.values())
            ]

    def shortage(self, plan: Plan, folders: Folders, *, pixels: int) -> int:
        """By how many bytes a GPU's free memory falls short of loading the plan's base and drawing `pixels` at once, as
        far as that can be told before; 0 where it suffices, and on a CPU."""
        if not self._device.startswith("cuda"):
            return 0
        import torch

        with self._lock:
            loaded = tuple(source.digest for source in plan.pipeline) in self._bases
        wanted = pixels * DRAWING_BYTES + (0 if loaded else _bytes_on_disk(folders.pipeline))
        # What torch keeps for itself and does not use is free to it.
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return max(0, wanted - torch.cuda.mem_get_info(self._device)[0] - kept)

    def clear(self) -> None:
        """Lets go of everything: what a device that is out of memory wants first."""
        with self._lock:
            self._bases.clear()
        release_memory(self._device)

    def _load(self, key: Key, plan: Plan, folders: Folders, on_load: Callable[[int], None]) -> _Loaded:
        on_load(plan.base.model_id)
        self._make_room(_bytes_on_disk(folders.pipeline), plan)
        components = load_components(folders.pipeline, family=plan.family, device=self._device, dtype=self._dtype)
        _order_channels_last(components)
        entry = _Loaded(components, plan.base.model_id, plan.base.name, components.memory_bytes)
        with self._lock:
            self._bases[key] = entry
        return entry

    def _make_room(self, wanted: int, plan: Plan) -> None:
        if wanted > self._memory_bytes:
            message = (
                f"model {plan.base.model_id} '{plan.base.name}' takes {wanted >> 20} MiB,"
                f" and loaded models may take {self._memory_bytes >> 20} MiB"
            )
            raise ResourceExhausted(message, reason="OUT_OF_MEMORY")
        left = False
        with self._lock:
            while self._bases and sum(each.memory_bytes for each in self._bases.values()) + wanted > self._memory_bytes:
                self._bases.popitem(last=False)
                left = True
        if left:
            release_memory(self._device)


def _order_channels_last(components: Components) -> None:
    """The convolutions' favourite order of axes. Always the same one, so that equal requests give equal bytes.

    On two CPU cores one picture of the starter model took 0.89 of the time, four together and a larger model the same.
    """
    import torch

    for module in (components.denoiser, components.vae):
        module.to(memory_format=torch.channels_last)


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


def _bytes_on_disk(folders: tuple[Path, ...]) -> int:
    """An estimate before loading: each component's safetensors, from the nearest folder that has it."""
    sizes: dict[str, int] = {}
    for folder in reversed(folders):
        for home in (each for each in folder.iterdir() if each.is_dir()):
            weights = sum(file.stat().st_size for file in home.glob("*.safetensors"))
            if weights:
                sizes[home.name] = weights
    return sum(sizes.values())
