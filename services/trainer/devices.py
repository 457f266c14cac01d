"""Which devices workers here can use. Torch says, in a process of its own: the control plane never loads it."""

import asyncio
import sys

from services.common.telemetry import Logger
from services.trainer.domain import Device

PROBE = """
import torch
print("cuda" if torch.cuda.is_available() else "", "mps" if torch.backends.mps.is_available() else "")
"""
TIMEOUT_SECONDS = 120.0


class Devices:
    """Asks once, when it is first wanted; a worker's start costs as much."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._answer: asyncio.Task[tuple[Device, ...]] | None = None

    async def available(self) -> tuple[Device, ...]:
        """Always the CPU; with it CUDA and MPS where torch finds them."""
        if self._answer is None:
            self._answer = asyncio.create_task(self._probe())
        # A caller who leaves must not end the probe for the others.
        return await asyncio.shield(self._answer)

    async def stop(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.cancel()
            await asyncio.gather(self._answer, return_exceptions=True)

    async def _probe(self) -> tuple[Device, ...]:
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
        found = {"cpu", *(output.decode().split() if process.returncode == 0 else ())}
        return tuple(device for device in (Device.CPU, Device.CUDA, Device.MPS) if device.value in found)
