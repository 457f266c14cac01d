"""What a family of models says about itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """A component folder of a pipeline: the class that loads it and the files that it cannot do without."""

    name: str
    library: str  # "diffusers" or "transformers"
    class_name: str
    weights: str | None = None  # safetensors file, if it has weights
    files: tuple[str, ...] = ()
    instead: str | None = None  # a file that makes up for all of `files`


@dataclass(frozen=True)
class Family:
    """How the pipelines of one architecture are taken apart."""

    name: str
    parts: tuple[Part, ...]
    lora_targets: tuple[str, ...]  # module names in the denoiser that a LoRA adapts by default
    text_encoder_lora_targets: tuple[str, ...]
    fix_scheduler_config: Callable[[Mapping[str, Any]], dict[str, Any]]
