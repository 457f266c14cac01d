"""From drawn pixels to pictures that are kept: what a mask holds back is put back, the safety checker is asked, the
file is made, stored and shown. And a grid's sheet behind its pictures."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from services.generator.checking import Checker
from services.generator.convert_settings import request_text
from services.generator.domain import Drawn, Generation, Picture, Pictured, Settings, Shot, Shown, Verdict
from services.generator.images import encode, parameters_text
from services.generator.keeping import Keeper
from services.generator.pasting import paste
from services.generator.planning import Planned
from services.generator.sheet import cell_of, make_sheet, sheet_picture, side_of
from services.generator.store import Store

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


class Finisher:
    """Keeps pictures in a store, with a checker where there is one."""

    def __init__(self, store: Store, keeper: Keeper, checker: Checker | None) -> None:
        self.store = store
        self.keeper = keeper
        self.checker = checker

    def begin(
        self, generation: Generation, planned: Sequence[Planned], shots: Sequence[Shot], shown: Shown
    ) -> "Finishing":
        return Finishing(self, generation, planned, shots, shown)


class Finishing:
    """Of one generation."""

    def __init__(
        self,
        finisher: Finisher,
        generation: Generation,
        planned: Sequence[Planned],
        shots: Sequence[Shot],
        shown: Shown,
    ) -> None:
        self._finisher = finisher
        self._id = generation.id
        self._settings = generation.settings
        self._planned = planned
        self._shots = shots
        self._shown = shown
        self._side = side_of(generation.settings, len(shots))
        self._cells: dict[int, Image.Image] = {}

    async def picture(self, drawn: Drawn) -> Pictured:
        """Stores a picture, and gives it."""
        pixels = drawn.pixels
        shown, begun = self._shown, self._settings.image_to_image
        if shown.mask is not None and shown.image is not None and begun is not None:
            pixels = await asyncio.to_thread(paste, pixels, shown.image, shown.mask, blur=begun.mask_blur)
        verdict = None
        if self._finisher.checker is not None:
            pixels, verdict = await self._finisher.checker.judge(pixels)
        data = await asyncio.to_thread(self._encode, drawn, pixels)
        picture = self._describe(drawn, pixels, data, verdict)
        return await self._keep(picture, data)

    async def sheet(self) -> Pictured | None:
        """Stores a grid's sheet, and gives it."""
        if self._settings.grid is None:
            return None
        columns = [(each.column, each.plan) for each in self._planned]
        data = await asyncio.to_thread(make_sheet, self._settings, columns, self._cells)
        picture = await asyncio.to_thread(sheet_picture, self._settings, columns, data)
        return await self._keep(picture, data)

    async def _keep(self, picture: Picture, data: bytes) -> Pictured:
        async with self._finisher.keeper.keep([data]) as [digest]:
            picture = replace(picture, sha256=digest)
            await self._finisher.store.add_pictures(self._id, [picture])
        return Pictured(picture, data)

    def _encode(self, drawn: Drawn, pixels: "np.ndarray") -> bytes:
        shot = self._shots[drawn.index]
        settings = self._settings
        if settings.grid is not None:
            self._cells[drawn.index] = cell_of(pixels, self._side)
            settings = self._alone(shot)
        parameters = parameters_text(settings, shot, sampler=drawn.sampler)
        return encode(pixels, settings, parameters=parameters, request=request_text(settings))

    def _alone(self, shot: Shot) -> Settings:
        """The settings that draw one picture of a grid without the others."""
        grid = self._settings.grid
        row = shot.index // len(self._planned)
        prompts = (grid.prompts if grid else ()) or (self._settings.prompt,)
        seeds = (grid.seeds if grid else ()) or (self._settings.seed,)
        column = self._planned[shot.index % len(self._planned)]
        return replace(
            self._settings,
            grid=None,
            count=1,
            prompt=prompts[row // len(seeds)],
            seed=shot.seed,
            model_id=column.column.model_id,
            lora_weight=_weight(column),
        )

    def _describe(self, drawn: Drawn, pixels: "np.ndarray", data: bytes, verdict: Verdict | None) -> Picture:
        shot = self._shots[drawn.index]
        column = self._planned[drawn.index % len(self._planned)]
        height, width = pixels.shape[-3:-1]
        return Picture(
            index=drawn.index,
            seed=drawn.seed,
            sha256="",
            width=width,
            height=height,
            size_bytes=len(data),
            content_type=self._settings.format.content_type,
            prompt=shot.prompt,
            negative_prompt=shot.negative_prompt,
            model_id=column.column.model_id,
            lora_weight=_weight(column),
            verdict=verdict,
            num_frames=len(pixels) if pixels.ndim == 4 else 0,
        )


def _weight(planned: Planned) -> float | None:
    """Of a column whose model is a LoRA."""
    return planned.plan.loras[0].weight if planned.is_lora else None
