"""What the Catalog knows of: datasets, images, snapshots, models, and the rules of their names."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

MAX_NAME = 100
MAX_FILENAME_BYTES = 255
MAX_CAPTION = 10_000
MAX_DESCRIPTION = 2_000
LORA_FILE = "pytorch_lora_weights.safetensors"
CONTROL_CONFIG, CONTROL_FILE = "config.json", "diffusion_pytorch_model.safetensors"
CHECKPOINT_FILE = "model.safetensors"
"""What a LoRA, and a whole checkpoint as one file, is called among a model's files."""
FIRST_REGISTERED_MODEL_ID = 101
"""Smaller ids are for seeded models, so that the guide's 1, 2 and 3 stay true whenever they are seeded."""


class DatasetType(StrEnum):
    IMAGE = "image"
    VIDEO = "video"


class ImageFormat(StrEnum):
    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    """An animated one is a clip."""
    MP4 = "mp4"
    WEBM = "webm"
    GIF = "gif"


PICTURES = (ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.WEBP)
CLIPS = (ImageFormat.MP4, ImageFormat.WEBM, ImageFormat.GIF, ImageFormat.WEBP)
"""What datasets of the type video take."""


class ModelType(StrEnum):
    BASE_MODEL = "base_model"
    LORA = "lora"
    DREAMBOOTH = "dreambooth"
    FULL = "full"
    CONTROLNET = "controlnet"


class ModelCategory(StrEnum):
    IMAGE = "image"
    VIDEO = "video"


class ModelFamily(StrEnum):
    STABLE_DIFFUSION = "stable_diffusion"
    STABLE_DIFFUSION_XL = "stable_diffusion_xl"
    STABLE_VIDEO_DIFFUSION = "stable_video_diffusion"
    STABLE_DIFFUSION_3 = "stable_diffusion_3"


class WeightsLayout(StrEnum):
    PIPELINE = "pipeline"
    LORA = "lora"
    SINGLE_FILE = "single_file"
    CONTROLNET = "controlnet"


@dataclass(frozen=True, slots=True)
class Dataset:
    id: int
    name: str
    type: DatasetType
    description: str
    num_items: int
    size_bytes: int
    cover_image_id: int | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image or a clip that has been inspected and stored, and is not yet in a dataset."""

    filename: str
    caption: str
    sha256: str
    format: ImageFormat
    width: int
    height: int
    size_bytes: int
    num_frames: int = 0
    """Of a clip; 0 for a picture."""
    frames_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Image:
    id: int
    dataset_id: int
    filename: str
    caption: str
    sha256: str
    format: ImageFormat
    width: int
    height: int
    size_bytes: int
    created_at: datetime
    num_frames: int = 0
    frames_per_second: float = 0.0
    mask_sha256: str = ""
    """Of a grey PNG of the picture's size, white where it counts; empty: all of it counts."""

    @property
    def is_clip(self) -> bool:
        return self.num_frames > 0


