"""A Trainer in a process of its own, so that it can really be killed; with fake workers unless REAL_WORKER is set.

CRASH_AT names where it dies: `trained` (the weights are stored, nothing is registered), `registered` (the Catalog has
the model, the Trainer has not noted it) or `completed` (noted, and nobody told).
"""

import asyncio
import os
from typing import Any

from services.common.server import announce
from services.trainer import domain
from services.trainer.__main__ import WORKER, serving
from services.trainer.config import TrainerSettings
from services.trainer.store import Store
from tests.trainer.house import FAKE_WORKER

COMMAND = WORKER if os.environ.get("REAL_WORKER") else FAKE_WORKER
CRASH_AT = os.environ.get("CRASH_AT", "")


def crash(point: str) -> None:
    if point == CRASH_AT:
        os._exit(9)


class CrashingStore(Store):
    """The real store, in a process that dies around its writes."""

    async def append_reports(self, job_id: str, token: str, **more: Any) -> domain.Appended | None:
        stored = await super().append_reports(job_id, token, **more)
        if stored and stored.job.stage is domain.Stage.REGISTERING:
            crash("trained")
        return stored

    async def complete(self, job_id: str, done: domain.Done) -> domain.Appended | None:
        crash("registered")
        completed = await super().complete(job_id, done)
        crash("completed")
        return completed


async def main() -> None:
    settings = TrainerSettings()
    async with serving(settings, worker_command=COMMAND, store_type=CrashingStore) as server:
        assert settings.announce_file is not None
        announce(settings.announce_file, server.address)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
