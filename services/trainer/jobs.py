"""What clients do with training jobs: make, start, list, cancel and delete them."""

import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Protocol

from atelier.catalog.v1 import model_pb2

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.common.paging import decode_token, encode_token, page_size
from services.diffusion import families
from services.trainer import domain
from services.trainer.domain import Appended, Job, JobStatus, Method, TrainingConfig
from services.trainer.metrics import latest_attempt, samples_of, thin
from services.trainer.retention import Retention
from services.trainer.store import JobFilter, Store

FAMILIES = tuple(families.FAMILIES)
"""The model families that this version trains."""
MAX_SEED = 2**53 - 1
"""What JSON and JavaScript can say."""
FALLBACK_RESOLUTION = 512
DEFAULT_POINTS = 1000


class CatalogPort(Protocol):
    async def dataset(self, dataset_id: int) -> domain.Dataset: ...
    async def base_model(self, model_id: int) -> domain.BaseModel: ...
    async def snapshot(self, dataset_id: int) -> tuple[str, int]: ...
    async def base_chain(self, model_id: int) -> list[model_pb2.Model]: ...
    async def promote(
        self, job: Job, checkpoint: domain.Checkpoint, name: str, samples: Sequence[domain.Sample]
    ) -> domain.Done: ...


class PreflightPort(Protocol):
    async def estimate(self, job: Job, bases: list[model_pb2.Model]) -> domain.Estimate: ...


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
        retention: Retention,
        preflight: PreflightPort,
        *,
        publish: Callable[[Appended], None],
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._retention = retention
        self._preflight = preflight
        self._publish = publish
        self._wake = wake

    async def create(self, order: Order) -> Job:
        """Checks the order, pins a snapshot of the dataset and stores the job, every default filled in.

        Raises NotFound: the dataset or the base model; FailedPrecondition: the dataset is empty or not of what the base
        model learns from, or the base model cannot be trained; InvalidArgument: DreamBooth without its prompts,
        settings that do not go together; Unavailable: the Catalog.
        """
        job = await self._store.find_request(order.request_id) if order.request_id else None
        if job is None:
            job = await self._store.create(await self._new(order))
        return await self.start(job.id) if order.start and job.status is JobStatus.PENDING else job

    async def _new(self, order: Order) -> domain.NewJob:
        """The order checked and filled in."""
        check_prompts(order.method, order.config)
        check_class(order)
        check_together(order.method, order.config)
        dataset = await self._catalog.dataset(order.dataset_id)
        base = await self._catalog.base_model(order.base_model_id)
        check_base(base)
        check_dataset(dataset, base)
        check_family(base, order.method, order.config)
        class_digest = await self._pin_class(order, base)
        digest, num_items = await self._catalog.snapshot(dataset.id)
        return domain.NewJob(
            id=str(uuid.uuid4()),
            request_id=order.request_id or None,
            dataset_id=dataset.id,
            base_model_id=base.id,
            method=order.method,
            output_name=order.output_name,
            config=filled(order.method, order.config, base),
            snapshot_digest=digest,
            num_items=num_items,
            class_snapshot_digest=class_digest,
        )

    async def _pin_class(self, order: Order, base: domain.BaseModel) -> str:
        """The digest of a snapshot of DreamBooth's class, where that is a dataset; else empty. Raises as for the
        dataset that is learnt."""
        dreambooth = order.config.dreambooth if order.method is Method.DREAMBOOTH else None
        if dreambooth is None or dreambooth.class_dataset_id is None:
            return ""
        dataset = await self._catalog.dataset(dreambooth.class_dataset_id)
        check_dataset(dataset, base)
        digest, _ = await self._catalog.snapshot(dataset.id)
        return digest

    async def estimate(self, order: Order) -> domain.Estimate:
        """What a job of this order would take; none is made. Raises as `create`, and as `Preflight.estimate`."""
        new = await self._new(order)
        wanted = {field.name: getattr(new, field.name) for field in fields(new) if field.name != "request_id"}
        job = Job(status=JobStatus.PENDING, created_at=datetime.now(UTC), **wanted)
        return await self._preflight.estimate(job, await self._catalog.base_chain(new.base_model_id))

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
        """Deletes an ended, pending or paused job with its events and checkpoints. The bytes of its samples stay in
        the blob store: they may be another job's or a dataset's too.

        Raises NotFound, FailedPrecondition: it is queued or running.
        """
        files = await self._retention.files_of(await self._store.get(job_id))
        if not await self._store.delete(job_id):
            job = await self._store.get(job_id)
            message = f"training job {job_id} is {job.status.value}; cancel it first"
            raise FailedPrecondition(message, reason="JOB_ACTIVE")
        await self._retention.delete(files)

    async def metrics(self, job_id: str, max_points: int) -> list[domain.Progress]:
        """The loss curve of the last attempt, thinned to `max_points` (0: 1000). Raises NotFound."""
        await self._store.get(job_id)
        points = latest_attempt(await self._store.journal.curve(job_id))
        events = await self._store.journal.at(job_id, thin(points, max_points or DEFAULT_POINTS))
        return [event.body for event in events if isinstance(event.body, domain.Progress)]

    async def checkpoints(self, job_id: str) -> list[domain.Checkpoint]:
        """Those the last attempt still keeps, in the order they were made. Raises NotFound."""
        kept = await self._retention.kept(await self._store.get(job_id))
        models = await self._store.journal.promotions(job_id)
        return [replace(each, model_id=models.get(each.step)) for each in kept]

    async def promote(self, job_id: str, step: int, name: str) -> domain.Done:
        """Registers a checkpoint that is kept as a model; again gives the same model.

        Raises NotFound: the job, or no checkpoint of this step is kept; Unavailable: the Catalog; try again.
        """
        job = await self._store.get(job_id)
        await self._store.promote(job_id, step)
        checkpoint = next((each for each in await self._retention.kept(job) if each.step == step), None)
        if checkpoint is None:
            await self._store.note_promoted(job_id, step, None)
            message = f"training job {job_id} keeps no checkpoint of step {step}"
            raise NotFound("checkpoint", str(step), message=message)
        drawn = samples_of(await self._store.journal.samples(job_id), step)
        done = await self._catalog.promote(job, checkpoint, name or f"{job.model_name[:90]}-{step}", drawn)
        await self._store.note_promoted(job_id, step, done.model_id)
        return done

    async def validations(self, job_id: str) -> list[domain.Validation]:
        """The last attempt's measurements on the pictures held out. Raises NotFound."""
        await self._store.get(job_id)
        events = await self._store.journal.read(job_id, kind="validation")
        made = [event.body for event in events if isinstance(event.body, domain.Validation)]
        lasting = latest_attempt([(place, each.step, each.loss) for place, each in enumerate(made)])
        return [made[place] for place, _, _ in lasting]

    async def logs(self, job_id: str, *, after: int) -> list[domain.Event]:
        """The stored log events after a sequence number."""
        return await self._store.journal.read(job_id, after=after, kind="log")

    async def samples(self, job_id: str) -> list[domain.Sample]:
        """Those of the last attempt, in order. Raises NotFound, FailedPrecondition: none was drawn."""
        await self._store.get(job_id)
        events = await self._store.journal.read(job_id, kind="sample")
        drawn = {(body.step, body.index): body for event in events if isinstance(body := event.body, domain.Sample)}
        if not drawn:
            raise FailedPrecondition(f"training job {job_id} has drawn no samples", reason="NO_SAMPLES")
        return [drawn[key] for key in sorted(drawn)]

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