def image_from_new(new: NewImage, *, id: int, dataset_id: int, created_at: datetime) -> Image:
    """The image that `new` becomes in a dataset."""
    return Image(
        id,
        dataset_id,
        new.filename,
        new.caption,
        new.sha256,
        new.format,
        new.width,
        new.height,
        new.size_bytes,
        created_at,
        new.num_frames,
        new.frames_per_second,
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    digest: str
    dataset_id: int
    num_items: int
    size_bytes: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SnapshotItem:
    sha256: str
    filename: str
    caption: str
    width: int
    height: int
    size_bytes: int
    num_frames: int = 0
    frames_per_second: float = 0.0
    mask_sha256: str = ""


@dataclass(frozen=True, slots=True)
class ModelFile:
    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoredWeights:
    files: tuple[ModelFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def digest(self) -> str:
        """Hex SHA-256 over the sorted lines `path sha256`."""
        lines = sorted(f"{file.path} {file.sha256}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class HubWeights:
    repo_id: str
    revision: str


class FindingKind(StrEnum):
    """In the order in which they are told."""

    DAMAGED = "damaged"
    EXACT_DUPLICATES = "exact_duplicates"
    NEAR_DUPLICATES = "near_duplicates"
    TOO_SMALL = "too_small"
    BLURRED = "blurred"
    CLIPPED = "clipped"
    MISSING_CAPTION = "missing_caption"
    BOILERPLATE_CAPTION = "boilerplate_caption"


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of a picture's pixels, once: a function of its bytes."""

    likeness: int
    """64 bits, see services.common.likeness."""
    pixels: str
    """A digest of the size and the pixels, whatever file they came in."""
    sharpness: float
    """The variance of the Laplacian."""
    clipped: float
    """Share of the pixels of a photograph that are entirely black or white; 0 for drawings, which are so on purpose."""


@dataclass(frozen=True, slots=True)
class Finding:
    kind: FindingKind
    image_ids: tuple[int, ...]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """`buckets` are (width, height, number of pictures), the most common first."""

    num_images: int
    resolution: int
    findings: tuple[Finding, ...]
    buckets: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture that a model drew, in the blob store."""

    prompt: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model that is about to be registered."""

    name: str
    type: ModelType
    category: ModelCategory
    family: ModelFamily
    layout: WeightsLayout
    weights: StoredWeights | HubWeights
    base_model_id: int | None = None
    job_id: str = ""
    dataset_id: int | None = None
    snapshot_digest: str = ""
    checkpoint_step: int | None = None
    trigger_words: tuple[str, ...] = ()
    license: str = ""
    description: str = ""
    native_resolution: int = 0
    samples: tuple[Sample, ...] = ()
    """The last that were drawn while it was trained."""
    promoted: bool = False
    """One of its job's checkpoints and not the job's outcome."""

    @property
    def outcome_of(self) -> str:
        """The job whose one outcome it is; empty for all others."""
        return "" if self.promoted else self.job_id


@dataclass(frozen=True, slots=True)
class Model(NewModel):
    id: int = 0
    is_active: bool = True
    created_at: datetime = datetime.min
    updated_at: datetime = datetime.min


@dataclass(frozen=True, slots=True)
class Lineage:
    model: Model
    ancestors: tuple[Model, ...]
    """Nearest first."""
    children: tuple[Model, ...]
    dataset: Dataset | None
    snapshot: Snapshot | None


def manifest_digest(items: Iterable[SnapshotItem]) -> str:
    """Hex SHA-256 of a snapshot's manifest.

    The manifest has one line an image, sorted by file name and then digest: the JSON list [sha256, filename, caption],
    with the mask's digest behind them where there is one.
    """
    digest = hashlib.sha256()
    for item in sorted(items, key=manifest_order):
        parts = [item.sha256, item.filename, item.caption, *([item.mask_sha256] if item.mask_sha256 else [])]
        line = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def manifest_order(item: SnapshotItem) -> tuple[str, str]:
    return item.filename, item.sha256


def name_rule(name: str) -> str | None:
    """The rule that a dataset's or a model's name breaks, or None."""
    if not name or len(name) > MAX_NAME:
        return f"must have 1 to {MAX_NAME} characters"
    if (
        not any(char.isprintable() and not char.isspace() for char in name)
        or _has_control(name)
        or set(name) & {"/", "\\"}
    ):
        return "must hold a visible character, and no control character or slash"
    return None


def filename_rule(filename: str) -> str | None:
    """The rule that an image's file name breaks, or None."""
    if not filename:
        return "must not be empty"
    if "/" in filename or "\\" in filename or filename in (".", ".."):
        return "must be a plain file name, without folders"
    if _has_control(filename):
        return "must not hold control characters"
    size = len(filename.encode("utf-8", "surrogatepass"))
    if size > MAX_FILENAME_BYTES:
        return f"has {size} bytes; {MAX_FILENAME_BYTES} is the limit"
    return None


def text_rule(text: str, limit: int) -> str | None:
    """The rule that a caption or a description breaks, or None."""
    if len(text) > limit:
        return f"has {len(text)} characters; {limit} is the limit"
    if "\0" in text:
        return "must not hold a NUL character"
    return None


def _has_control(text: str) -> bool:
    return any(ord(char) < 32 or ord(char) == 127 for char in text)
