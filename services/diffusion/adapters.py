"""LoRA (Hu et al. 2021): put into a denoiser to train, saved, loaded, weighted and taken out again.

Files are `pytorch_lora_weights.safetensors` in diffusers' layout: `unet.` and `text_encoder.` keys, and the adapters'
configuration in the header, so that a loader scales by the real alpha instead of taking it to be the rank.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from services.common.errors import FailedPrecondition, InvalidArgument
from services.diffusion.families import get_family
from services.diffusion.load import Components
from services.diffusion.weights import WeightsUnavailable

if TYPE_CHECKING:
    import torch

FILE_NAME = "pytorch_lora_weights.safetensors"
TARGETS_FIELD = "config.lora.target_modules"
TRAINED = "default"  # the adapter's name while it trains
A, B = ".lora_A.weight", ".lora_B.weight"


def add_lora(
    denoiser: "torch.nn.Module",
    *,
    rank: int,
    alpha: float | None = None,
    dropout: float = 0.0,
    target_modules: Sequence[str] = (),
    rslora: bool = False,
    dora: bool = False,
    text_encoders: "Sequence[torch.nn.Module]" = (),
    family: str = "stable_diffusion",
) -> "list[torch.nn.Parameter]":
    """Freezes the models, puts fresh LoRA layers into them, and gives the layers' parameters (float32, to be trained).

    `alpha` is the rank unless given: an adapter's output is scaled by alpha / rank, with `rslora` by alpha / sqrt(rank)
    (Kalajdzievski 2023). `dora` learns magnitudes apart (Liu et al. 2024). `target_modules` are module names
    of the denoiser, the family's attention where empty. A is drawn from torch's global generator; B is zero, so the
    model starts unchanged. Raises InvalidArgument naming `config.lora.target_modules` when a name is not there.
    """
    import torch
    from peft import LoraConfig

    described = get_family(family)
    targets = list(target_modules) or list(described.lora_targets)
    _check_targets(denoiser, targets)
    models = [(denoiser, targets), *((each, list(described.text_encoder_lora_targets)) for each in text_encoders)]
    parameters: list[torch.nn.Parameter] = []
    for model, names in models:
        model.requires_grad_(False)
        config = LoraConfig(
            r=rank,
            lora_alpha=rank if alpha is None else alpha,
            lora_dropout=dropout,
            target_modules=names,
            use_rslora=rslora,
            use_dora=dora,
            init_lora_weights="gaussian",
        )
        model.add_adapter(config, adapter_name=TRAINED)  # type: ignore[operator]  # diffusers' and transformers' peft mixins
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
                parameters.append(parameter)
    return parameters


def adaptable_modules(denoiser: "torch.nn.Module") -> list[str]:
    """The module names that a LoRA can adapt, each once however many blocks have it."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    names = (name for name, module in denoiser.named_modules() if isinstance(module, kinds))
    return sorted({_short(name) for name in names})


def lora_state_dict(**adapted: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """The trained layers of the models, given by their names in the pipeline, contiguous on the CPU, under the keys of
    diffusers' layout."""
    from peft import get_peft_model_state_dict

    tensors: dict[str, torch.Tensor] = {}
    for prefix, model in _prefixed(adapted):
        for key, value in get_peft_model_state_dict(model, adapter_name=TRAINED).items():
            tensors[prefix + key] = value.detach().contiguous().cpu()
    return tensors


def save_lora(folder: Path, *, metadata: Mapping[str, str] | None = None, **adapted: "torch.nn.Module") -> Path:
    """Writes the trained layers of the models, which are given by their names in the pipeline, into `folder`; gives the
    file's path. `metadata` joins the adapters' configuration in the header."""
    from safetensors.torch import save_file

    adapters: dict[str, Any] = {}
    for prefix, model in _prefixed(adapted):
        config = cast(Any, model).peft_config[TRAINED].to_dict()
        adapters |= {prefix.split(".")[0] + "." + key: _plain(value) for key, value in config.items()}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(adapters, sort_keys=True), **(metadata or {})}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(lora_state_dict(**adapted), folder / FILE_NAME, metadata=header)
    return folder / FILE_NAME


def load_loras(components: Components, loras: Iterable[tuple[str, Path]]) -> None:
    """Puts LoRA files into the loaded models under the given names; `set_lora_weights` says how strongly each acts.

    Raises WeightsUnavailable for a file that is missing or damaged, and FailedPrecondition (LORA_MISMATCH) for a LoRA
    of another architecture; that LoRA is then in none of the models.
    """
    from diffusers.loaders.lora_base import _load_lora_into_text_encoder

    family = components.family
    for name, path in loras:
        tensors, alphas, metadata = read_lora(path, components)
        fitting_pairs(components, tensors, path)
        # diffusers takes the header's configuration, or alphas beside the layers, and not both.
        about = {"adapter_name": name, "network_alphas": alphas or None, "metadata": metadata}
        try:
            for part, model in components.adaptable.items():
                if not any(key.startswith(f"{part}.") for key in tensors):
                    continue
                if part == family.denoiser:
                    cast(Any, model).load_lora_adapter(tensors, prefix=part, **about)
                else:
                    _load_lora_into_text_encoder(tensors, text_encoder=model, prefix=part, **about)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            remove_lora(components, name)
            raise FailedPrecondition(f"{path.name} does not fit the model: {error}", reason="LORA_MISMATCH") from error
        for model in components.adaptable.values():
            model.requires_grad_(False)
            model.eval()
    set_lora_weights(components, {})


def set_lora_weights(components: Components, weights: Mapping[str, float]) -> None:
    """Makes exactly the named adapters act, each scaled by its weight; weight 0, like no name, leaves one out whole."""
    for model in components.adaptable.values():
        present = getattr(model, "peft_config", {})
        acting = {name: weight for name, weight in weights.items() if name in present and weight != 0}
        _set_weights(model, acting)


