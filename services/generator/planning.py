"""Which weights draw a request, and where they lie: asked of the Catalog and of the disk."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.common.errors import InvalidArgument
from services.diffusion.families.family import Size
from services.diffusion.load import read_size
from services.generator.catalog import Catalog
from services.generator.domain import DEFAULT_FRAMES, Folders, Plan, Settings, Wish
from services.generator.grids import Column, rows_of
from services.generator.weights import WeightsFinder, read_num_frames
from services.generator.wishes import check_alike, check_size, settle


@dataclass(frozen=True)
class Planned:
    """A column of a request (a model and its weight), with the weights that draw it; `folders` is None while some must
    be downloaded or unfolded first."""

    column: Column
    plan: Plan
    folders: Folders | None

    @property
    def is_lora(self) -> bool:
        return self.plan.has_as_lora(self.column.model_id)


class Planner:
    """Plans requests. Its errors are the Catalog's and the weights': NotFound, FailedPrecondition, WeightsUnavailable,
    Unavailable."""

    def __init__(self, catalog: Catalog, weights: WeightsFinder) -> None:
        self._catalog = catalog
        self._weights = weights

    async def settle(self, wish: Wish, begins: tuple[int, int] | None) -> tuple[Settings, list[Planned]]:
        """The settings that a wish means, and its columns. `begins` is the size of the picture that it begins with.

        Raises InvalidArgument too, naming the field.
        """
        field = "settings.lora_weight" if wish.grid is None else None
        ids = tuple(control.model_id for control in wish.controls)
        plan = await self._catalog.plan(wish.model_id, wish.lora_weight, wish.loras, ids, weight_field=field)
        folders = await asyncio.to_thread(self._weights.find, plan)
        size = await _size(plan, folders)
        frames = DEFAULT_FRAMES
        if wish.image_to_video is not None and folders is not None:
            frames = await asyncio.to_thread(read_num_frames, folders.pipeline)
        settings = settle(wish, plan, size, begins=begins, num_frames=frames)
        if size is not None:
            check_size(settings, plan.base.name, size)
        planned = [Planned(Column(wish.model_id, settings.lora_weight), plan, folders)]
        if settings.grid is not None:
            check = [*planned]
            planned = await self.columns(settings)
            await self._check_alike([*check, *planned])
            if not any(each.is_lora for each in planned):
                _check_no_weights(wish)
        rows = await asyncio.to_thread(rows_of, settings)  # raises what is wrong with wildcards
        if settings.grid is not None:
            settings = replace(settings, count=len(planned) * len(rows))
        return settings, planned

    async def columns(self, settings: Settings) -> list[Planned]:
        """The columns of accepted settings: of a grid, models by weights, where a model that is no LoRA has one."""
        grid = settings.grid
        weights: Sequence[float | None] = (grid.lora_weights if grid else ()) or (settings.lora_weight,)
        planned: list[Planned] = []
        for id in (grid.model_ids if grid else ()) or (settings.model_id,):
            for weight in weights:
                column = await self._column(settings, Column(id, weight))
                planned.append(column)
                if not column.is_lora:
                    break
        return planned

    async def _column(self, settings: Settings, column: Column) -> Planned:
        ids = tuple(control.model_id for control in settings.controls)
        plan = await self._catalog.plan(column.model_id, column.lora_weight, settings.loras, ids, weight_field=None)
        return Planned(column, plan, await asyncio.to_thread(self._weights.find, plan))

    async def plan(self, model_id: int) -> tuple[Plan, Folders]:
        """A model by itself, its weights fetched."""
        plan = await self._catalog.plan(model_id, None, ())
        return plan, await asyncio.to_thread(self._weights.fetch, plan)

    async def fetch(self, settings: Settings, planned: Sequence[Planned]) -> list[Planned]:
        """The same with all weights on this machine. What could not be known before is checked now.

        Raises InvalidArgument where a model does not draw the settings' size.
        """
        if all(each.folders is not None for each in planned):
            return list(planned)
        fetched = []
        for each in planned:
            folders = each.folders or await asyncio.to_thread(self._weights.fetch, each.plan)
            fetched.append(replace(each, folders=folders))
            size = await _size(each.plan, folders)
            if size is not None:
                check_size(settings, each.plan.base.name, size)
        await self._check_alike(fetched)
        return fetched

    async def _check_alike(self, planned: Sequence[Planned]) -> None:
        sizes = [(each.plan, await _size(each.plan, each.folders)) for each in planned]
        check_alike([(plan, size) for plan, size in sizes if size is not None])


async def _size(plan: Plan, folders: Folders | None) -> Size | None:
    if folders is None:
        return None
    return await asyncio.to_thread(read_size, folders.pipeline, family=plan.family)


def _check_no_weights(wish: Wish) -> None:
    """Raises InvalidArgument where weights are asked for and no model is a LoRA."""
    rule = "must not be set: no model of the grid is a LoRA"
    if wish.grid is not None and wish.grid.lora_weights:
        raise InvalidArgument(rule, field="settings.grid.lora_weights")
    if wish.lora_weight is not None:
        raise InvalidArgument(rule, field="settings.lora_weight")
