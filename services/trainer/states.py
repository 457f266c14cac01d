"""The training states that jobs leave in the blob store while they may have to be gone on from."""

import asyncio

from services.common.blobs import BlobStore
from services.trainer.domain import Checkpoint
from services.trainer.journal import Journal


class States:
    """A state's header names its job and its step: its bytes are nobody else's, so it goes when its job needs it no
    more."""

    def __init__(self, journal: Journal, blobs: BlobStore) -> None:
        self._journal = journal
        self._blobs = blobs

    async def of(self, job_id: str) -> set[str]:
        """Digests of all that the job made; workers have deleted most of them."""
        made = [event.body for event in await self._journal.read(job_id, kind="checkpoint")]
        return {body.state.sha256 for body in made if isinstance(body, Checkpoint) and body.state}

    async def delete(self, digests: set[str]) -> None:
        """Deletes those that are there."""
        for digest in digests:
            await asyncio.to_thread(self._blobs.delete, digest)
