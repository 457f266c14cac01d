"""A pipeline's components out of diffusers folders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.errors import FailedPrecondition
from services.diffusion.device import bytes_of
from services.diffusion.families import get_family
from services.diffusion.families.family import Family, Part, Size
from services.diffusion.weights import WeightsUnavailable

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Components:
    """A loaded pipeline, taken apart. Modules are in eval mode, without gradients."""

    family: Family
    parts: Mapping[str, Any]
    """The loaded parts by name, tokenizers among them; optional ones may be missing. Any, since mypy cannot see through
    the decorators and metaclasses of these classes."""
    scheduler_class: str  # the diffusers class that the model was published with
    scheduler_config: Mapping[str, Any]
    size: Size
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the pipeline's model_index.json says beside its parts."""
    shared_device: "torch.device | None" = None
    """Where the denoiser and those that read for it are in turns, the others meanwhile on the CPU; None: all stay."""

    @property
    def denoiser(self) -> Any:
        """What is trained, and asked at every step."""
        return self.parts[self.family.denoiser]

    @property
    def vae(self) -> Any:
        return self.parts["vae"]

    @property
    def text_encoders(self) -> list[Any]:
        """Those that may be trained with the denoiser."""
        return [self.parts[name] for name in self.family.text_encoders]

    @property
    def readers(self) -> list[str]:
        """The parts that read words and pictures for the denoiser."""
        return [name for name in self.modules if name not in (self.family.denoiser, "vae")]

    @property
    def tokenizers(self) -> list[Any]:
        return [self.parts[name] for name in self.family.tokenizers]

    @property
    def modules(self) -> "dict[str, torch.nn.Module]":
        """The parts that have weights."""
        return {
            part.name: self.parts[part.name] for part in self.family.parts if part.weights and part.name in self.parts
        }

    @property
    def adaptable(self) -> "dict[str, torch.nn.Module]":
        """The parts that a LoRA may adapt, under the names that are the prefixes of its keys."""
        return {name: self.parts[name] for name in (self.family.denoiser, *self.family.text_encoders)}

    @cached_property
    def adaptable_weights(self) -> "dict[str, dict[str, torch.Tensor]]":
        """Of those parts' modules, by their names; looked for once."""
        found: dict[str, dict[str, torch.Tensor]] = {}
        for part, model in self.adaptable.items():
            for name, module in model.named_modules():
                weight = getattr(getattr(module, "base_layer", module), "weight", None)  # as peft wraps them
                if weight is not None:
                    found.setdefault(part, {})[name] = weight
        return found

    @property
    def device(self) -> "torch.device":
        # diffusers' own property walks through all modules first, two milliseconds that every pass would pay.
        device: torch.device = self.shared_device or next(self.denoiser.parameters()).device
        return device

    @property
    def dtype(self) -> "torch.dtype":
        dtype: torch.dtype = next(self.denoiser.parameters()).dtype
        return dtype

    @property
    def memory_bytes(self) -> int:
        """Bytes of all parameters and buffers, or of as many as are on the device at once."""
        sizes = {name: bytes_of((*module.parameters(), *module.buffers())) for name, module in self.modules.items()}
        return bytes_in_turns(sizes, self.family.denoiser) if self.shared_device else sum(sizes.values())

    def wake(self, *names: str) -> None:
        """Has these parts where they work, whoever's turn it was before."""
        if self.shared_device is None:
            return
        import torch

        for name in (self.family.denoiser, *self.readers):
            part, place = self.parts[name], self.shared_device if name in names else torch.device("cpu")
            if next(part.parameters()).device.type != place.type:  # to move what is there walks through all of it
                part.to(place)

    def with_parts(self, **parts: Any) -> "Components":
        """The same with other parts in the places of some."""
        return replace(self, parts={**self.parts, **parts})


def load_components(
    folders: Sequence[Path],
    *,
    family: str,
    device: "str | torch.device",
    dtype: "torch.dtype",
    in_turns: bool = False,
) -> Components:
    """The components of a pipeline, each whole from the nearest folder that has it.

    `folders` are diffusers folders, nearest first: a fine-tuned model's holds what changed, and its base's the rest.
    `in_turns` saves memory of a device: see `Components.wake`. Raises WeightsUnavailable naming the file that is
    missing or damaged, and FailedPrecondition for another family.
    """
    import torch

    described = get_family(family)
    homes = _find_parts(described, folders)
    _quieten()
    parts: dict[str, Any] = {}
    for part in described.parts:
        home = homes.get(part.name)
        if home is None or part.name == "scheduler":
            continue
        if part.weights:
            rests = in_turns and part.name not in (described.denoiser, "vae")
            parts[part.name] = load_part(part, home, dtype).to("cpu" if rests else device).eval().requires_grad_(False)
        else:
            parts[part.name] = _load_helper(part, home)
    denoiser, vae = parts[described.denoiser], parts["vae"]
    _make_adaptable(denoiser)
    if dtype == torch.float16 and getattr(vae.config, "force_upcast", False):
        vae.float()  # its values grow too large for half precision
    if reason := described.unsupported(denoiser.config, vae.config):
        raise FailedPrecondition(f"{reason}, which is not supported", reason="FAMILY_UNSUPPORTED")
    scheduler_class, scheduler_config = _load_scheduler(described, homes["scheduler"])
    size = described.size(denoiser.config, vae.config)
    settings = _settings(folders)
    shared = torch.device(device) if in_turns else None
    return Components(described, parts, scheduler_class, scheduler_config, size, settings, shared)


