"""A tiny model and a few pictures to learn from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.diffusion.geometry import as_rows, whole
from services.diffusion.load import Components, load_components
from services.diffusion.objective import schedule_of
from services.trainer.domain import LoraConfig, Method, Progress, Schedule, TrainingConfig
from services.trainer.worker.cache import LatentsBuilder, TrainingSet, cached_captions, read_captions
from services.trainer.worker.data import Pictures, in_parts
from services.trainer.worker.hardware import make_accelerator
from services.trainer.worker.loop import train
from services.trainer.worker.meter import Meter
from services.trainer.worker.methods import Trainee, make_trainee
from services.trainer.worker.plan import make_plan
from services.trainer.worker.state import make_learner
from tests.tiny import SIDE, make_tiny_pipeline

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

CAPTIONS = ("red apple", "blue cat", "dog heart", "line art", "a star", "photo of sks dog")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny matrices are only slowed down by more, on a busy machine by a hundred times."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder."""
    return make_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def load(pipeline: Path) -> Callable[[], Components]:
    """Loads the tiny model afresh."""
    import torch

    return lambda: load_components([pipeline], family="stable_diffusion", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def accelerator() -> "Accelerator":
    return make_accelerator("cpu", "no")


@pytest.fixture
def pixels() -> "torch.Tensor":
    """(6, 3, 32, 32) in [-1, 1]."""
    import torch

    return torch.rand((6, 3, SIDE // 2, SIDE // 2), generator=torch.Generator().manual_seed(0)) * 2 - 1


def make_config(**changes: object) -> TrainingConfig:
    """A configuration that learns quickly; LoRA of rank 4 unless told otherwise."""
    config = TrainingConfig(
        learning_rate=1e-3,
        batch_size=2,
        epochs=1,
        resolution=SIDE // 2,
        seed=7,
        schedule=Schedule.CONSTANT,
        lora=LoraConfig(rank=4),
    )
    return replace(config, **changes)  # type: ignore[arg-type]  # field names and values of a test's choice


def make_set(
    components: Components,
    pixels: "torch.Tensor",
    config: TrainingConfig,
    captions: tuple[str, ...] = CAPTIONS,
    num_class_images: int = 0,
) -> TrainingSet:
    """The pictures, the last `num_class_images` of them as the class's."""
    import torch

    builder = LatentsBuilder(components, flip=config.random_flip)
    for part in in_parts(range(len(pixels)), 4):
        builder.add(part, Pictures(pixels[part.start : part.stop]))
    captions = captions[: len(pixels)]
    if config.train_text_encoder or config.caption_shuffle:
        embed = read_captions(components, captions, learns=config.train_text_encoder, shuffle=config.caption_shuffle)
    else:
        embed = cached_captions(components, captions, dtype=torch.float32)
    cuts = as_rows([whole(SIDE // 2, SIDE // 2)] * len(pixels))
    return TrainingSet(*builder.build(), embed, cuts, len(pixels) - num_class_images, num_class_images)


def run(
    components: Components,
    pixels: "torch.Tensor",
    config: TrainingConfig,
    accelerator: "Accelerator",
    method: Method = Method.LORA,
    num_class_images: int = 0,
) -> tuple[Trainee, list[Progress]]:
    """Trains to the end."""
    import torch

    pictures = make_set(components, pixels, config, num_class_images=num_class_images)
    trainee = make_trainee(components, method, config, frozen=torch.float32)
    plan = make_plan(config, pictures.num_images)
    steps = train(
        trainee,
        make_learner(trainee, config, plan, accelerator),
        pictures,
        schedule_of(trainee.components.scheduler_config),
        config,
        plan,
        accelerator=accelerator,
        meter=Meter(plan, memory=lambda: (1, 2)),
    )
    return trainee, [progress for progress in steps if progress is not None]


def weights_of(trainee: Trainee) -> "list[torch.Tensor]":
    return [parameter.detach().clone() for parameter in trainee.parameters]