def check_class(order: Order) -> None:
    """Raises InvalidArgument where DreamBooth's class is a dataset that makes no sense as one."""
    dreambooth = order.config.dreambooth if order.method is Method.DREAMBOOTH else None
    if dreambooth is None or dreambooth.class_dataset_id is None:
        return
    field = "config.dreambooth.class_dataset_id"
    if not dreambooth.prior_preservation:
        raise InvalidArgument("is read with prior_preservation alone: set that too", field=field)
    if dreambooth.class_dataset_id == order.dataset_id:
        raise InvalidArgument(
            "is the dataset that is learnt: the class wants pictures of others of its kind", field=field
        )


def check_together(method: Method, config: TrainingConfig) -> None:
    """Raises InvalidArgument naming the settings that make no sense beside the others."""
    whole = method is Method.FULL or (
        method is Method.DREAMBOOTH and bool(config.dreambooth and config.dreambooth.full)
    )
    lora, validation = config.lora or domain.LoraConfig(), config.validation
    broken = {}
    if not whole and config.prediction_type is not domain.Prediction.MODEL:
        broken["config.prediction_type"] = "can be chosen where every weight is trained: a LoRA draws as its base does"
    if not whole and config.zero_terminal_snr:
        broken["config.zero_terminal_snr"] = "needs every weight to be trained: a LoRA draws as its base does"
    if config.zero_terminal_snr and config.prediction_type is domain.Prediction.EPSILON:
        broken["config.zero_terminal_snr"] = "needs v-prediction: in pure noise, epsilon says nothing of the picture"
    if not whole and lora.plus_ratio != 1 and config.optimizer is domain.Optimizer.PRODIGY:
        broken["config.lora.plus_ratio"] = "must be 1 with Prodigy, which knows one learning rate"
    if not validation.share and (validation.patience or validation.use_best):
        broken["config.validation.share"] = "must be above 0 for early stopping and for the best checkpoint"
    if broken:
        raise InvalidArgument.of(broken)


