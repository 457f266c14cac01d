"""Whether pictures show what a deployment does not want: the checker that was published with Stable Diffusion.

It compares what CLIP sees in a picture with a few concepts, each with a threshold of its own, and a little more
strictly where one of its "special care" concepts is near (Rando et al. 2022 take it apart).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.diffusion.families.family import Part
from services.diffusion.load import check_files, load_part
from services.diffusion.weights import WeightsUnavailable

if TYPE_CHECKING:
    import numpy as np
    import torch

PART = Part("safety_checker", "transformers", "StableDiffusionSafetyChecker", "model.safetensors", ("config.json",))
PREPARATION = "preprocessor_config.json"
STRICTER = 0.01
"""Is added to all concepts' scores where special care is due."""


class SafetyChecker:
    """A checker in memory."""

    def __init__(self, model: Any, preparation: Any) -> None:
        """diffusers' StableDiffusionSafetyChecker, and the image processor of its CLIP."""
        self._model = model
        self._preparation = preparation

    def judge(self, pictures: "Sequence[np.ndarray]") -> list[tuple[int, ...]]:
        """For each picture (H, W, 3) uint8 the numbers of the concepts that crossed their thresholds, ascending.

        A picture that has any is one that diffusers' pipelines would black out.
        """
        import numpy as np
        import torch
        from PIL import Image

        if not pictures:
            return []
        model = self._model
        seen = self._preparation([Image.fromarray(each) for each in pictures], return_tensors="pt").pixel_values
        with torch.no_grad():
            pooled = model.vision_model(seen.to(model.device, model.dtype))[1]
            pictured = model.visual_projection(pooled)
            special = _scores(pictured, model.special_care_embeds, model.special_care_embeds_weights)
            scores = _scores(pictured, model.concept_embeds, model.concept_embeds_weights)
        # Scores count to three places, as in diffusers; a special one makes those after it stricter too.
        stricter = np.float32(STRICTER)
        care = [bool((np.round(row, 3) > 0).any()) for row in special]
        return [
            tuple(np.flatnonzero(np.round(row + stricter * due, 3) > 0).tolist())
            for row, due in zip(scores, care, strict=True)
        ]


def _scores(pictured: "torch.Tensor", concepts: "torch.Tensor", thresholds: "torch.Tensor") -> "np.ndarray":
    """(B, concepts) float32: cosines less thresholds."""
    import torch

    cosines = torch.nn.functional.normalize(pictured) @ torch.nn.functional.normalize(concepts).T
    scores: np.ndarray = cosines.cpu().float().numpy() - thresholds.cpu().float().numpy()
    return scores


def load_safety_checker(folder: Path, *, device: "str | torch.device", dtype: "torch.dtype") -> SafetyChecker:
    """From a folder as pipelines have it: `config.json`, `model.safetensors`, and `preprocessor_config.json` there or
    in `feature_extractor` beside it; without one, pictures are prepared as for CLIP.

    Raises WeightsUnavailable naming the file that is missing or damaged.
    """
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessorPil

    check_files(PART, folder)
    model = load_part(PART, folder, dtype, kind=StableDiffusionSafetyChecker).to(device).eval().requires_grad_(False)
    homes = [home for home in (folder, folder.parent / "feature_extractor") if (home / PREPARATION).is_file()]
    try:
        preparation = CLIPImageProcessorPil.from_pretrained(homes[0]) if homes else CLIPImageProcessorPil()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsUnavailable(f"{PART.name}/{PREPARATION} cannot be read: {error}") from error
    return SafetyChecker(model, preparation)
