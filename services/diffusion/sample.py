"""One picture under way, and a pass of the denoiser that many of them share.

A sample has its own scheduler, timestep, guidance, words and generator, so that it does not matter which others are in
its pass, nor how far they are.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.diffusion.control import Control, control_residuals, steers_unsaid
from services.diffusion.denoise import guide, step_arguments
from services.diffusion.encode import encode_images
from services.diffusion.families.family import Conditioning
from services.diffusion.geometry import as_rows, whole
from services.diffusion.load import Components

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin

    from services.diffusion.mixed import RowAdapters


@dataclass(eq=False)
class Sample:
    """A picture's (or clip's) latents between two passes.

    Text to image begins with noise; with `picture` (1, 3, H, W) in [-1, 1] with that, noised, and `strength` of the
    steps (SDEdit, Meng et al. 2021); with `mask` (1, 1, H, W) of 0 and 1 too, what is 0 is put back after every step
    (as RePaint, Lugmayr et al. 2022, without its resampling). Each as diffusers' pipeline with the same seed draws it.
    All noise comes from a generator of the sample's own, on the CPU and in float32. `noise` (1, F, C, H/f, W/f) begins
    a clip, whose guidance scale is a tensor (F, 1, 1, 1). `controls` steer it, each by its own picture (1, 3, H, W) in
    [0, 1]. Latents are float32, on the denoiser's device.
    """

    components: Components
    scheduler: "SchedulerMixin"
    said: Conditioning  # one row
    unsaid: Conditioning | None
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: "float | torch.Tensor" = 7.5
    guidance_rescale: float = 0.0
    picture: "torch.Tensor | None" = None
    strength: float = 1.0
    mask: "torch.Tensor | None" = None
    noise: "torch.Tensor | None" = None
    adapters: Mapping[str, float] = field(default_factory=dict)
    is_steady: bool = False  # drawn alone, to the same bits whatever was drawn before
    controls: Sequence[Control] = ()
    index: int = 0  # passes behind it
    latents: "torch.Tensor" = field(init=False)
    timesteps: "torch.Tensor" = field(init=False)

    def __post_init__(self) -> None:
        import torch

        sampler: Any = self.scheduler
        device = self.components.device
        self._generator = torch.Generator("cpu").manual_seed(self.seed)
        sampler.set_timesteps(self.steps, device=device)
        self._extra = step_arguments(sampler, [self._generator])
        self._scales = hasattr(sampler, "scale_model_input")
        self._begin(device)
        self.total = len(self.timesteps)
        self._scaled = self._output = self.latents
        self._at = self.timesteps[0]
        guided = self.guidance_scale > 1
        self.guided = bool(guided if isinstance(guided, bool) else guided.any())
        if self.guided and self.unsaid is None:
            raise ValueError("guidance wants what it leads away from")
        geometry = as_rows([whole(self.width, self.height)], device)
        self.said = {**self.said, "geometry": geometry}
        if self.unsaid is not None:
            self.unsaid = {**self.unsaid, "geometry": geometry}

    @property
    def is_done(self) -> bool:
        return self.index == self.total

    @property
    def timestep(self) -> "torch.Tensor":
        timestep: torch.Tensor = self.timesteps[self.index]
        return timestep

    @property
    def rows(self) -> int:
        """Of a pass of the denoiser."""
        return 2 if self.guided else 1

    def entry(self) -> "torch.Tensor":
        """The denoiser's next input, (1, C, H/f, W/f) float32."""
        sampler: Any = self.scheduler
        self._scaled = sampler.scale_model_input(self.latents, self.timestep) if self._scales else self.latents
        return self._scaled

    def acting(self) -> "list[tuple[Control, float]]":
        """The ControlNets that act in the next pass, with their weights."""
        weighed = [(control, control.weight_at(self.index, self.total)) for control in self.controls]
        return [(control, weight) for control, weight in weighed if weight]

    def advance(self, output: "torch.Tensor") -> None:
        """Takes the denoiser's answer to `entry`, guided, float32."""
        sampler: Any = self.scheduler
        timestep = self._at = self.timestep
        self._output = output
        self.latents = sampler.step(output, timestep, self.latents, **self._extra, return_dict=False)[0]
        self.index += 1
        if self._kept is not None:
            kept, noise, mask = self._kept
            if not self.is_done:
                kept = _noised(sampler, kept, noise, self.timestep)
            self.latents = (1 - mask) * kept + mask * self.latents

    def original(self) -> "torch.Tensor":
        """What the denoiser took the finished latents to be in the last pass; for previews."""
        return self.components.family.original(self.scheduler, self._scaled, self._output, self._at)

    def _begin(self, device: "torch.device") -> None:
        """Sets `latents` and `timesteps`."""
        import torch

        sampler: Any = self.scheduler
        timesteps: torch.Tensor = sampler.timesteps
        start = float(getattr(sampler, "init_noise_sigma", 1.0))
        factor = self.components.size.vae_factor
        shape = (1, self.components.vae.config.latent_channels, self.height // factor, self.width // factor)
        self._kept: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        if self.picture is None:
            noise = torch.randn(shape, generator=self._generator) if self.noise is None else self.noise
            self.timesteps = timesteps
            self.latents = noise.to(device) * start
            return
        kept = passes(self.steps, self.strength, has_noise_schedule=self.components.family.has_noise_schedule)
        skipped = (self.steps - kept) * getattr(sampler, "order", 1)
        self.timesteps = timesteps[skipped:]
        if hasattr(sampler, "set_begin_index"):
            sampler.set_begin_index(skipped)
        mean, deviation = (each.float() for each in encode_images(self.components, self.picture))
        first = mean + deviation * torch.randn(shape, generator=self._generator).to(device)
        noise = torch.randn(shape, generator=self._generator).to(device)
        if self.mask is not None:
            small = torch.nn.functional.interpolate(self.mask.to(device).float(), size=shape[2:])
            self._kept = (first, noise, small)
            # diffusers draws this for the masked picture, which only inpainting models are shown.
            torch.randn(shape, generator=self._generator)
        if self.mask is not None and self.strength == 1:
            self.latents = noise * start
        else:
            self.latents = _noised(sampler, first, noise, self.timesteps[0])


def passes(steps: int, strength: float, *, has_noise_schedule: bool) -> int:
    """Of `steps`, those that are drawn over a picture, as diffusers' pipelines count them; at least one."""
    wanted = steps * strength
    if has_noise_schedule:
        wanted = int(wanted)
    return steps - min(int(max(steps - wanted, 0)), steps - 1)


def step_together(samples: Sequence[Sample], adapters: "RowAdapters | None" = None) -> None:
    """One pass of the denoiser for samples of one base, latent size and shape of conditioning, each then at its next
    step. `adapters` hands each row its own LoRAs."""
    import torch

    components = samples[0].components
    components.wake(components.family.denoiser)
    device, dtype = components.device, components.dtype
    # Guided ones first: rows are their unsaid halves, then what all are said.
    order = [each for each in samples if each.guided] + [each for each in samples if not each.guided]
    guided = [each for each in order if each.guided]
    rows = [_Row(each, each.unsaid) for each in guided if each.unsaid is not None]
    rows += [_Row(each, each.said) for each in order]
    places = adapters.order([row.sample.adapters for row in rows]) if adapters else list(range(len(rows)))
    rows = [rows[place] for place in places]
    with torch.no_grad():
        entries = {id(each): each.entry() for each in order}
        entry = torch.cat([entries[id(row.sample)] for row in rows]).to(dtype)
        times = torch.stack([row.sample.timestep for row in rows]).to(device)
        words = rows[0].words
        said = {name: torch.cat([row.words[name].to(device, _type(name, dtype)) for row in rows]) for name in words}
        said |= _steered(rows, entry, times, said)
        steady = all(each.is_steady for each in samples)
        with adapters.rows([row.sample.adapters for row in rows], steady=steady) if adapters else nullcontext():
            answer = components.family.predict(components, entry, times, said).float()
        answer = answer[sorted(range(len(places)), key=places.__getitem__)]
        if guided:
            answer = torch.cat([_guide(guided, answer), answer[2 * len(guided) :]])
        for sample, output in zip(order, answer.split(1), strict=True):
            sample.advance(output)


@dataclass(frozen=True)
class _Row:
    """Of a pass: a sample, and what the denoiser is told for it."""

    sample: Sample
    words: Conditioning

    @property
    def is_unsaid(self) -> bool:
        return self.words is self.sample.unsaid


def _steered(rows: Sequence[_Row], entry: "torch.Tensor", times: "torch.Tensor", said: Conditioning) -> Conditioning:
    """What the ControlNets add, each asked only for the rows that it steers."""
    import torch

    # By the ControlNet, and by which of a sample's pictures for it: each is one pass over its rows.
    asked: dict[tuple[int, int], list[tuple[int, Control, float]]] = {}
    for place, row in enumerate(rows):
        nth: dict[int, int] = {}
        for control, weight in row.sample.acting():
            model = id(control.model)
            nth[model] = nth.get(model, 0) + 1
            if steers_unsaid(control.model) or not row.is_unsaid:
                asked.setdefault((model, nth[model]), []).append((place, control, weight))
    total: dict[str, torch.Tensor] = {}
    for steered in asked.values():
        where = torch.tensor([place for place, _, _ in steered], device=entry.device)
        added = control_residuals(
            [steered[0][1].model],
            [torch.cat([control.images.to(entry) for _, control, _ in steered])],
            [torch.tensor([weight for _, _, weight in steered], device=entry.device)],
            entry[where],
            times[where],
            {name: value[where] for name, value in said.items()},
        )
        for name, value in added.items():
            if name not in total:
                total[name] = value.new_zeros(len(entry), *value.shape[1:])
            total[name].index_add_(0, where, value)
    return total


def _type(name: str, dtype: "torch.dtype") -> "torch.dtype":
    import torch

    return torch.float32 if name == "geometry" else dtype


def _guide(guided: Sequence[Sample], answer: "torch.Tensor") -> "torch.Tensor":
    """Each with its own scale, which a clip has for each frame."""
    import torch

    ones = [1] * (answer.ndim - 1)
    scales = torch.cat(
        [torch.as_tensor(each.guidance_scale, dtype=torch.float32).view(1, -1, *ones[1:]) for each in guided]
    )
    if answer.ndim == 4:
        scales = scales.view(-1, *ones)
    rescales = torch.tensor([each.guidance_rescale for each in guided]).view(-1, *ones)
    negative, positive = answer[: len(guided)], answer[len(guided) : 2 * len(guided)]
    return guide(negative, positive, scales.to(answer.device), rescales.to(answer.device))


def _noised(sampler: Any, latents: "torch.Tensor", noise: "torch.Tensor", timestep: "torch.Tensor") -> "torch.Tensor":
    """As noisy as the sampler wants them at a timestep."""
    if hasattr(sampler, "scale_noise"):  # flow matching
        scaled: torch.Tensor = sampler.scale_noise(latents, timestep[None], noise)
        return scaled
    noised: torch.Tensor = sampler.add_noise(latents, noise, timestep[None])
    return noised
