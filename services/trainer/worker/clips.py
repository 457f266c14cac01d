"""Clips to learn from: every frame's latents, out of which each step takes a run that begins anywhere; and what the
denoiser is told of the frame that a run begins with."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.blobs import BlobStore
from services.common.clips import encode_webp_animation
from services.diffusion.clips import begin_clip, draw_clip, motion_of
from services.diffusion.encode import decode_latents, encode_images
from services.diffusion.families.family import Conditioning
from services.diffusion.geometry import as_rows, middle_of
from services.diffusion.load import Components
from services.diffusion.schedulers import make_scheduler
from services.trainer.domain import Loading, LoadingStage, Report, Sample, TrainingConfig, VideoConfig
from services.trainer.worker.cache import TrainingSet
from services.trainer.worker.data import ENCODED_AT_ONCE, Item, clip_parts
from services.trainer.worker.seeds import derive_seed, generator_for
from services.trainer.worker.spool import Spool

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ClipLatents:
    """Where `Latents` stands for pictures: the posteriors of the frames of N clips of one size, one clip's behind the
    other's, (M, C, H, W) float32, CPU."""

    mean: "torch.Tensor"
    deviation: "torch.Tensor"
    starts: "torch.Tensor"  # (N,) which frame is each clip's first
    runs: "torch.Tensor"  # (N,) in how many places of each a run can begin
    num_frames: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, C, H, W)."""
        return (self.num_frames, *self.mean.shape[1:])

    def first(self, places: "torch.Tensor", wording: "torch.Tensor") -> "torch.Tensor":
        """(B,) the frames with which the runs of the clips at `places` begin; `wording` (B,) int64 is chance."""
        return self.starts[places] + wording % self.runs[places]

    def sample(
        self, places: "torch.Tensor", flipped: "torch.Tensor", jitter: "torch.Tensor", wording: "torch.Tensor"
    ) -> "torch.Tensor":
        """(B, F, C, H, W) latents of a run of each clip, at `jitter` standard deviations."""
        import torch

        rows = self.first(places, wording)[:, None] + torch.arange(self.num_frames)
        return self.mean[rows] + self.deviation[rows] * jitter

    def mask(self, places: "torch.Tensor", flipped: "torch.Tensor") -> None:
        """All of a clip counts."""


@dataclass(frozen=True)
class _Told:
    """What the image encoder and the VAE say of each of M frames as a run's first."""

    picture: "torch.Tensor"  # (M, 1, D)
    first_frame: "torch.Tensor"  # (M, C, H, W)


def make_clip_set(
    components: Components,
    config: TrainingConfig,
    items: Sequence[Item],
    sizes: Sequence[tuple[int, int]],
    blobs: BlobStore,
    dtype: "torch.dtype",
    num_held_out: int = 0,
    scratch: Path | None = None,
) -> Generator[Report | None, None, TrainingSet]:
    """Encodes the clips, of which the last `num_held_out` are held out, at `sizes` (width, height).

    Frames too many for the memory lie in `scratch`. Raises as `clip_parts`.
    """
    import torch

    video = config.video or VideoConfig()
    latents, told = [], []
    homes, places = [0] * len(items), torch.zeros(len(items), dtype=torch.long)
    done = 0
    for home, size in enumerate(dict.fromkeys(sizes)):
        rows = [row for row, each in enumerate(sizes) if each == size]
        spools = [Spool(scratch) for _ in range(4)]
        counts = []
        for place, row in enumerate(rows):
            yield Loading(LoadingStage.CACHING_LATENTS, done, len(items))
            counts.append(0)
            for part in _encoded(components, config, items[row], row, size, blobs):
                for spool, frames in zip(spools, part, strict=True):
                    spool.add(frames)
                counts[-1] += len(part[0])
                yield None
            homes[row], places[row] = home, place
            done += 1
        mean, deviation, picture, first = (spool.build() for spool in spools)
        lengths = torch.tensor(counts)
        runs = lengths - video.num_frames + 1
        latents.append(ClipLatents(mean, deviation, lengths.cumsum(0) - lengths, runs, video.num_frames))
        told.append(_Told(picture, first))
    yield Loading(LoadingStage.CACHING_LATENTS, len(items), len(items))
    cuts = [middle_of(item.width, item.height, size) for item, size in zip(items, sizes, strict=True)]
    device = components.device
    motion = torch.tensor(motion_of(video.frames_per_second, video.motion_bucket_id, video.noise_augmentation))

    def tell(rows: "torch.Tensor", captionless: "torch.Tensor", wording: "torch.Tensor") -> Conditioning:
        """A clip that is told nothing of learns what guidance leads away from: zeros, as it is drawn with."""
        home = homes[int(rows[0])]
        first = latents[home].first(places[rows], wording)
        shown = (~captionless).to(dtype)
        chosen = {
            "picture": told[home].picture[first].to(dtype) * shown.view(-1, 1, 1),
            "first_frame": told[home].first_frame[first].to(dtype) * shown.view(-1, 1, 1, 1),
            "motion": motion.to(dtype).expand(len(rows), -1),
        }
        return {name: value.to(device) for name, value in chosen.items()}

    return TrainingSet(
        tuple(latents), tuple(homes), places, tell, as_rows(cuts), len(items) - num_held_out, num_held_out=num_held_out
    )


