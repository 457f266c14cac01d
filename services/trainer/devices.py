"""Which devices workers here can use. Torch says, in a process of its own: the control plane never loads it."""

import asyncio
import os
import sys

from services.common.telemetry import Logger
from services.trainer.domain import Device

PROBE = """
import torch
from services.diffusion.device import device_name
gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
names = [device_name(f"cuda:{place}") for place in range(gpus)]
print(",".join(names) or "none", "cuda" if gpus else "", "mps" if torch.backends.mps.is_available() else "")
"""
TIMEOUT_SECONDS = 120.0


class Devices:
    """Asks once, when it is first wanted; a worker's start costs as much."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._answer: asyncio.Task[tuple[tuple[str, ...], tuple[Device, ...]]] | None = None

    async def available(self) -> tuple[Device, ...]:
        """Always the CPU; with it CUDA and MPS where torch finds them."""
        return (await self._asked())[1]

    async def gpus(self) -> tuple[str, ...]:
        """The CUDA devices that torch sees, as CUDA_VISIBLE_DEVICES names them."""
        return tuple(await self.gpu_names())

    async def gpu_names(self) -> dict[str, str]:
        """What drivers call the CUDA devices, by what CUDA_VISIBLE_DEVICES calls them."""
        names, _ = await self._asked()
        visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        return dict(zip(visible[: len(names)] or map(str, range(len(names))), names, strict=True))

    async def _asked(self) -> tuple[tuple[str, ...], tuple[Device, ...]]:
        if self._answer is None:
            self._answer = asyncio.create_task(self._probe())
        # A caller who leaves must not end the probe for the others.
        return await asyncio.shield(self._answer)

    async def stop(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.cancel()
            await asyncio.gather(self._answer, return_exceptions=True)

    async def _probe(self) -> tuple[tuple[str, ...], tuple[Device, ...]]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROBE, stdout=pipe, stderr=pipe)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                output, errors = await process.communicate()
        except TimeoutError:
            output, errors = b"", b"the probe took too long"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            self._log.warning("torch could not be asked for its devices", error=errors.decode(errors="replace")[-500:])
        gpus, *kinds = output.decode().split() if process.returncode == 0 else ("none",)
        found = {"cpu", *kinds}
        names = () if gpus == "none" else tuple(gpus.split(","))
        return names, tuple(each for each in (Device.CPU, Device.CUDA, Device.MPS) if each.value in found)
