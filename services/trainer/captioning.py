"""A dataset's captions, written by a model in a process of its own, one dataset at a time."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

from services.common.errors import FailedPrecondition, InvalidArgument
from services.diffusion.captions import name_of
from services.trainer import domain
from services.trainer.codec import dump, load
from services.trainer.domain import CaptionOrder, CaptionProgress, CaptionSummary, Failure

COMMAND = (sys.executable, "-m", "services.trainer.captioner")
Said: TypeAlias = CaptionProgress | CaptionSummary
SAID: dict[str, type[Said]] = {"progress": CaptionProgress, "summary": CaptionSummary}


class DatasetsPort(Protocol):
    async def dataset(self, dataset_id: int) -> domain.Dataset: ...


class Captioning:
    """Captions one dataset at a time; who comes later waits. `root` is where processes may scratch."""

    def __init__(self, catalog: DatasetsPort, *, root: Path, model: str, heartbeat_seconds: float) -> None:
        self._catalog = catalog
        self._root = root
        self._model = model
        self._heartbeat_seconds = heartbeat_seconds
        self._environment: dict[str, str] = {}
        self._turn = asyncio.Lock()

    @property
    def model_name(self) -> str:
        """Empty where there is none."""
        return name_of(self._model) if self._model else ""

    def tell(self, environment: Mapping[str, str]) -> None:
        """What workers find in their environment: known once the Trainer's port is."""
        self._environment = dict(environment)

    async def caption(self, order: CaptionOrder) -> AsyncGenerator[Said, None]:
        """Progress, repeated while nothing else is to be said, and the summary. The process ends with a caller who
        leaves; what it captioned until then is stored.

        Raises FailedPrecondition (CAPTIONING_UNAVAILABLE, what is wrong with the model, a dataset that holds no
        pictures), NotFound, Unavailable: the Catalog.
        """
        if not self._model:
            rule = "set ATELIER_TRAINER_CAPTION_MODEL to a folder of a captioning model or to repository/name@commit"
            raise FailedPrecondition(f"no captioning model is configured: {rule}", reason="CAPTIONING_UNAVAILABLE")
        _require_pictures(await self._catalog.dataset(order.dataset_id))
        said: asyncio.Queue[Said | Exception] = asyncio.Queue()
        work = asyncio.create_task(self._work(order, said), name=f"caption dataset {order.dataset_id}")
        last: Said = CaptionProgress(0, 0)
        try:
            while not isinstance(last, CaptionSummary):
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._heartbeat_seconds):
                        item = await said.get()
                    if isinstance(item, Exception):
                        raise item
                    last = item
                yield last
        finally:
            if not isinstance(last, CaptionSummary):
                work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _work(self, order: CaptionOrder, said: asyncio.Queue[Said | Exception]) -> None:
        """Says all of it, the last a summary or what went wrong."""
        try:
            async with self._turn:
                await asyncio.to_thread(self._root.mkdir, parents=True, exist_ok=True)
                folder = Path(tempfile.mkdtemp(dir=self._root, prefix="caption-"))
                try:
                    await self._run(order, folder, said)
                finally:
                    await asyncio.to_thread(shutil.rmtree, folder, True)
        except Exception as error:
            said.put_nowait(error)

    async def _run(self, order: CaptionOrder, folder: Path, said: asyncio.Queue[Said | Exception]) -> None:
        """Starts the process and hands on what it says; the process does not outlive this."""
        environment = {
            **os.environ,
            **self._environment,
            "ATELIER_WORKER_JOB_ID": folder.name,
            "ATELIER_WORKER_DIR": str(folder),
        }
        with (folder / "errors").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(*COMMAND, self._model, dump(order)),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        ended = False
        assert process.stdout is not None, "it is a pipe"
        try:
            async for line in process.stdout:
                kind, value = json.loads(line)
                if kind == "failure":
                    failure = load(Failure, json.dumps(value))
                    if failure.reason == "INVALID_CONFIG":  # the Catalog refuses the caption for what stands before it
                        raise InvalidArgument(failure.message, field="prefix")
                    raise FailedPrecondition(failure.message, reason=failure.reason)
                said.put_nowait(load(SAID[kind], json.dumps(value)))
                ended = kind == "summary"
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if ended:
            return
        lines = (folder / "errors").read_text(errors="replace").strip().splitlines()
        raise RuntimeError(f"captioning ended with exit code {code}: {lines[-1] if lines else 'it said nothing'}")


def _require_pictures(dataset: domain.Dataset) -> None:
    """Raises FailedPrecondition."""
    named = f"dataset {dataset.id} ({dataset.name!r})"
    if not dataset.holds_images:
        raise FailedPrecondition(f"{named} is not of the type image", reason="UNSUPPORTED_DATASET_TYPE")
    if not dataset.num_items:
        raise FailedPrecondition(f"{named} holds no pictures", reason="EMPTY_DATASET")
