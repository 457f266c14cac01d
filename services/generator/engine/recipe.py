"""How a picture's samples are made: the first of what was asked, the second of what the first has drawn."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.diffusion.clips import begin_clip
from services.diffusion.control import Control
from services.diffusion.sample import Sample, passes
from services.diffusion.schedulers import make_scheduler
from services.generator.domain import Drawing, Settings, Shot, Syntax
from services.generator.engine.base import Base
from services.generator.engine.nets import Net

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Recipe:
    """Of one picture or clip, once all that it is drawn with is in memory."""

    drawing: Drawing
    shot: Shot
    base: Base
    nets: tuple[Net, ...]  # in the order of the settings' controls
    adapters: dict[str, float]  # LoRAs that act row by row
    acting: dict[str, float]  # peft's, on the whole pass
    warnings: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.drawing.settings

    @property
    def later_passes(self) -> int:
        """Of the second sample."""
        second = self.settings.high_resolution
        if second is None:
            return 0
        family = self.base.components.family
        return passes(
            second.steps or self.settings.steps, second.strength, has_noise_schedule=family.has_noise_schedule
        )

    def first(self) -> Sample:
        """Raises InvalidArgument where the sampler cannot draw this; FailedPrecondition where a ControlNet does not fit
        the base."""
        settings = self.settings
        size = (settings.width, settings.height)
        if (second := settings.high_resolution) is not None:  # what it cannot draw is better known now
            field = "settings.high_resolution.steps"
            make_scheduler(self.base.components, settings.scheduler, steps=second.steps, field=field)
        if self.base.components.family.draws_clips:
            return self._clip(size)
        begun, shown = settings.image_to_image, self.drawing.shown
        if begun is None or shown.image is None:
            return self._picture(size, settings.steps)
        return self._picture(
            size, settings.steps, picture=_signed(shown.image), strength=begun.strength, mask=self._mask()
        )

    def second(self, pixels: "np.ndarray") -> Sample:
        """Over what the first sample has drawn, (H, W, 3) uint8, enlarged."""
        from PIL import Image

        second = self.settings.high_resolution
        assert second is not None
        multiple = self.base.components.size.multiple
        size = second.size(self.settings.width, self.settings.height, multiple=multiple)
        picture = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        return self._picture(
            size,
            second.steps or self.settings.steps,
            picture=_signed(picture),
            strength=second.strength,
            mask=self._mask(),
        )

    def _picture(self, size: tuple[int, int], steps: int, **begins: Any) -> Sample:
        settings = self.settings
        said, unsaid, warnings = self.base.words(
            self.shot.prompt,
            self.shot.negative_prompt if settings.guidance_scale > 1 else None,
            {**self.adapters, **self.acting},
            weighted=settings.prompt_syntax is Syntax.WEIGHTED,
        )
        self.warnings.extend(each for each in warnings if each not in self.warnings)
        controls = self._controls(size)
        return self._sample(size, steps, settings.guidance_scale, said=said, unsaid=unsaid, controls=controls, **begins)

    def _clip(self, size: tuple[int, int]) -> Sample:
        settings, frame = self.settings, self.drawing.shown.image
        clip = settings.image_to_video
        assert clip is not None
        assert frame is not None
        self.base.act(self.acting)
        begun = begin_clip(
            self.base.components,
            _signed(frame)[0],
            seed=self.shot.seed,
            num_frames=clip.num_frames,
            frames_per_second=clip.frames_per_second,
            motion_bucket_id=clip.motion_bucket_id,
            noise_augmentation=clip.noise_augmentation,
            guidance_scale=settings.guidance_scale,
        )
        return self._sample(
            size, settings.steps, begun.guidance_scale, said=begun.said, unsaid=begun.unsaid, noise=begun.noise
        )

    def _sample(
        self, size: tuple[int, int], steps: int, guidance_scale: "float | torch.Tensor", **begins: Any
    ) -> Sample:
        settings, components = self.settings, self.base.components
        return Sample(
            components,
            make_scheduler(components, settings.scheduler, steps=steps),
            seed=self.shot.seed,
            width=size[0],
            height=size[1],
            steps=steps,
            guidance_scale=guidance_scale,
            guidance_rescale=settings.guidance_rescale,
            adapters=self.adapters,
            is_steady=settings.deterministic,
            **begins,
        )

    def _controls(self, size: tuple[int, int]) -> list[Control]:
        from PIL import Image

        controls = []
        for asked, net, image in zip(self.settings.controls, self.nets, self.drawing.shown.controls, strict=True):
            net.check(self.base)
            picture = (_signed(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)) + 1) / 2
            controls.append(Control(net.model, picture, asked.weight, asked.start, asked.end))
        return controls

    def _mask(self) -> "torch.Tensor | None":
        import torch

        mask = self.drawing.shown.mask
        return None if mask is None else torch.from_numpy(mask.copy())[None, None].float() / 255


def _signed(picture: Any) -> "torch.Tensor":
    """(1, 3, H, W) float32 in [-1, 1], of (H, W, 3) uint8."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
