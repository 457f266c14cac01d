"""Weights from the disk into memory, ready to draw: what threads do beside the one that draws."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.telemetry import Logger
from services.diffusion.compiling import compile_blocks, forget_compiled
from services.diffusion.control import load_control
from services.diffusion.encode import encode_prompts
from services.diffusion.load import Components, load_components
from services.diffusion.sample import Sample, step_together
from services.diffusion.schedulers import make_scheduler
from services.generator.domain import Folders, Plan
from services.generator.engine.base import MAKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Reader:
    """Loads onto a device. `compiles`: denoisers are compiled, and warmed up before they are handed over."""

    device: str
    dtype: "torch.dtype"
    compiles: bool
    log: Logger

    def base(self, plan: Plan, folders: Folders, in_turns: bool) -> Components:
        """Raises as `load_components`. Where its parts are on the device in turns, a base needs less of it."""
        with MAKING:
            components = load_components(
                folders.pipeline, family=plan.family, device=self.device, dtype=self.dtype, in_turns=in_turns
            )
            for model in (components.denoiser, components.vae):
                _order_channels_last(model)
            if self.compiles and not components.family.draws_clips:
                self._compile(components, plan.base.name)
        return components

    def net(self, folder: Path, family: str) -> Any:
        """A ControlNet. Raises as `load_control`."""
        with MAKING:
            model = load_control(folder, family=family, device=self.device, dtype=self.dtype)
        _order_channels_last(model)
        return model

    def _compile(self, components: Components, name: str) -> None:
        """Where a machine cannot compile, it draws as it is."""
        compile_blocks(components.denoiser, dynamic=True)
        try:
            _warm_up(components)
        except Exception as error:  # whatever a compiler may be short of
            self.log.warning("a model is drawn with uncompiled", model=name, error=str(error))
            forget_compiled(components.denoiser)


def _warm_up(components: Components) -> None:
    """Passes of one row and of several, at the model's own size."""
    import torch

    with torch.no_grad():
        words = encode_prompts(components, [""])
    side = components.size.native

    def sample(guidance: float) -> Sample:
        return Sample(
            components,
            make_scheduler(components),
            said=words,
            unsaid=words,
            seed=0,
            width=side,
            height=side,
            steps=1,
            guidance_scale=guidance,
        )

    for samples in ([sample(1.0)], [sample(2.0)], [sample(2.0), sample(2.0)]):
        step_together(samples)


def bytes_by_part(folders: tuple[Path, ...]) -> dict[str, int]:
    """An estimate before loading: each component's safetensors, from the nearest folder that has it."""
    sizes: dict[str, int] = {}
    for folder in reversed(folders):
        for home in (each for each in folder.iterdir() if each.is_dir()):
            if weights := bytes_of_folder(home):
                sizes[home.name] = weights
    return sizes


def bytes_of_folder(folder: Path) -> int:
    """Of its safetensors."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _order_channels_last(model: Any) -> None:
    """The convolutions' favourite order of axes. Always the same one, so that equal requests give equal bytes.

    On two CPU cores one picture of the starter model took 0.89 of the time, four together and a larger model the same.
    """
    import torch

    # Those along clips' third axis have another.
    layers: list[Any] = [each for each in model.modules() if isinstance(each, torch.nn.Conv2d)]
    for layer in layers:
        layer.to(memory_format=torch.channels_last)
