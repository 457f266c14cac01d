"""What a request to draw is, what it goes through, and what comes of it."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

MAX_SEED = 2**53 - 1  # what a browser's numbers hold


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = frozenset({Status.QUEUED, Status.RUNNING})

# From which statuses each may be reached. A running generation is queued again when its Generator has been restarted.
MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING}),
    Status.RUNNING: frozenset({Status.QUEUED}),
    Status.COMPLETED: frozenset({Status.RUNNING}),
    Status.FAILED: UNFINISHED,
    Status.CANCELLED: UNFINISHED,
}


@dataclass(frozen=True)
class LoraChoice:
    """A LoRA by its model id, and how strongly it is applied."""

    model_id: int
    weight: float = 1.0


@dataclass(frozen=True)
class Settings:
    """What to draw, every default filled in."""

    model_id: int
    prompt: str
    negative_prompt: str
    width: int  # pixels
    height: int
    steps: int
    guidance_scale: float
    guidance_rescale: float
    scheduler: str | None  # a name of services.diffusion.schedulers; None is the model's own
    seed: int  # of the first picture; the next have the next
    count: int
    lora_weight: float | None  # set when `model_id` is a LoRA
    loras: tuple[LoraChoice, ...] = ()


@dataclass(frozen=True)
class Wish:
    """What a client asked for; None means "choose one"."""

    model_id: int
    prompt: str = ""
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    scheduler: str | None = None
    seed: int | None = None
    count: int | None = None
    lora_weight: float | None = None
    loras: tuple[LoraChoice, ...] = ()


DEFAULT_STEPS = 25
DEFAULT_GUIDANCE = 7.5
MAX_SIDE = 4096
MAX_STEPS = 1000
MAX_COUNT = 64


@dataclass(frozen=True)
class Source:
    """A model's weights: files in the blob store, or a hub repository at a revision."""

    model_id: int
    name: str
    family: str
    digest: str  # of the stored files; the revision for a hub's
    files: tuple[tuple[str, str], ...] = ()  # (path, SHA-256)
    hub: tuple[str, str] | None = None  # (repository, revision)
    native_size: int = 0  # pixels a side; 0 where nobody said


@dataclass(frozen=True)
class AppliedLora:
    source: Source
    weight: float


@dataclass(frozen=True)
class Plan:
    """Which weights draw a request: a pipeline's folders, nearest first, and the LoRAs on it."""

    model_name: str
    pipeline: tuple[Source, ...]
    loras: tuple[AppliedLora, ...] = ()

    @property
    def family(self) -> str:
        return self.pipeline[0].family

    @property
    def base(self) -> Source:
        return self.pipeline[0]


@dataclass(frozen=True)
class Picture:
    """A finished picture; its bytes are in the blob store."""

    index: int
    seed: int
    sha256: str
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True)
class Failure:
    """Why a generation failed. `kind` is the domain error's class, so that a later retry ends with the same status."""

    kind: str
    reason: str
    message: str


@dataclass(frozen=True)
class Generation:
    id: str
    status: Status
    settings: Settings
    model_name: str
    created_at: datetime
    request_id: str | None = None
    finished_at: datetime | None = None
    failure: Failure | None = None
    warnings: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = field(default=())


# What watchers of a generation are told.


@dataclass(frozen=True)
class Queued:
    position: int  # 1 is next


@dataclass(frozen=True)
class Waiting:
    """For training on the same device to end its step."""

    num_jobs: int


@dataclass(frozen=True)
class Loading:
    model_id: int


@dataclass(frozen=True)
class Stepped:
    step: int  # from 1
    total: int
    first_index: int
    count: int
    elapsed_millis: int


@dataclass(frozen=True)
class Previewed:
    index: int
    step: int
    data: bytes  # PNG


@dataclass(frozen=True)
class Pictured:
    picture: Picture
    data: bytes


@dataclass(frozen=True)
class Done:
    generation: Generation


@dataclass(frozen=True)
class Heartbeat:
    pass


Event = Queued | Waiting | Loading | Stepped | Previewed | Pictured | Done | Heartbeat


@dataclass(frozen=True)
class LoadedModel:
    """A base in memory, with the LoRAs attached to it."""

    model_id: int
    name: str
    memory_bytes: int
    lora_model_ids: tuple[int, ...]
    idle_millis: int
