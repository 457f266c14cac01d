"""The tiny pipeline on disk, taken apart by us and whole in diffusers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from services.diffusion.load import Components, load_components
from tests.tiny import make_tiny_lora, make_tiny_pipeline

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture(scope="session")
def tiny_lora(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return make_tiny_lora(tmp_path_factory.mktemp("lora"), tiny_folder)


@pytest.fixture
def components(tiny_folder: Path) -> Components:
    return load_components([tiny_folder], family="stable_diffusion", device="cpu", dtype=torch.float32)


@pytest.fixture
def plain(tiny_folder: Path) -> Any:
    """diffusers' own pipeline of the same weights."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