def remove_lora(components: Components, name: str) -> None:
    """Takes an adapter out of the models and frees its memory; no such adapter is no error."""
    from diffusers.utils.peft_utils import delete_adapter_layers

    for model in components.adaptable.values():
        if name in getattr(model, "peft_config", {}):
            delete_adapter_layers(model, name)
            getattr(model, "peft_config", {}).pop(name, None)


def _set_weights(model: "torch.nn.Module", weights: Mapping[str, float]) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            layer: Any = module  # peft declares the attributes of its layers dynamically
            here = [name for name in weights if name in layer.lora_A]
            module.enable_adapters(bool(here))
            if here:
                module.set_adapter(here, inference_mode=True)
                for name in here:
                    layer.set_scale(name, weights[name])


def _check_targets(denoiser: "torch.nn.Module", targets: Sequence[str]) -> None:
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    names = [name for name, module in denoiser.named_modules() if isinstance(module, kinds)]
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in names):
            exist = ", ".join(adaptable_modules(denoiser))
            raise InvalidArgument(
                f"the denoiser has no module '{target}' to adapt; it has {exist}", field=TARGETS_FIELD
            )


def _short(name: str) -> str:
    """`to_out.0` of `down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0`: the end that says its role."""
    return re.search(r"(to_out\.\d+|ff\.net\.\d+(\.proj)?|[^.]+)$", name)[0]  # type: ignore[index]  # [^.]+ always fits


def _prefixed(adapted: "Mapping[str, torch.nn.Module]") -> "Iterator[tuple[str, torch.nn.Module]]":
    """The models that have a trained adapter, with the prefix of their keys."""
    for name, model in adapted.items():
        if hasattr(model, "peft_config"):
            # Files have always said `text_model.`; newer text encoders have lost that level.
            lost = name.startswith("text_encoder") and not hasattr(model, "text_model")
            yield (f"{name}.text_model." if lost else f"{name}."), model


def _plain(value: object) -> object:
    """JSON has no sets and no enums."""
    if isinstance(value, set | frozenset | tuple):
        return sorted(value)
    if isinstance(value, str | int | float | bool | list | dict | None):
        return value
    return str(value)


def read_lora(
    path: Path, components: Components
) -> "tuple[dict[str, torch.Tensor], dict[str, float] | None, dict[str, Any] | None]":
    """Tensors in diffusers' keys, kohya's alphas if they came so, and the header's configuration if there is one."""
    from diffusers.loaders import lora_pipeline
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsUnavailable(f"the weights file {path.name} of the LoRA is missing")
    try:
        with safe_open(path, framework="pt") as file:
            raw = {key: file.get_tensor(key) for key in file.offset_keys()}  # as they lie in the file
            header = file.metadata() or {}
        metadata = json.loads(header["lora_adapter_metadata"]) if "lora_adapter_metadata" in header else None
        reader = getattr(lora_pipeline, components.family.lora_reader)
        # kohya's files of SDXL call the blocks as its authors did: the UNet's config says which are which.
        told = {"unet_config": components.denoiser.config} if components.family.denoiser == "unet" else {}
        read = reader.lora_state_dict(raw, **told)
        # Some readers find alphas beside the layers, others put them into the layers.
        tensors, alphas = read if isinstance(read, tuple) else (read, None)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise WeightsUnavailable(f"{path.name} cannot be read: {error}") from error
    return tensors, alphas, metadata


def module_name(components: Components, part: str, name: str) -> str:
    """What the module of a key's `name` is called in a part: newer text encoders have lost the level `text_model.`."""
    lost = part in components.family.text_encoders and not hasattr(components.adaptable[part], "text_model")
    return name.removeprefix("text_model.") if lost else name


class Pair(NamedTuple):
    """A LoRA's A (r, in, ...) and B (out, r, ...) for one module, with the key that both begin with."""

    key: str
    part: str
    name: str
    weight: "torch.Tensor"  # the module's
    a: "torch.Tensor"
    b: "torch.Tensor"


def fitting_pairs(components: Components, tensors: "Mapping[str, torch.Tensor]", path: Path) -> list[Pair]:
    """Every A and B. Raises FailedPrecondition unless each fits a module that is there."""
    weights = components.adaptable_weights
    keys = [key.removesuffix(A) for key in tensors if key.endswith(A)]
    # DoRA's are a vector beside each pair.
    known = 2 * len(keys) + sum(1 for key in tensors if ".lora_magnitude_vector" in key)
    # Older layouts have no pairs here; diffusers knows and converts them, and checks them itself.
    ours = tuple(f"{name}." for name in weights)
    if not tensors or not all(key.startswith(ours) for key in tensors) or (keys and known != len(tensors)):
        raise FailedPrecondition(f"{path.name} holds no LoRA that is known here", reason="LORA_MISMATCH")
    pairs: list[Pair] = []
    for key in keys:
        part, _, told = key.partition(".")
        name = module_name(components, part, told)
        weight, a, b = weights[part].get(name), tensors[key + A], tensors.get(key + B)
        if weight is None or b is None:
            lack = "which the model lacks" if weight is None else "without its B"
            raise FailedPrecondition(f"{path.name} adapts {part}.{told}, {lack}", reason="LORA_MISMATCH")
        for end, has, wants in ((A, a.shape[1], weight.shape[1]), (B, b.shape[0], weight.shape[0])):
            if has != wants:
                message = f"{key}{end} of {path.name} is for {has} channels; the model has {wants}"
                raise FailedPrecondition(message, reason="LORA_MISMATCH")
        pairs.append(Pair(key, part, name, weight, a, b))
    return pairs
