"""What the Trainer talks about: jobs, their configuration, what happens to them, and which moves are legal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TypeAlias


class JobStatus(Enum):
    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


MOVES: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    # Back to queued when its worker is lost, or stopped with the Trainer: what was accepted is not lost.
    JobStatus.RUNNING: frozenset(
        {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.QUEUED, JobStatus.PAUSED}
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.COMPLETED: frozenset(),
    # By a retry; to running where all was trained and the registration alone is tried again.
    JobStatus.FAILED: frozenset({JobStatus.QUEUED, JobStatus.RUNNING}),
    JobStatus.CANCELLED: frozenset({JobStatus.QUEUED}),
}
"""The one table of legal moves."""

LAYOUT_PIPELINE, LAYOUT_LORA = 1, 2
"""The Catalog's numbers for the layouts of weights."""

ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})
UNFINISHED = frozenset(JobStatus) - ENDED


def sources(target: JobStatus) -> frozenset[JobStatus]:
    """The statuses that may become `target`: what the WHERE of a move asks for."""
    return frozenset(status for status, targets in MOVES.items() if target in targets)


class Stage(Enum):
    """Where a running job stands for the Trainer; empty for others."""

    NONE = ""
    TRAINING = "training"
    REGISTERING = "registering"


class Method(Enum):
    LORA = "lora"
    DREAMBOOTH = "dreambooth"
    FULL = "full"


class Precision(Enum):
    AUTO = "auto"
    NO = "no"
    FP16 = "fp16"
    BF16 = "bf16"


class Schedule(Enum):
    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class Optimizer(Enum):
    ADAMW = "adamw"
    ADAMW_8BIT = "adamw_8bit"
    PRODIGY = "prodigy"
    ADAFACTOR = "adafactor"


class Prediction(Enum):
    """What the denoiser answers; MODEL: whatever the base model does."""

    MODEL = "model"
    EPSILON = "epsilon"
    V_PREDICTION = "v_prediction"


