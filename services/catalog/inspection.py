"""What a trainer should know of a dataset before training on it."""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import Executor
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from services.catalog.domain import Finding, FindingKind, Image, Inspection, Measures
from services.catalog.store import Store
from services.common import likeness
from services.common.blobs import BlobMissing, BlobStore
from services.common.buckets import bucket_for
from services.common.clips import first_frame
from services.common.pictures import PictureRefused, decode_rgb

if TYPE_CHECKING:
    import PIL.Image

Key = TypeVar("Key")

PAGE = 500
MEASURED_AT_ONCE = 16
DEFAULT_RESOLUTION = 512
BUCKET_MULTIPLE = 64
LONGEST_SIDE = 512
"""Pictures are measured at this size at most: sharpness means something at one size alone."""
LEAST_SHARPNESS = 100.0
"""The usual threshold for the variance of the Laplacian (Pech-Pacheco et al. 2000) of 8-bit pictures."""
MOST_CLIPPED = 0.05
PHOTO_LEVELS = 128
"""Brightness levels, of 256, from which a picture counts as a photograph: drawings have few."""
FILE_NAMES = re.compile(
    r"(img|image|dsc[nf]?|pxl|photo|picture|pic|untitled|screenshot|scan|frame)?[\s_.()-]*[\d\s_.()-]*", re.I
)
"""What cameras and programs call their files."""
BOILERPLATE_SHARE, BOILERPLATE_LEAST = 0.2, 4
"""One caption says nothing where more than this share of the pictures, and so many at least, have it."""


def measure(data: bytes, *, is_clip: bool = False) -> Measures:
    """Of a clip, its first frame is measured; two with the same are alike, and equal where all their bytes are.

    Blocks: it decodes the picture. Raises PictureRefused.
    """
    picture = first_frame(data) if is_clip else decode_rgb(data)
    seen = data if is_clip else f"{picture.width} x {picture.height} ".encode() + picture.tobytes()
    pixels = hashlib.sha256(seen).hexdigest()
    small = picture.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    sharpness, clipped = _sharpness_and_clipping(small)
    return Measures(likeness.perceptual_hash(picture), pixels, sharpness, clipped)


def _sharpness_and_clipping(picture: "PIL.Image.Image") -> tuple[float, float]:
    import numpy

    grey = numpy.asarray(picture.convert("L"), dtype=numpy.float64)
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    laplacian = neighbours - 4 * grey[1:-1, 1:-1]
    sharpness = float(laplacian.var()) if laplacian.size else 0.0
    levels = numpy.bincount(grey.astype(numpy.int64).ravel(), minlength=256)
    if int((levels > 0).sum()) < PHOTO_LEVELS:
        return sharpness, 0.0
    rgb = numpy.asarray(picture)
    ends = (rgb == 0).all(axis=-1) | (rgb == 255).all(axis=-1)
    return sharpness, float(ends.mean())


async def inspect_dataset(
    store: Store, blobs: BlobStore, threads: Executor, dataset_id: int, resolution: int
) -> AsyncGenerator[tuple[int, int] | Inspection, None]:
    """(done, total) as pictures are measured, and the inspection last. Raises NotFound."""
    total = (await store.get_dataset(dataset_id)).num_items
    known: list[Image] = []
    measured: dict[str, Measures] = {}
    damaged: list[Image] = []
    after = 0
    while page := (await store.list_images(dataset_id, after=after, limit=PAGE))[0]:
        after = page[-1].id
        measured |= await store.measures(image.sha256 for image in page)
        fresh = [image for image in page if image.sha256 not in measured]
        for start in range(0, len(fresh), MEASURED_AT_ONCE):
            yield len(known) + len(page) - len(fresh) + start, total
            some = fresh[start : start + MEASURED_AT_ONCE]
            found = await _measure(blobs, threads, some)
            await store.remember_measures(found)
            measured |= found
        damaged += [image for image in page if image.sha256 not in measured]
        known += page
        yield len(known), max(total, len(known))
    side = resolution or DEFAULT_RESOLUTION
    whole = [image for image in known if image.sha256 in measured]
    findings = await asyncio.to_thread(_findings, known, whole, damaged, measured, side)
    sizes = Counter(
        bucket_for(image.width, image.height, resolution=side, multiple=min(BUCKET_MULTIPLE, side)) for image in known
    )
    buckets = tuple((width, height, count) for (width, height), count in sizes.most_common())
    yield Inspection(len(known), side, tuple(findings), buckets)