def _encoded(
    components: Components, config: TrainingConfig, item: Item, row: int, size: tuple[int, int], blobs: BlobStore
) -> "Iterator[tuple[torch.Tensor, ...]]":
    """Some frames of a clip at a time: mean and deviation of their latents, and what is told of each, on the CPU."""
    import torch

    encode: Any = components.family.encode_frames
    generator = generator_for(config.seed or 0, "first frame", row)
    video = config.video or VideoConfig()
    for pixels in _pixels(item, blobs, size, video):
        grain = video.noise_augmentation * torch.randn(pixels.shape, generator=generator)
        told = encode(components, pixels, grain)
        mean, deviation = encode_images(components, pixels)
        parts = (mean.float(), deviation.float(), told["picture"].float(), told["first_frame"].float())
        yield tuple(part.cpu() for part in parts)


def _pixels(item: Item, blobs: BlobStore, size: tuple[int, int], video: VideoConfig) -> "Iterator[torch.Tensor]":
    """(up to ENCODED_AT_ONCE, 3, H, W) in [-1, 1], all frames of a clip in order."""
    return clip_parts(
        item,
        blobs,
        size,
        num_frames=video.num_frames,
        frames_per_second=video.frames_per_second,
        at_once=ENCODED_AT_ONCE,
    )


def draw_clip_samples(
    components: Components,
    config: TrainingConfig,
    items: Sequence[Item],
    sizes: Sequence[tuple[int, int]],
    blobs: BlobStore,
    *,
    step: int,
    autocast: Any,
) -> Iterator[Sample | None]:
    """The first clips of the dataset drawn anew from their first frames, stored as animated WebP."""
    video = config.video or VideoConfig()
    for index, (item, size) in enumerate(zip(items[: config.samples.clips], sizes, strict=False)):
        frame = next(_pixels(item, blobs, size, video))[0]
        seed = derive_seed(config.seed or 0, "sample", index)
        for pixels in draw_from(components, config, frame, seed=seed, steps=config.samples.steps, autocast=autocast):
            if pixels is None:
                yield None
                continue
            digest = blobs.put(encode_webp_animation(pixels.numpy(), video.frames_per_second))
            yield Sample(step, index, item.filename, digest, pixels.shape[2], pixels.shape[1])


def draw_from(
    components: Components, config: TrainingConfig, frame: "torch.Tensor", *, seed: int, steps: int, autocast: Any
) -> "Iterator[torch.Tensor | None]":
    """The clip (F, H, W, 3) uint8 that follows a first frame (3, H, W) in [-1, 1], as the job's configuration has it;
    None after each pass of the denoiser before."""
    video = config.video or VideoConfig()
    begun = begin_clip(
        components,
        frame,
        seed=seed,
        num_frames=video.num_frames,
        frames_per_second=video.frames_per_second,
        motion_bucket_id=video.motion_bucket_id,
        noise_augmentation=video.noise_augmentation,
        guidance_scale=config.samples.guidance_scale,
    )
    passes = draw_clip(components, make_scheduler(components), begun, steps=steps)
    latents = None
    while True:
        with autocast:
            done = next(passes, None)
        if done is None:
            break
        latents = done.latents
        yield None
    if latents is not None:
        yield decode_latents(components, latents)[0]
