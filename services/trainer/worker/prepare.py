"""What must be there before the first step: the model, the pictures' latents, the captions' embeddings."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.blobs import BlobStore
from services.common.buckets import bucket_for
from services.common.errors import InvalidArgument
from services.diffusion.load import Components, load_components
from services.diffusion.weights import fetch_hub, materialise
from services.trainer.domain import Loading, LoadingStage, Method, Report, TrainingConfig
from services.trainer.worker import hardware
from services.trainer.worker.assignment import BaseModel
from services.trainer.worker.cache import LatentsBuilder, TrainingSet, cached_captions, read_captions
from services.trainer.worker.data import Item, Pictures, in_parts, read_pictures
from services.trainer.worker.samples import draw
from services.trainer.worker.seeds import derive_seed

if TYPE_CHECKING:
    import torch

CLASS_STEPS, CLASS_GUIDANCE = 25, 7.5  # how DreamBooth's class pictures are drawn


@dataclass(frozen=True)
class Places:
    """Where a worker finds and puts things."""

    blobs: BlobStore
    scratch: Path
    models: Path  # folders of links to base models, shared by jobs
    hub_cache: Path
    weights_dir: Path | None  # the operator's own copies of hub models


def load_bases(bases: Sequence[BaseModel], places: Places, device: str) -> Components:
    """In float32: the VAE encodes in it, and what learns is kept in it."""
    import torch

    folders = [
        materialise(base.files, places.blobs, places.models)
        if base.files
        else fetch_hub(
            base.hub_repo, base.hub_revision, places.hub_cache, family=base.family, weights_dir=places.weights_dir
        )
        for base in bases
    ]
    return load_components(folders, family=bases[0].family, device=device, dtype=torch.float32)


def with_resolution(config: TrainingConfig, components: Components) -> TrainingConfig:
    """With the base model's own resolution where none was asked for. Raises InvalidArgument for one it cannot have."""
    resolution = config.resolution or components.native_size
    if resolution % components.size_multiple:
        message = f"{resolution} is not a multiple of {components.size_multiple}, which this base model wants"
        raise InvalidArgument(message, field="config.resolution")
    return replace(config, resolution=resolution)


def make_training_set(
    components: Components,
    method: Method,
    config: TrainingConfig,
    items: Sequence[Item],
    captions: list[str],
    blobs: BlobStore,
    device: str,
    precision: str,
    num_held_out: int = 0,
    scratch: Path | None = None,
) -> Generator[Report | None, None, TrainingSet]:
    """Encodes the pictures, of which the last `num_held_out` are held out, and behind them DreamBooth's class pictures
    if it has any, which are drawn first. Caches too large for the memory lie in `scratch`."""
    import torch

    class_pictures: list[torch.Tensor] = []
    dreambooth = config.dreambooth if method is Method.DREAMBOOTH else None
    if dreambooth and dreambooth.prior_preservation:
        if not dreambooth.class_prompt:
            raise InvalidArgument("prior preservation wants the class's prompt", field="config.dreambooth.class_prompt")
        count = dreambooth.num_class_images
        drawing = hardware.autocast(device, precision)
        class_pictures = yield from _draw_class(components, config, dreambooth.class_prompt, count, drawing)
        captions = captions + [dreambooth.class_prompt] * len(class_pictures)
    builder = LatentsBuilder(components, flip=config.random_flip, scratch=scratch)
    total, done = len(items) + len(class_pictures), 0
    sizes = [training_size(item, config, components) for item in items]
    for size in dict.fromkeys(sizes):
        rows = [row for row, each in enumerate(sizes) if each == size]
        yield Loading(LoadingStage.CACHING_LATENTS, done, total)
        with closing(read_pictures([items[row] for row in rows], blobs, size, masked=config.masked_loss)) as parts:
            for part, pictures in parts:
                builder.add(rows[part.start : part.stop], pictures)
                done += len(part)
                yield Loading(LoadingStage.CACHING_LATENTS, done, total)
    for part in in_parts(class_pictures):
        yield Loading(LoadingStage.CACHING_LATENTS, len(items) + part.start, total)
        pixels = _as_input(class_pictures[part.start : part.stop])
        masks = torch.ones_like(pixels[:, :1]) if config.masked_loss else None
        builder.add([len(items) + place for place in part], Pictures(pixels, masks))
    yield Loading(LoadingStage.CACHING_LATENTS, total, total)
    if config.train_text_encoder or config.caption_shuffle:
        embed = read_captions(
            components,
            captions,
            learns=config.train_text_encoder,
            shuffle=config.caption_shuffle,
            keep=config.caption_keep_tags + bool(config.trigger_word),
        )
    else:
        embed = cached_captions(components, captions, dtype=hardware.frozen_dtype(precision), scratch=scratch)
    return TrainingSet(
        *builder.build(),
        embed,
        num_images=len(items) - num_held_out,
        num_class_images=len(class_pictures),
        num_held_out=num_held_out,
    )


def training_size(item: Item, config: TrainingConfig, components: Components) -> tuple[int, int]:
    """(width, height) that a picture is trained at: a square, or with buckets the nearest to its own shape."""
    side = config.resolution or components.native_size
    if not config.aspect_buckets:
        return side, side
    return bucket_for(item.width, item.height, resolution=side, multiple=components.size_multiple)


def _draw_class(
    components: Components, config: TrainingConfig, prompt: str, count: int, autocast: AbstractContextManager[object]
) -> "Generator[Report | None, None, list[torch.Tensor]]":
    """Returns `count` (H, W, 3) uint8 pictures that the untrained base model draws of the class."""
    drawn: list[torch.Tensor] = []
    seeds = [derive_seed(config.seed or 0, "class", place) for place in range(count)]
    yield Loading(LoadingStage.DRAWING_CLASS_IMAGES, 0, count)
    pictures = draw(
        components,
        [prompt] * count,
        seeds,
        side=config.resolution or components.native_size,
        steps=CLASS_STEPS,
        guidance_scale=CLASS_GUIDANCE,
        autocast=autocast,
    )
    for pixels in pictures:
        if pixels is None:
            yield None
        else:
            drawn.append(pixels)
            yield Loading(LoadingStage.DRAWING_CLASS_IMAGES, len(drawn), count)
    return drawn


def _as_input(pictures: "Sequence[torch.Tensor]") -> "torch.Tensor":
    """(B, 3, H, W) float32 in [-1, 1] of (H, W, 3) uint8 pictures."""
    import torch

    return torch.stack(list(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
