"""What jobs keep in the blob store: the weights of some checkpoints, and the states that training goes on from."""

import asyncio
from collections.abc import Sequence

from services.common.blobs import BlobStore
from services.common.errors import AtelierError
from services.common.telemetry import Logger
from services.trainer.domain import Checkpoint, Job, ModelFile
from services.trainer.journal import Journal
from services.trainer.metrics import kept_checkpoints

STATES_KEPT = 2
"""The latest, and the one before it in case that is damaged."""


class Retention:
    """Deletes what a job needs no more.

    Only files whose header names their job and their step are deleted: their bytes are nobody else's. Configs, which
    other models may share, stay. Whoever promotes a checkpoint notes that first and then looks whether it is kept: so
    what is deleted here was not to be had any more when the note was made.
    """

    def __init__(self, journal: Journal, blobs: BlobStore, log: Logger) -> None:
        self._journal = journal
        self._blobs = blobs
        self._log = log

    async def kept(self, job: Job) -> list[Checkpoint]:
        """The checkpoints that can be had, in order, and the models they were promoted to."""
        made = await self._journal.checkpoints(job.id)
        models = {step: model for step, model in (await self._journal.promotions(job.id)).items() if model is not None}
        return kept_checkpoints(made, keep=job.config.checkpoints.keep, promoted=models)

    async def sweep(self, job: Job) -> None:
        """After a checkpoint: deletes the weights of those that are not kept, and all states but the latest two."""
        made = await self._journal.checkpoints(job.id)
        promoted = await self._journal.promotions(job.id)
        kept = kept_checkpoints(made, keep=job.config.checkpoints.keep, promoted=promoted)
        needed = [file for each in kept for file in each.files]
        lasting = kept_checkpoints(made, keep=STATES_KEPT)[-STATES_KEPT:]
        needed += [each.state for each in lasting if each.state]
        await self._delete(made, needed)

    async def let_go(self, job: Job) -> None:
        """After a job's end: deletes its states."""
        made = await self._journal.checkpoints(job.id)
        await self._delete(made, [file for each in made for file in each.files])

    async def files_of(self, job: Job) -> set[str]:
        """Digests of all that goes with the job: states, and weights that no model holds. To be asked while it is
        there."""
        made = await self._journal.checkpoints(job.id)
        promoted = await self._journal.promotions(job.id)
        held = [file for each in made if each.step in promoted for file in each.files]
        return _only_ours(made) - {file.sha256 for file in (*held, *(job.trained.files if job.trained else ()))}

    async def delete(self, digests: set[str]) -> None:
        """Deletes those that are there; what cannot be deleted now is left behind, and said."""
        for digest in digests:
            try:
                await asyncio.to_thread(self._blobs.delete, digest)
            except (AtelierError, OSError) as error:
                self._log.warning("a file of a checkpoint could not be deleted", sha256=digest, error=str(error))

    async def _delete(self, made: Sequence[Checkpoint], needed: Sequence[ModelFile]) -> None:
        await self.delete(_only_ours(made) - {file.sha256 for file in needed})


def _only_ours(made: Sequence[Checkpoint]) -> set[str]:
    """Digests of the checkpoints' files that carry their job's record."""
    files = [file for each in made for file in (*each.files, *([each.state] if each.state else []))]
    return {file.sha256 for file in files if file.path.endswith(".safetensors")}