def learns_from_clips(base: domain.BaseModel) -> bool:
    return base.family in FAMILIES and families.get_family(base.family).draws_clips


def check_dataset(dataset: domain.Dataset, base: domain.BaseModel) -> None:
    """Raises FailedPrecondition unless the dataset holds what the base model learns from, images or clips, one at
    least."""
    named = f"dataset {dataset.id} ({dataset.name!r})"
    clips = learns_from_clips(base)
    if dataset.holds_images is clips:
        wanted = "video" if clips else "image"
        message = f"{named} is not of the type {wanted}, which model {base.id} ({base.name!r}) learns from"
        raise FailedPrecondition(message, reason="UNSUPPORTED_DATASET_TYPE")
    if not dataset.num_items:
        what = "clips" if clips else "images"
        raise FailedPrecondition(f"{named} is empty: upload {what} before training on it", reason="EMPTY_DATASET")


def check_base(base: domain.BaseModel) -> None:
    """Raises FailedPrecondition unless the model can be trained: a whole, active pipeline of a family known here."""
    named = f"model {base.id} ({base.name!r})"
    if not base.is_pipeline:
        advice = f"; train on its base, model {base.base_model_id}" if base.base_model_id else ""
        message = (
            f"{named} is an adapter (a LoRA or a ControlNet): the base of a training must be a whole pipeline{advice}"
        )
        raise FailedPrecondition(message, reason="UNSUPPORTED_BASE_MODEL")
    if base.family not in FAMILIES:
        message = f"{named} is of the family {base.family}; training supports {', '.join(FAMILIES)}"
        raise FailedPrecondition(message, reason="UNSUPPORTED_FAMILY")
    if base.draws_images is learns_from_clips(base):
        draws, category = ("clips", "image") if learns_from_clips(base) else ("pictures", "video")
        message = (
            f"{named} is of the family {base.family}, which draws {draws}, and registered as of the category {category}"
        )
        raise FailedPrecondition(message, reason="UNSUPPORTED_FAMILY")
    if not base.is_active:
        raise FailedPrecondition(f"{named} is inactive", reason="INACTIVE_MODEL")


def check_family(base: domain.BaseModel, method: Method, config: TrainingConfig) -> None:
    """Raises InvalidArgument naming the settings that mean nothing to models of the base's family."""
    name, family = base.family, families.get_family(base.family)
    broken: dict[str, str] = {}
    if not family.has_noise_schedule:
        asked = {
            "config.snr_gamma": config.snr_gamma > 0,
            "config.prediction_type": config.prediction_type is not domain.Prediction.MODEL,
            "config.zero_terminal_snr": config.zero_terminal_snr,
        }
        rule = f"means nothing to a model of the family {name}, which has no schedule of noise"
        broken |= {field: rule for field, is_asked in asked.items() if is_asked}
    if family.draws_clips:
        asked = {
            "method": method is Method.DREAMBOOTH,
            "config.train_text_encoder": config.train_text_encoder,
            "config.caption_shuffle": config.caption_shuffle,
            "config.samples.prompts": bool(config.samples.prompts),
        }
        rule = f"means nothing to a model of the family {name}, which reads no words"
        broken |= {field: rule for field, is_asked in asked.items() if is_asked}
        asked = {"config.random_flip": config.random_flip, "config.masked_loss": config.masked_loss}
        broken |= {field: "is for pictures, and not for clips" for field, is_asked in asked.items() if is_asked}
    elif config.samples.clips:
        broken["config.samples.clips"] = f"is for models that draw clips, and not for those of the family {name}"
    if broken:
        raise InvalidArgument.of(broken)


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
        video=(config.video or domain.VideoConfig()) if learns_from_clips(base) else None,
    )
