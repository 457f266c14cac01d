"""Pictures of DreamBooth's class: a dataset's, or what the untrained base model draws of it, once.

What is drawn is kept beside the models, under all that decides how it looks, so that a job that goes on draws nothing
again, and neither does the next job with the same base, prompt and seed. It may be deleted: it is drawn again then.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.blobs import BlobStore
from services.common.errors import InvalidArgument
from services.diffusion.load import Components
from services.trainer.domain import Loading, LoadingStage, Method, Report, TrainingConfig
from services.trainer.worker import hardware
from services.trainer.worker.assignment import BaseModel
from services.trainer.worker.data import Item
from services.trainer.worker.samples import DRAWN_AT_ONCE, draw, to_png
from services.trainer.worker.seeds import derive_seed

if TYPE_CHECKING:
    import torch

STEPS, GUIDANCE = 25, 7.5  # how they are drawn


@dataclass(frozen=True)
class ClassPictures:
    """Pictures of the class, all under one prompt, and the store that has their bytes."""

    items: tuple[Item, ...] = ()
    prompt: str = ""
    blobs: BlobStore | None = None


def class_pictures(
    components: Components,
    method: Method,
    config: TrainingConfig,
    bases: Sequence[BaseModel],
    given: Sequence[Item],
    blobs: BlobStore,
    cache: Path,
    device: str,
    precision: str,
) -> Generator[Report | None, None, ClassPictures]:
    """Returns those `given`, of a dataset in `blobs`, where the job names one; else as many as the job asks for, drawn
    where `cache` has them not; none where the job keeps no class. Raises InvalidArgument without the class's prompt."""
    dreambooth = config.dreambooth if method is Method.DREAMBOOTH else None
    if dreambooth is None or not dreambooth.prior_preservation:
        return ClassPictures()
    prompt = dreambooth.class_prompt
    if not prompt:
        raise InvalidArgument("prior preservation wants the class's prompt", field="config.dreambooth.class_prompt")
    if dreambooth.class_dataset_id is not None:
        return ClassPictures(tuple(given), prompt, blobs)
    count, side = dreambooth.num_class_images, config.resolution or components.size.native
    folder = cache / _key(config, prompt, count, side, bases, device, precision)
    kept = BlobStore(folder)
    drawn = _known(folder, kept)
    if len(drawn) < count:
        # Whole batches alone: what is drawn beside a picture can change its last bits.
        drawn = drawn[: len(drawn) // DRAWN_AT_ONCE * DRAWN_AT_ONCE]
        yield Loading(LoadingStage.DRAWING_CLASS_IMAGES, len(drawn), count)
        seeds = [derive_seed(config.seed or 0, "class", place) for place in range(len(drawn), count)]
        pictures = draw(
            components,
            [prompt] * len(seeds),
            seeds,
            side=side,
            steps=STEPS,
            guidance_scale=GUIDANCE,
            autocast=hardware.autocast(device, precision),
        )
        for pixels in pictures:
            if pixels is None:
                yield None
                continue
            drawn.append(_keep(pixels, kept, len(drawn)))
            _write_index(folder, drawn)
            yield Loading(LoadingStage.DRAWING_CLASS_IMAGES, len(drawn), count)
    return ClassPictures(tuple(drawn), prompt, kept)


def _key(
    config: TrainingConfig,
    prompt: str,
    count: int,
    side: int,
    bases: Sequence[BaseModel],
    device: str,
    precision: str,
) -> str:
    """All that decides how they look, as a digest."""
    import diffusers
    import torch

    weights = [base.files or (base.hub_repo, base.hub_revision) for base in bases]
    versions = [torch.__version__, diffusers.__version__]
    parts = [weights, prompt, config.seed, count, side, STEPS, GUIDANCE, device, precision, versions]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _known(folder: Path, kept: BlobStore) -> list[Item]:
    """Those that were drawn, up to the first that is gone or damaged."""
    try:
        lines = json.loads((folder / "drawn.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    found: list[Item] = []
    for sha256, width, height in lines:
        if not (kept.exists(sha256) and kept.verify(sha256)):
            break
        found.append(_item(sha256, len(found), width, height))
    return found


def _keep(pixels: "torch.Tensor", kept: BlobStore, place: int) -> Item:
    """`pixels` (H, W, 3) uint8."""
    height, width = pixels.shape[:2]
    return _item(kept.put(to_png(pixels)), place, width, height)


def _item(sha256: str, place: int, width: int, height: int) -> Item:
    return Item(sha256, f"class picture {place + 1}", "", width, height)


def _write_index(folder: Path, drawn: Sequence[Item]) -> None:
    """Aside, then renamed: two jobs that draw the same write the same."""
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump([(item.sha256, item.width, item.height) for item in drawn], file)
    Path(name).replace(folder / "drawn.json")
