"""What clients do with training jobs: make, start, list, cancel and delete them."""

import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.common.paging import decode_token, encode_token, page_size
from services.trainer import domain
from services.trainer.domain import Appended, Job, JobStatus, Method, TrainingConfig
from services.trainer.metrics import kept_checkpoints, latest_attempt, thin
from services.trainer.states import States
from services.trainer.store import JobFilter, Store

FAMILIES = ("stable_diffusion",)
"""The model families that this version trains."""
MAX_SEED = 2**53 - 1
"""What JSON and JavaScript can say."""
FALLBACK_RESOLUTION = 512
DEFAULT_POINTS = 1000


class CatalogPort(Protocol):
    async def dataset(self, dataset_id: int) -> domain.Dataset: ...
    async def base_model(self, model_id: int) -> domain.BaseModel: ...
    async def snapshot(self, dataset_id: int) -> tuple[str, int]: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What a client asks for. `config.lora` and `config.dreambooth` may be None: the method decides what is read."""

    request_id: str
    dataset_id: int
    base_model_id: int
    method: Method
    output_name: str
    config: TrainingConfig
    start: bool


class Jobs:
    """The jobs of one store. `publish` hears of every change, `wake` of new work for the scheduler."""

    def __init__(
        self,
        store: Store,
        catalog: CatalogPort,
        states: States,
        *,
        publish: Callable[[Appended], None],
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._states = states
        self._publish = publish
        self._wake = wake

    async def create(self, order: Order) -> Job:
        """Checks the order, pins a snapshot of the dataset and stores the job, every default filled in.

        Raises NotFound: the dataset or the base model; FailedPrecondition: the dataset is empty or not of images, or
        the base model cannot be trained; InvalidArgument: DreamBooth without its prompts; Unavailable: the Catalog.
        """
        job = await self._store.find_request(order.request_id) if order.request_id else None
        if job is None:
            check_prompts(order.method, order.config)
            dataset = await self._catalog.dataset(order.dataset_id)
            check_dataset(dataset)
            base = await self._catalog.base_model(order.base_model_id)
            check_base(base)
            digest, num_items = await self._catalog.snapshot(dataset.id)
            new = domain.NewJob(
                id=str(uuid.uuid4()),
                request_id=order.request_id or None,
                dataset_id=dataset.id,
                base_model_id=base.id,
                method=order.method,
                output_name=order.output_name,
                config=filled(order.method, order.config, base),
                snapshot_digest=digest,
                num_items=num_items,
            )
            job = await self._store.create(new)
        return await self.start(job.id) if order.start and job.status is JobStatus.PENDING else job

    async def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        return await self._store.get(job_id)

    async def list_page(self, where: JobFilter, *, size: int, token: str) -> tuple[list[Job], str, int]:
        """A page of jobs, newest first, the next page's token (empty: none) and how many match in all."""
        parts = decode_token(token, str, str)
        try:
            before = (datetime.fromisoformat(str(parts[0])), str(parts[1])) if parts else None
        except ValueError as error:
            raise InvalidArgument("is not a token that this server gave out", field="page_token") from error
        limit = page_size(size)
        jobs, total = await self._store.list_jobs(where, limit=limit + 1, before=before)
        if len(jobs) <= limit:
            return jobs, "", total
        last = jobs[limit - 1]
        return jobs[:limit], encode_token(last.created_at.isoformat(), last.id), total

    async def start(self, job_id: str) -> Job:
        """Queues a pending job; one that is queued or running stays so.

        Raises NotFound, FailedPrecondition: it has ended or is paused.
        """
        if queued := self._told(await self._store.queue(job_id)):
            return queued
        job = await self._store.get(job_id)
        if job.status is JobStatus.PAUSED:
            raise FailedPrecondition(f"training job {job_id} is paused; resume it", reason="JOB_PAUSED")
        if job.ended:
            raise FailedPrecondition(f"training job {job_id} is {job.status.value}", reason="JOB_ENDED")
        return job

    async def pause(self, job_id: str) -> Job:
        """Takes a job out of the queue, or has its worker stop behind a checkpoint.

        Raises NotFound, FailedPrecondition: it is pending, has ended or is being registered.
        """
        if paused := self._told(await self._store.request_pause(job_id)):
            return paused
        job = await self._store.get(job_id)
        if job.status is JobStatus.PAUSED:
            return job
        if job.status is JobStatus.RUNNING:
            what = (
                "is to be cancelled" if job.cancel_requested_at else "has been trained; its model is being registered"
            )
            raise FailedPrecondition(f"training job {job_id} {what}", reason="REGISTERING")
        raise FailedPrecondition(f"training job {job_id} is {job.status.value}", reason="JOB_NOT_RUNNING")

    async def resume(self, job_id: str) -> Job:
        """Queues a paused job; a pause that has not come about yet is withdrawn.

        Raises NotFound, FailedPrecondition: it is pending or has ended.
        """
        resumed = self._told(await self._store.queue(job_id, since=(JobStatus.PAUSED,)))
        if resumed := resumed or self._told(await self._store.withdraw_pause(job_id)):
            return resumed
        job = await self._store.get(job_id)
        if job.status in (JobStatus.QUEUED, JobStatus.RUNNING):
            return job
        raise FailedPrecondition(f"training job {job_id} is {job.status.value}, not paused", reason="JOB_NOT_PAUSED")

    async def retry(self, job_id: str) -> Job:
        """Queues a failed or cancelled job again, or has its model registered where it was trained.

        Raises NotFound, FailedPrecondition: it has neither failed nor was it cancelled.
        """
        again = self._told(await self._store.queue(job_id, since=(JobStatus.FAILED, JobStatus.CANCELLED)))
        if again := again or self._told(await self._store.register_again(job_id)):
            return again
        job = await self._store.get(job_id)
        if job.status in (JobStatus.QUEUED, JobStatus.RUNNING):
            return job
        message = f"training job {job_id} is {job.status.value}: it has not failed and was not cancelled"
        raise FailedPrecondition(message, reason="JOB_NOT_FAILED")

    async def prioritize(self, job_id: str, priority: int) -> Job:
        """Raises NotFound, FailedPrecondition: it has ended."""
        if self._told(await self._store.prioritize(job_id, priority)):
            return await self._store.get(job_id)  # with its place
        job = await self._store.get(job_id)
        raise FailedPrecondition(f"training job {job_id} is {job.status.value}", reason="JOB_ENDED")

    async def cancel(self, job_id: str) -> Job:
        """Cancels a waiting job at once and tells the worker of a running one.

        Raises NotFound, FailedPrecondition: it has completed or failed, or has been trained and is being registered.
        """
        if moved := self._told(await self._store.request_cancel(job_id)):
            return moved
        job = await self._store.get(job_id)
        if job.status is JobStatus.CANCELLED:
            return job
        if not job.ended:
            message = f"training job {job_id} has been trained; its model is being registered"
            raise FailedPrecondition(message, reason="REGISTERING")
        raise FailedPrecondition(f"training job {job_id} is {job.status.value}", reason="JOB_ENDED")

    def _told(self, moved: Appended | None) -> Job | None:
        """The job that a move has left, once watchers and the scheduler know."""
        if moved is None:
            return None
        self._publish(moved)
        self._wake()
        return moved.job

    async def delete(self, job_id: str) -> None:
        """Deletes an ended, pending or paused job with its events and training states. The bytes of its samples stay in
        the blob store: they may be another job's or a dataset's too.

        Raises NotFound, FailedPrecondition: it is queued or running.
        """
        states = await self._states.of(job_id)
        if not await self._store.delete(job_id):
            job = await self._store.get(job_id)
            message = f"training job {job_id} is {job.status.value}; cancel it first"
            raise FailedPrecondition(message, reason="JOB_ACTIVE")
        await self._states.delete(states)

    async def metrics(self, job_id: str, max_points: int) -> list[domain.Progress]:
        """The loss curve of the last attempt, thinned to `max_points` (0: 1000). Raises NotFound."""
        await self._store.get(job_id)
        points = latest_attempt(await self._store.journal.curve(job_id))
        events = await self._store.journal.at(job_id, thin(points, max_points or DEFAULT_POINTS))
        return [event.body for event in events if isinstance(event.body, domain.Progress)]

    async def checkpoints(self, job_id: str) -> list[domain.Checkpoint]:
        """Those the last attempt still keeps, in the order they were made. Raises NotFound."""
        job = await self._store.get(job_id)
        events = await self._store.journal.read(job_id, kind="checkpoint")
        made = [event.body for event in events if isinstance(event.body, domain.Checkpoint)]
        return kept_checkpoints(made, keep=job.config.checkpoints.keep)

    async def logs(self, job_id: str, *, after: int) -> list[domain.Event]:
        """The stored log events after a sequence number."""
        return await self._store.journal.read(job_id, after=after, kind="log")

    async def require_sample(self, job_id: str, sha256: str) -> None:
        """Raises NotFound unless the job has drawn this sample."""
        await self._store.get(job_id)
        events = await self._store.journal.read(job_id, kind="sample")
        if not any(isinstance(event.body, domain.Sample) and event.body.sha256 == sha256 for event in events):
            raise NotFound("sample", sha256, message=f"training job {job_id} has no sample {sha256}")