class Device(Enum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class LogLevel(Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LoadingStage(Enum):
    STARTING_WORKER = "starting_worker"
    LOADING_MODEL = "loading_model"
    CACHING_LATENTS = "caching_latents"
    DRAWING_CLASS_IMAGES = "drawing_class_images"
    SAVING = "saving"
    REGISTERING = "registering"
    COMPARING_IMAGES = "comparing_images"


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    rank: int = 4
    alpha: float | None = None
    """None until the job is made: then the rank."""
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ATTENTION
    rslora: bool = False
    dora: bool = False
    plus_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class DreamBoothConfig:
    instance_prompt: str = ""
    class_prompt: str = ""
    prior_preservation: bool = False
    prior_loss_weight: float = 1.0
    num_class_images: int = 100
    full: bool = False
    class_dataset_id: int | None = None
    """The dataset whose pictures are the class; None: they are drawn."""


@dataclass(frozen=True, slots=True)
class VideoConfig:
    """Of models that learn from clips."""

    num_frames: int = 14
    """Learnt together: a run of so many that begins anywhere in a clip."""
    frames_per_second: int = 7
    motion_bucket_id: int = 127
    noise_augmentation: float = 0.02


@dataclass(frozen=True, slots=True)
class SampleConfig:
    prompts: tuple[str, ...] = ()
    interval_steps: int | None = None
    """None: once, at the end."""
    steps: int = 20
    guidance_scale: float = 7.5
    clips: int = 0
    """So many of the dataset's are drawn from their first frame, by a model that draws clips."""


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    interval_steps: int | None = None
    """None: as often as costs little."""
    keep: int = 3


@dataclass(frozen=True, slots=True)
class ValidationConfig:
    share: float = 0.0
    """Of the pictures, held out; 0: none."""
    interval_steps: int | None = None
    """None: once an epoch."""
    patience: int = 0
    """Measurements without a better one that end the training; 0: none do."""
    use_best: bool = False


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """The whole configuration, with the guide's defaults. `resolution` and `seed` are filled in when a job is made."""

    learning_rate: float = 1e-4
    batch_size: int = 4
    epochs: int = 10
    max_steps: int | None = None
    resolution: int | None = None
    seed: int | None = None
    mixed_precision: Precision = Precision.AUTO
    gradient_checkpointing: bool = False
    gradient_accumulation_steps: int = 1
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    schedule: Schedule = Schedule.CONSTANT
    warmup_steps: int = 0
    snr_gamma: float = 0.0
    noise_offset: float = 0.0
    caption_dropout: float = 0.0
    random_flip: bool = False
    train_text_encoder: bool = False
    trigger_word: str = ""
    lora: LoraConfig | None = None
    dreambooth: DreamBoothConfig | None = None
    samples: SampleConfig = field(default_factory=SampleConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    device: Device = Device.AUTO
    optimizer: Optimizer = Optimizer.ADAMW
    ema_decay: float = 0.0
    prediction_type: Prediction = Prediction.MODEL
    zero_terminal_snr: bool = False
    caption_shuffle: bool = False
    caption_keep_tags: int = 0
    aspect_buckets: bool = False
    masked_loss: bool = False
    compile: bool = False
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    video: VideoConfig | None = None
    """None where no clips are learnt from."""
    share_device: bool = False
    """Training stands still while the Generator draws on its device."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed: a stable UPPER_SNAKE reason and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands after an optimizer step. Epochs count from 1; times in milliseconds; memory in bytes."""

    step: int
    total_steps: int
    epoch: int
    total_epochs: int
    loss: float
    smoothed_loss: float
    learning_rate: float
    images_per_second: float
    elapsed_millis: int
    remaining_millis: int
    memory_bytes: int
    grad_norm: float
    peak_memory_bytes: int = 0
    """The most so far, loading included."""
    lent_millis: int = 0
    """For which the device was lent so far; `elapsed_millis` is without it."""


@dataclass(frozen=True, slots=True)
class Lent:
    """The device is lent, or is back again."""

    lent_millis: int | None = None
    """How long this loan was, once it is back."""
    made_room: bool = False
    """Training was put out of the device's memory meanwhile."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The mean loss over the pictures held out, after a step."""

    step: int
    loss: float
    num_images: int
    is_best: bool
    """Lower than all before."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Trained:
    """What a job that succeeded left in the blob store. `layout` is the Catalog's number for it."""

    step: int
    layout: int
    files: tuple[ModelFile, ...]


@dataclass(frozen=True, slots=True)
class Queued:
    position: int


@dataclass(frozen=True, slots=True)
class Loading:
    stage: LoadingStage
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    step: int
    index: int
    prompt: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    step: int
    size_bytes: int
    created_at: datetime
    smoothed_loss: float
    files: tuple[ModelFile, ...] = ()
    """What a model of it would hold."""
    state: ModelFile | None = None
    """What training goes on from."""
    elapsed_millis: int = 0
    """Of training, all attempts together."""
    validation_loss: float | None = None
    """Where it was measured after this step."""
    is_best: bool = False
    """Of the job's checkpoints, the one with the lowest validation loss."""
    model_id: int | None = None
    """The model that it was promoted to."""


@dataclass(frozen=True, slots=True)
class Log:
    level: LogLevel
    message: str


@dataclass(frozen=True, slots=True)
class Done:
    model_id: int
    model_name: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    pass


@dataclass(frozen=True, slots=True)
class Paused:
    pass


EventBody: TypeAlias = (
    Queued | Loading | Progress | Validation | Sample | Checkpoint | Log | Lent | Done | Failure | Cancelled | Paused
)
Report: TypeAlias = (
    Loading | Progress | Validation | Sample | Checkpoint | Log | Lent | Trained | Failure | Cancelled | Paused
)
"""What a worker says. Trained, Failure, Cancelled and Paused are its last words."""
LAST_WORDS = (Trained, Failure, Cancelled, Paused)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a job has been measured to take by a few of its steps. Bytes and seconds."""

    device: Device
    trained_parameters: int
    num_images: int
    """To learn from: without those held out."""
    total_steps: int
    total_epochs: int
    memory_bytes: int
    memory_total_bytes: int
    step_seconds: float
    preparing_seconds: float
    """Reading and encoding all pictures, drawing a class, if any."""
    weights_bytes: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """`disk_bytes` are the checkpoints that are kept, the states and the model."""

    config: TrainingConfig
    footprint: Footprint
    disk_bytes: int
    disk_free_bytes: int


@dataclass(frozen=True, slots=True)
class CaptionOrder:
    """A dataset's pictures to be captioned: those without a caption, or with `overwrite` all."""

    dataset_id: int
    overwrite: bool = False
    prefix: str = ""
    max_tokens: int = 40


@dataclass(frozen=True, slots=True)
class CaptionProgress:
    """`image_id` and `caption` are of the picture that was last captioned; None before the first."""

    done: int
    total: int
    image_id: int | None = None
    caption: str = ""


@dataclass(frozen=True, slots=True)
class CaptionSummary:
    num_captioned: int
    num_kept: int
    """Had a caption already."""
    damaged_image_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job: 1, 2, 3, ... without a gap."""

    sequence: int
    created_at: datetime
    body: EventBody


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the Trainer asks the Catalog about a dataset."""

    id: int
    name: str
    holds_images: bool
    num_items: int


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What the Trainer asks the Catalog about a model. `native_resolution` in pixels; 0 where it is not known."""

    id: int
    name: str
    family: str
    is_pipeline: bool
    draws_images: bool
    is_active: bool
    base_model_id: int | None
    native_resolution: int


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job about to be stored."""

    id: str
    request_id: str | None
    dataset_id: int
    base_model_id: int
    method: Method
    output_name: str
    config: TrainingConfig
    snapshot_digest: str
    num_items: int
    class_snapshot_digest: str = ""
    """Of DreamBooth's class, where that is a dataset."""


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    status: JobStatus
    dataset_id: int
    base_model_id: int
    method: Method
    output_name: str
    config: TrainingConfig
    snapshot_digest: str
    num_items: int
    created_at: datetime
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress | None = None
    queue_position: int = 0
    priority: int = 0
    failure: Failure | None = None
    model_id: int | None = None
    last_sequence: int = 0
    class_snapshot_digest: str = ""
    # What follows is between the Trainer and its workers.
    stage: Stage = Stage.NONE
    token: str = ""
    last_report: int = 0
    log_offset: int = 0
    cancel_requested_at: datetime | None = None
    pause_requested_at: datetime | None = None
    losses: int = 0
    """Workers lost since the last checkpoint."""
    trained: Trained | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def layout(self) -> int:
        """Of the weights that it trains: a configuration that was filled in has `lora` where a LoRA learns."""
        return LAYOUT_PIPELINE if self.config.lora is None else LAYOUT_LORA

    @property
    def model_name(self) -> str:
        """The name the model gets: the one asked for, or the guide's `Trained-` and 8 characters of the id."""
        return self.output_name or f"Trained-{self.id[:8]}"


@dataclass(frozen=True, slots=True)
class Appended:
    """What one write did: the job as it was left, and the events that were stored with it, in order."""

    job: Job
    events: tuple[Event, ...]
