"""Pictures of a request, one by one: a grid's combinations, and wildcards chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.generator.domain import Folders, Plan, Settings, Shot, Syntax


@dataclass(frozen=True)
class Column:
    """A model of a request, and how strongly it is applied where it is a LoRA."""

    model_id: int
    lora_weight: float | None


def rows_of(settings: Settings) -> list[tuple[str, str, int]]:
    """Prompt, negative prompt and seed of each row, wildcards chosen: prompts by seeds, or the next seeds of a request
    without a grid. Raises InvalidArgument naming what is wrong with the wildcards."""
    grid = settings.grid
    prompts = (grid.prompts if grid else ()) or (settings.prompt,)
    if grid is None:
        seeds: Sequence[int] = range(settings.seed, settings.seed + settings.count)
    else:
        seeds = grid.seeds or (settings.seed,)
    pairs = [(prompt, seed) for prompt in prompts for seed in seeds]
    if settings.prompt_syntax is not Syntax.WEIGHTED:
        return [(prompt, settings.negative_prompt, seed) for prompt, seed in pairs]
    from services.diffusion.wildcards import choose

    lines = dict(settings.wildcards)
    return [
        (choose(prompt, lines, seed=seed), choose(settings.negative_prompt, lines, seed=seed), seed)
        for prompt, seed in pairs
    ]


def shots_of(settings: Settings, columns: Sequence[tuple[Plan, Folders]]) -> tuple[Shot, ...]:
    """Every picture of the request, row by row. Raises InvalidArgument as `rows_of`."""
    rows = rows_of(settings)
    return tuple(
        Shot(row * len(columns) + column, seed, prompt, negative, plan, folders)
        for row, (prompt, negative, seed) in enumerate(rows)
        for column, (plan, folders) in enumerate(columns)
    )