def bytes_in_turns(sizes: Mapping[str, int], denoiser: str) -> int:
    """The most that is on a device at once, of parts that take turns: the VAE stays."""
    vae = sizes.get("vae", 0)
    return vae + max(sizes.get(denoiser, 0), sum(sizes.values()) - sizes.get(denoiser, 0) - vae)


def read_size(folders: Sequence[Path], *, family: str) -> Size:
    """What `Components` would say of sizes, out of the small config files alone: no torch, a millisecond.

    Raises WeightsUnavailable naming the file that is missing, weights included.
    """
    described = get_family(family)
    homes = _find_parts(described, folders)
    try:
        configs = [
            json.loads((homes[name] / "config.json").read_text(encoding="utf-8"))
            for name in (described.denoiser, "vae")
        ]
        return described.size(*configs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsUnavailable(f"the model's config.json cannot be read: {error}") from error


def _find_parts(family: Family, folders: Sequence[Path]) -> dict[str, Path]:
    """Where each part is; optional ones that are nowhere are left out."""
    there = [
        part for part in family.parts if not part.optional or any((folder / part.name).is_dir() for folder in folders)
    ]
    return {part.name: _find_part(part, folders) for part in there}


def _find_part(part: Part, folders: Sequence[Path]) -> Path:
    """The nearest folder's `part`; raises WeightsUnavailable when it is nowhere, or not whole where it is."""
    for folder in folders:
        home = folder / part.name
        if home.is_dir():
            check_files(part, home)
            return home
    wanted = part.weights or part.files[0]
    raise WeightsUnavailable(f"neither the model nor its base has the file {part.name}/{wanted}")


def check_files(part: Part, home: Path) -> None:
    """Raises WeightsUnavailable naming a file of `part` that is not in its folder."""
    whole = part.instead is not None and (home / part.instead).is_file()
    for name in () if whole else part.files:
        if not (home / name).is_file():
            raise WeightsUnavailable(f"the file {part.name}/{name} of the model is missing")
    if part.weights and _variant(home, part.weights) is None:
        raise WeightsUnavailable(f"the weights file {part.name}/{part.weights} of the model is missing")


def _variant(home: Path, weights: str) -> dict[str, str] | None:
    """What tells `from_pretrained` the file: `model.safetensors`, its shards, or `model.fp16.safetensors`."""
    stem = weights.removesuffix(".safetensors")
    if (home / weights).is_file() or (home / f"{weights}.index.json").is_file():
        return {}
    if (home / f"{stem}.fp16.safetensors").is_file():
        return {"variant": "fp16"}
    return None


def load_part(part: Part, home: Path, dtype: "torch.dtype", *, kind: Any = None) -> Any:
    """A part with weights, from its own folder; `kind` is its class where the library's front door has none of the
    name. Raises WeightsUnavailable when they cannot be read or are not all."""
    import diffusers
    import transformers
    from safetensors import SafetensorError

    libraries = {"diffusers": diffusers, "transformers": transformers}
    kind = kind or getattr(libraries[part.library], part.class_name)
    assert part.weights is not None
    precision = {"torch_dtype": dtype} if part.library == "diffusers" else {"dtype": dtype}
    try:
        module, info = kind.from_pretrained(
            home,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **precision,
            **(_variant(home, part.weights) or {}),
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsUnavailable(f"{part.name}/{part.weights} cannot be read: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise WeightsUnavailable(f"{part.name}/{part.weights} lacks {len(missing)} tensors, the first is {missing[0]}")
    return module


def _load_helper(part: Part, home: Path) -> Any:
    """A part without weights: a tokenizer, or what prepares pictures."""
    import transformers

    try:
        return getattr(transformers, part.class_name).from_pretrained(home, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsUnavailable(f"{part.name}/{part.files[0]} cannot be read: {error}") from error


def _make_adaptable(denoiser: Any) -> None:
    """Gives a denoiser the methods for adapters that diffusers has left out of some classes."""
    from diffusers.loaders import PeftAdapterMixin

    kind = type(denoiser)
    if not issubclass(kind, PeftAdapterMixin):
        denoiser.__class__ = type(kind.__name__, (kind, PeftAdapterMixin), {"__module__": kind.__module__})


def _settings(folders: Sequence[Path]) -> dict[str, Any]:
    """The plain values of the nearest model_index.json; a part's class is a list there."""
    for folder in folders:
        try:
            index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise WeightsUnavailable(f"model_index.json cannot be read: {error}") from error
        return {
            name: value for name, value in index.items() if not name.startswith("_") and not isinstance(value, list)
        }
    return {}


def _load_scheduler(family: Family, home: Path) -> tuple[str, dict[str, Any]]:
    """The class and the whole config, defaults filled in by that class as diffusers does."""
    import diffusers

    try:
        saved = json.loads((home / "scheduler_config.json").read_text(encoding="utf-8"))
        kind = getattr(diffusers, saved["_class_name"])
        if not issubclass(kind, diffusers.SchedulerMixin):
            raise TypeError(f"{saved['_class_name']} is not a scheduler")
        config = kind.from_config(family.fix_scheduler_config(saved)).config
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsUnavailable(f"scheduler/scheduler_config.json cannot be read: {error}") from error
    return kind.__name__, dict(config)


def _quieten() -> None:
    """Loading bars of the libraries have no place in a service's log."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
