"""Captions of pictures, by a captioning model of transformers: BLIP or GIT, from safetensors files alone."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.diffusion.device import drawing_dtype
from services.diffusion.weights import WeightsUnavailable, fetch_files

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("blip", "git")
"""As their configuration names them: those that caption a picture without being asked anything."""
FILES = ["*.json", "*.txt", "model*.safetensors"]
HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)@([0-9a-f]{40})")


def name_of(model: str) -> str:
    """What a client may know of it: the name on a hub, or the folder's last part."""
    return model if HUB_NAME.fullmatch(model) else Path(model).name


def find_captioner(model: str, cache_dir: Path, *, weights_dir: Path | None = None) -> Path:
    """The folder of a model: `model` itself, or what is fetched of `repository/name@revision`, a whole commit.

    Raises WeightsUnavailable where it is neither, or the hub is out of reach.
    """
    if Path(model).is_dir():
        return Path(model)
    if not (found := HUB_NAME.fullmatch(model)):
        raise WeightsUnavailable(f"captioning model {model!r} is neither a folder nor repository/name@commit")
    return fetch_files(found[1], found[2], cache_dir, patterns=FILES, weights_dir=weights_dir)


class Captioner:
    """A captioning model in memory."""

    def __init__(self, folder: Path, device: str) -> None:
        """Raises WeightsUnavailable naming what is wrong with the folder."""
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        try:
            kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
            if kind not in KINDS:
                raise WeightsUnavailable(f"captioning model {folder.name!r} is a {kind}; known are {', '.join(KINDS)}")
            self._processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=drawing_dtype(device)
            )
        except (OSError, ValueError, KeyError) as error:
            raise WeightsUnavailable(f"captioning model {folder.name!r} does not load: {error}") from error
        self._model.to(device).eval()
        self._device = device

    def caption(self, pictures: "Sequence[Image]", *, max_tokens: int) -> list[str]:
        """One caption for each RGB picture, of at most `max_tokens` tokens; equal pictures, equal captions."""
        import torch

        pixels = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self._device, self._model.dtype)
        with torch.no_grad():
            tokens = self._model.generate(pixel_values=pixels, max_new_tokens=max_tokens, do_sample=False)
        return [" ".join(text.split()) for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]
