"""What a request to draw is, what it goes through, and what comes of it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MAX_SEED = 2**53 - 1  # what a browser's numbers hold


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = frozenset({Status.QUEUED, Status.RUNNING})

# From which statuses each may be reached. A running generation is queued again when its Generator has been restarted,
# and a cancelled one when its client left and asks again.
MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED}),
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


class PictureFormat(StrEnum):
    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"
    MP4 = "mp4"
    ANIMATED_WEBP = "animated_webp"


class Syntax(StrEnum):
    """How prompts are read."""

    WEIGHTED = "weighted"
    PLAIN = "plain"


@dataclass(frozen=True)
class InputPicture:
    """A picture that a request begins with, kept in the blob store, and where it came from if that is known."""

    sha256: str
    generated: tuple[str, int] | None = None  # generation, index
    dataset_image_id: int | None = None


@dataclass(frozen=True)
class GivenPicture:
    """One of these, as a client gives it."""

    data: bytes = b""
    sha256: str = ""
    generated: tuple[str, int] | None = None


@dataclass(frozen=True)
class ImageToImage:
    image: InputPicture | GivenPicture  # given only in a wish
    strength: float = 0.75
    mask: InputPicture | GivenPicture | None = None
    mask_blur: int = 4  # pixels


@dataclass(frozen=True)
class ImageToVideo:
    image: InputPicture
    num_frames: int
    frames_per_second: int = 7
    motion_bucket_id: int = 127
    noise_augmentation: float = 0.02


@dataclass(frozen=True)
class Control:
    """A ControlNet by its model id, and what it is shown; it acts between two shares of the steps."""

    model_id: int
    image: InputPicture
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class HighResolution:
    """A second pass over the enlarged picture."""

    scale: float = 2.0
    strength: float = 0.5
    steps: int | None = None  # None: as many as the first pass has


@dataclass(frozen=True)
class Grid:
    """Axes of a sheet; an empty one has the settings' own value."""

    prompts: tuple[str, ...] = ()
    model_ids: tuple[int, ...] = ()
    lora_weights: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()


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
    format: PictureFormat = PictureFormat.PNG
    quality: int = 90
    image_to_image: ImageToImage | None = None
    image_to_video: ImageToVideo | None = None
    controls: tuple[Control, ...] = ()
    high_resolution: HighResolution | None = None
    prompt_syntax: Syntax = Syntax.WEIGHTED
    wildcards: tuple[tuple[str, tuple[str, ...]], ...] = ()
    grid: Grid | None = None
    deterministic: bool = False


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
    format: PictureFormat = PictureFormat.PNG
    quality: int = 90
    image_to_image: ImageToImage | None = None
    prompt_syntax: Syntax = Syntax.WEIGHTED
    deterministic: bool = False


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
    """Which weights draw a picture: a pipeline's folders, nearest first, the LoRAs on it, and the ControlNets beside it
    in the order of `Settings.controls`."""

    model_name: str
    pipeline: tuple[Source, ...]
    loras: tuple[AppliedLora, ...] = ()
    controls: tuple[Source, ...] = ()

    @property
    def family(self) -> str:
        return self.pipeline[0].family

    @property
    def base(self) -> Source:
        return self.pipeline[0]


@dataclass(frozen=True)
class Folders:
    """A plan on this machine's disk: pipeline folders, nearest first, a file for each LoRA, a folder a ControlNet."""

    pipeline: tuple[Path, ...]
    loras: tuple[Path, ...] = ()
    controls: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Shot:
    """One picture (or clip) to be drawn, wildcards chosen and grid unfolded."""

    index: int
    seed: int
    prompt: str
    negative_prompt: str
    plan: Plan
    folders: Folders


@dataclass(frozen=True)
class Shown:
    """What a request begins with, decoded and cut to the drawing's width and height."""

    image: "np.ndarray | None" = None  # (H, W, 3) uint8: of image to image, or a clip's first frame
    mask: "np.ndarray | None" = None  # (H, W) uint8, 255 is drawn anew; sharp, the blur is laid on after drawing
    controls: "tuple[np.ndarray, ...]" = ()  # (H, W, 3) uint8


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


ABANDONED = Failure("Cancelled", "ABANDONED", "the client that asked for it left")


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
    pixels: "np.ndarray"  # (h, w, 3) uint8, as small as the latents


@dataclass(frozen=True)
class Drawn:
    """A finished picture or clip, not yet a file."""

    index: int
    seed: int
    pixels: "np.ndarray"  # (H, W, 3) uint8; (F, H, W, 3) of a clip
    sampler: str  # the name people know


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
Progress = Queued | Waiting | Loading | Stepped | Previewed | Drawn
"""What the engine tells of a drawing."""


@dataclass(eq=False)
class Drawing:
    """One request on its way through the engine. `tell` and `begun` are called on the event loop, in order."""

    id: str
    principal: str
    shots: tuple[Shot, ...]  # all of one latent size
    settings: Settings
    shown: Shown
    preview_interval: int | None
    tell: Callable[[Progress], None]
    begun: Callable[[], None] = lambda: None  # its first step is next
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class LoadedModel:
    """A base in memory, with the LoRAs attached to it."""

    model_id: int
    name: str
    memory_bytes: int
    lora_model_ids: tuple[int, ...]
    idle_millis: int
    num_drawing: int = 0