async def _measure(blobs: BlobStore, threads: Executor, some: Sequence[Image]) -> dict[str, Measures]:
    """Of those whose bytes are there and decode."""

    def one(image: Image) -> Measures | None:
        try:
            return measure(blobs.get(image.sha256), is_clip=image.is_clip)
        except (BlobMissing, PictureRefused):
            return None

    loop = asyncio.get_running_loop()
    found = await asyncio.gather(*(loop.run_in_executor(threads, one, image) for image in some))
    return {image.sha256: each for image, each in zip(some, found, strict=True) if each is not None}


def _findings(
    known: Sequence[Image],
    whole: Sequence[Image],
    damaged: Sequence[Image],
    measured: dict[str, Measures],
    resolution: int,
) -> list[Finding]:
    of = {image.id: measured[image.sha256] for image in whole}
    exact = _groups(whole, lambda image: of[image.id].pixels)
    alike = dict(
        zip((image.id for image in whole), likeness.groups([of[image.id].likeness for image in whole]), strict=True)
    )
    same = {frozenset(ids) for ids, _ in exact}
    near = [(ids, "") for ids, _ in _groups(whole, lambda image: alike[image.id]) if frozenset(ids) not in same]
    small = [image.id for image in known if min(image.width, image.height) < resolution]
    blurred = [image.id for image in whole if of[image.id].sharpness < LEAST_SHARPNESS]
    clipped = [image.id for image in whole if of[image.id].clipped > MOST_CLIPPED]
    silent = [image.id for image in known if not image.caption.strip()]
    told = {
        FindingKind.DAMAGED: [([image.id for image in damaged], "")],
        FindingKind.EXACT_DUPLICATES: [(ids, "") for ids, _ in exact],
        FindingKind.NEAR_DUPLICATES: near,
        FindingKind.TOO_SMALL: [(small, "")],
        FindingKind.BLURRED: [(blurred, "")],
        FindingKind.CLIPPED: [(clipped, "")],
        FindingKind.MISSING_CAPTION: [(silent, "")],
        FindingKind.BOILERPLATE_CAPTION: _boilerplate(known),
    }
    return [Finding(kind, tuple(ids), detail) for kind in FindingKind for ids, detail in told[kind] if ids]


def _boilerplate(known: Sequence[Image]) -> list[tuple[list[int], str]]:
    """Captions that are file names, together; and each that too many pictures have."""
    captioned = [image for image in known if image.caption.strip()]
    named = [image.id for image in captioned if _is_file_name(image)]
    most = max(BOILERPLATE_LEAST, BOILERPLATE_SHARE * len(known))
    shared = _groups(
        [image for image in captioned if image.id not in named], lambda image: image.caption.strip().lower()
    )
    return [(named, ""), *((ids, caption) for ids, caption in shared if len(ids) >= most)]


def _is_file_name(image: Image) -> bool:
    caption = image.caption.strip()
    return bool(FILE_NAMES.fullmatch(caption)) or caption in (image.filename, PurePosixPath(image.filename).stem)


def _groups(some: Iterable[Image], key: Callable[[Image], Key]) -> list[tuple[list[int], Key]]:
    """Ids of pictures that share a key, where two do at least."""
    members: dict[Key, list[int]] = {}
    for image in some:
        members.setdefault(key(image), []).append(image.id)
    return [(ids, shared) for shared, ids in members.items() if len(ids) > 1]
