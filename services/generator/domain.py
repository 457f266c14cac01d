"""What a request to draw is, what it goes through, and what comes of it."""

import threading
from collections.abc import Callable, Mapping
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
# and a cancelled one when it was abandoned and its client is back.
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

    @property
    def is_of_clips(self) -> bool:
        return self in (PictureFormat.MP4, PictureFormat.ANIMATED_WEBP)

    @property
    def content_type(self) -> str:
        return CONTENT_TYPES[self]


CONTENT_TYPES = {
    PictureFormat.PNG: "image/png",
    PictureFormat.WEBP: "image/webp",
    PictureFormat.JPEG: "image/jpeg",
    PictureFormat.MP4: "video/mp4",
    PictureFormat.ANIMATED_WEBP: "image/webp",
}


class Syntax(StrEnum):
    """How prompts are read."""

    WEIGHTED = "weighted"
    PLAIN = "plain"


@dataclass(frozen=True)
class InputPicture:
    """A picture that a request begins with, kept in the blob store, and where it came from if that is known. In a wish
    the digest is empty where only its source was named."""

    sha256: str
    generated: tuple[str, int] | None = None  # generation, index
    dataset_image_id: int | None = None


@dataclass(frozen=True)
class ImageToImage:
    image: InputPicture
    strength: float = 0.75
    mask: InputPicture | None = None
    mask_blur: int = 4  # pixels


@dataclass(frozen=True)
class ImageToVideo:
    image: InputPicture
    num_frames: int  # 0 in a wish: as many as the model draws by itself
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

    def size(self, width: int, height: int, *, multiple: int) -> tuple[int, int]:
        """Width and height of the second pass, in pixels: the nearest multiples of what the model asks for."""
        wide, high = (max(1, round(side * self.scale / multiple)) * multiple for side in (width, height))
        return wide, high


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

    @property
    def inputs(self) -> "dict[str, InputPicture]":
        return inputs_of(self)

    @property
    def num_pixels(self) -> int:
        """Of the largest that is drawn at once for one picture or clip."""
        scale = self.high_resolution.scale if self.high_resolution else 1
        frames = self.image_to_video.num_frames if self.image_to_video else 1
        return int(self.width * self.height * scale**2) * frames


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
    format: PictureFormat | None = None
    quality: int | None = None
    image_to_image: ImageToImage | None = None
    image_to_video: ImageToVideo | None = None
    controls: tuple[Control, ...] = ()
    high_resolution: HighResolution | None = None
    prompt_syntax: Syntax = Syntax.WEIGHTED
    wildcards: tuple[tuple[str, tuple[str, ...]], ...] = ()
    grid: Grid | None = None
    deterministic: bool = False
    uploads: Mapping[str, bytes] = field(default_factory=dict)  # the bytes that were sent, by their digests

    @property
    def inputs(self) -> dict[str, InputPicture]:
        return inputs_of(self)


def inputs_of(asked: Settings | Wish) -> dict[str, InputPicture]:
    """The pictures that a request begins with, by the paths of their fields in the contract."""
    found: dict[str, InputPicture] = {}
    if asked.image_to_image is not None:
        found["settings.image_to_image.image"] = asked.image_to_image.image
        if asked.image_to_image.mask is not None:
            found["settings.image_to_image.mask"] = asked.image_to_image.mask
    if asked.image_to_video is not None:
        found["settings.image_to_video.image"] = asked.image_to_video.image
    for place, control in enumerate(asked.controls):
        found[f"settings.controls[{place}].image"] = control.image
    return found


DEFAULT_STEPS = 25
DEFAULT_GUIDANCE = 7.5
DEFAULT_CLIP_GUIDANCE = 3.0
DEFAULT_QUALITY = 90
DEFAULT_FRAMES = 14
MIN_SIDE = 32
MAX_SIDE = 4096
MAX_STEPS = 1000
MAX_COUNT = 64
MAX_GRID = 256


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

    def has_as_lora(self, model_id: int) -> bool:
        """Whether the model that was asked for is a LoRA, which is then the first."""
        return bool(self.loras) and self.loras[0].source.model_id == model_id


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
class Verdict:
    """The safety checker's: the concepts that crossed their thresholds, by the checker's numbers."""

    concepts: tuple[int, ...] = ()

    @property
    def is_flagged(self) -> bool:
        return bool(self.concepts)


@dataclass(frozen=True)
class Picture:
    """A finished picture; its bytes are in the blob store."""

    index: int
    seed: int
    sha256: str
    width: int
    height: int
    size_bytes: int
    content_type: str = "image/png"
    prompt: str = ""  # as it was read, wildcards chosen
    negative_prompt: str = ""
    model_id: int = 0
    lora_weight: float | None = None
    verdict: Verdict | None = None
    is_sheet: bool = False
    num_frames: int = 0  # 0: not a clip


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
    principal: str = ""
    is_kept: bool = False
    keeps_drawing: bool = False  # whether somebody watches or not

    def picture(self, index: int) -> Picture | None:
        return next((picture for picture in self.pictures if picture.index == index), None)

    @property
    def is_abandoned(self) -> bool:
        """Cancelled because nobody watched it any more."""
        return self.status is Status.CANCELLED and self.failure == ABANDONED

    @property
    def parents(self) -> tuple[tuple[str, int], ...]:
        """The generated pictures that it began with."""
        named = [each.generated for each in self.settings.inputs.values() if each.generated is not None]
        return tuple(dict.fromkeys(named))


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
    pixels: "np.ndarray"  # (H, W, 3) uint8


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
