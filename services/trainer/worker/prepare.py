"""What must be there before the first step: the model, the pictures' latents, the captions' embeddings."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from services.common.blobs import BlobStore
from services.common.buckets import bucket_for
from services.common.errors import InvalidArgument
from services.diffusion.geometry import Geometry, as_rows, middle_of
from services.diffusion.load import Components, load_components
from services.diffusion.single_file import unfolded
from services.diffusion.weights import fetch_hub, materialise
from services.trainer.domain import Loading, LoadingStage, Method, Report, TrainingConfig
from services.trainer.worker import hardware
from services.trainer.worker.assignment import BaseModel
from services.trainer.worker.cache import LatentsBuilder, TrainingSet, cached_captions, read_captions
from services.trainer.worker.class_pictures import ClassPictures
from services.trainer.worker.clips import make_clip_set
from services.trainer.worker.data import Item, read_pictures

NO_CLASS = ClassPictures()


@dataclass(frozen=True)
class Places:
    """Where a worker finds and puts things."""

    blobs: BlobStore
    scratch: Path
    models: Path  # folders of links to base models, shared by jobs
    hub_cache: Path
    weights_dir: Path | None  # the operator's own copies of hub models

    @property
    def class_cache(self) -> Path:
        """Where what was drawn of DreamBooth's classes is kept."""
        return self.models.parent / "class"


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
    whole = unfolded(folders) or []
    return load_components(whole, family=bases[0].family, device=device, dtype=torch.float32)


def with_resolution(config: TrainingConfig, components: Components) -> TrainingConfig:
    """With the base model's own resolution where none was asked for. Raises InvalidArgument for one it cannot have."""
    resolution = config.resolution or components.size.native
    if resolution % components.size.multiple:
        message = f"{resolution} is not a multiple of {components.size.multiple}, which this base model wants"
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
    classes: ClassPictures = NO_CLASS,
    scratch: Path | None = None,
) -> Generator[Report | None, None, TrainingSet]:
    """Encodes the pictures, of which the last `num_held_out` are held out, and behind them DreamBooth's class's, if it
    has any. Caches too large for the memory lie in `scratch`."""
    if components.family.draws_clips:
        sizes = [training_size(item, config, components) for item in items]
        dtype = hardware.frozen_dtype(precision)
        return (yield from make_clip_set(components, config, items, sizes, blobs, dtype, num_held_out, scratch))
    captions = captions + [classes.prompt] * len(classes.items)
    builder = LatentsBuilder(components, flip=config.random_flip, scratch=scratch)
    total, done = len(items) + len(classes.items), 0
    cuts: list[Geometry] = []
    for first, group, store in ((0, items, blobs), (len(items), classes.items, classes.blobs or blobs)):
        sizes = [training_size(item, config, components) for item in group]
        cuts += [middle_of(item.width, item.height, size) for item, size in zip(group, sizes, strict=True)]
        for size in dict.fromkeys(sizes):
            rows = [row for row, each in enumerate(sizes) if each == size]
            yield Loading(LoadingStage.CACHING_LATENTS, done, total)
            with closing(read_pictures([group[row] for row in rows], store, size, masked=config.masked_loss)) as parts:
                for part, pictures in parts:
                    builder.add([first + row for row in rows[part.start : part.stop]], pictures)
                    done += len(part)
                    yield Loading(LoadingStage.CACHING_LATENTS, done, total)
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
        as_rows(cuts),
        num_images=len(items) - num_held_out,
        num_class_images=len(classes.items),
        num_held_out=num_held_out,
    )


def training_size(item: Item, config: TrainingConfig, components: Components) -> tuple[int, int]:
    """(width, height) that a picture is trained at: a square, or with buckets the nearest to its own shape."""
    side = config.resolution or components.size.native
    if not config.aspect_buckets:
        return side, side
    return bucket_for(item.width, item.height, resolution=side, multiple=components.size.multiple)