def check_prompts(method: Method, config: TrainingConfig) -> None:
    """Raises InvalidArgument where DreamBooth lacks a prompt."""
    if method is not Method.DREAMBOOTH:
        return
    dreambooth = config.dreambooth or domain.DreamBoothConfig()
    missing = {}
    if not dreambooth.instance_prompt.strip():
        missing["config.dreambooth.instance_prompt"] = 'is required for DreamBooth, for example "a photo of sks dog"'
    if dreambooth.prior_preservation and not dreambooth.class_prompt.strip():
        rule = 'is required with prior_preservation, for example "a photo of a dog"'
        missing["config.dreambooth.class_prompt"] = rule
    if missing:
        raise InvalidArgument.of(missing)


def check_dataset(dataset: domain.Dataset) -> None:
    """Raises FailedPrecondition unless the dataset holds images, at least one."""
    named = f"dataset {dataset.id} ({dataset.name!r})"
    if not dataset.holds_images:
        raise FailedPrecondition(f"{named} is not of the type image", reason="UNSUPPORTED_DATASET_TYPE")
    if not dataset.num_items:
        raise FailedPrecondition(f"{named} is empty: upload images before training on it", reason="EMPTY_DATASET")


def check_base(base: domain.BaseModel) -> None:
    """Raises FailedPrecondition unless the model can be trained: a whole, active pipeline of a family known here."""
    named = f"model {base.id} ({base.name!r})"
    if not base.is_pipeline:
        advice = f"; train on its base, model {base.base_model_id}" if base.base_model_id else ""
        message = f"{named} is an adapter (LoRA): the base of a training must be a whole pipeline{advice}"
        raise FailedPrecondition(message, reason="UNSUPPORTED_BASE_MODEL")
    if base.family not in FAMILIES or not base.draws_images:
        message = f"{named} is of the family {base.family}; training supports {', '.join(FAMILIES)}"
        raise FailedPrecondition(message, reason="UNSUPPORTED_FAMILY")
    if not base.is_active:
        raise FailedPrecondition(f"{named} is inactive", reason="INACTIVE_MODEL")


def filled(method: Method, config: TrainingConfig, base: domain.BaseModel) -> TrainingConfig:
    """The configuration with every default in its place; what the method does not read is left out."""
    dreambooth = config.dreambooth if method is Method.DREAMBOOTH else None
    lora: domain.LoraConfig | None = None
    if method is Method.LORA or (dreambooth is not None and not dreambooth.full):
        lora = config.lora or domain.LoraConfig()
        lora = replace(lora, alpha=float(lora.rank) if lora.alpha is None else lora.alpha)
    return replace(
        config,
        resolution=config.resolution or base.native_resolution or FALLBACK_RESOLUTION,
        seed=secrets.randbelow(MAX_SEED + 1) if config.seed is None else config.seed,
        lora=lora,
        dreambooth=dreambooth,
    )
