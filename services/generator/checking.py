"""The safety checker, where this deployment has one: on a thread of its own, one picture after another."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from services.diffusion.device import work_beside
from services.diffusion.safety import SafetyChecker, load_safety_checker
from services.generator.domain import Verdict

if TYPE_CHECKING:
    import numpy as np
    import torch

Action = Literal["tell", "blank"]
MOST_FRAMES = 8
"""Of a clip, from its first to its last, that are looked at."""


class Checker:
    """Judges pictures, and blanks those that it flags where the deployment wants that."""

    def __init__(self, checker: SafetyChecker, thread: ThreadPoolExecutor, action: Action) -> None:
        self._checker = checker
        self._thread = thread
        self._action = action

    @classmethod
    async def open(cls, folder: Path, *, device: str, dtype: "torch.dtype", action: Action) -> Self:
        """Of a folder with `safety_checker/`, and `feature_extractor/` beside it. Raises WeightsUnavailable naming what
        is missing or damaged."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="safety", initializer=work_beside)
        loop = asyncio.get_running_loop()
        home = folder / "safety_checker"
        loaded = await loop.run_in_executor(thread, lambda: load_safety_checker(home, device=device, dtype=dtype))
        return cls(loaded, thread, action)

    async def judge(self, pixels: "np.ndarray") -> "tuple[np.ndarray, Verdict]":
        """A picture (H, W, 3) uint8 or a clip (F, H, W, 3) uint8 as it is to be kept, and what was found in it."""
        verdict = await asyncio.get_running_loop().run_in_executor(self._thread, self._judge, pixels)
        return (pixels * 0 if verdict.is_flagged and self._action == "blank" else pixels), verdict

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _judge(self, pixels: "np.ndarray") -> Verdict:
        frames = [pixels]
        if pixels.ndim == 4:
            count = min(MOST_FRAMES, len(pixels))
            frames = [pixels[round(place * (len(pixels) - 1) / max(1, count - 1))] for place in range(count)]
        found = {concept for concepts in self._checker.judge(frames) for concept in concepts}
        return Verdict(tuple(sorted(found)))
