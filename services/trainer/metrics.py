"""The loss curve as a plot needs it, and the checkpoints that a job still has."""

from collections.abc import Container, Sequence
from dataclasses import replace

from services.trainer.domain import Checkpoint, Sample

Point = tuple[int, int, float]
"""(sequence, step, loss)."""


def latest_attempt(points: Sequence[Point]) -> Sequence[Point]:
    """Each step once, as it was taken last: an attempt that went on from an earlier step took some again."""
    return [points[place] for place in _lasting([step for _, step, _ in points])]


def kept_checkpoints(made: Sequence[Checkpoint], *, keep: int, promoted: Container[int] = ()) -> list[Checkpoint]:
    """The latest `keep`, the best by validation loss, and those of the `promoted` steps, in order; without those that a
    later attempt went back behind."""
    lasting = [made[place] for place in _lasting([checkpoint.step for checkpoint in made])]
    measured = [each for each in lasting if each.validation_loss is not None]
    best = min(measured, key=lambda each: (each.validation_loss, each.step), default=None)
    return [
        replace(each, is_best=each is best)
        for place, each in enumerate(lasting)
        if place >= len(lasting) - keep or each is best or each.step in promoted
    ]


def samples_of(drawn: Sequence[Sample], step: int) -> list[Sample]:
    """What the weights of a step drew of each prompt: the latest samples up to it, of the last attempt, by index."""
    latest = max((sample.step for sample in drawn if sample.step <= step), default=None)
    found = {sample.index: sample for sample in drawn if sample.step == latest}
    return [found[index] for index in sorted(found)]


def _lasting(steps: Sequence[int]) -> list[int]:
    """The places of steps after which none comes that is not larger."""
    places: list[int] = []
    for place in range(len(steps) - 1, -1, -1):
        if not places or steps[place] < steps[places[-1]]:
            places.append(place)
    return places[::-1]


def thin(points: Sequence[Point], limit: int) -> list[int]:
    """The sequence numbers, at most `limit`, of the points to draw.

    The first and the last are kept, and the lowest and the highest loss of each of (limit - 2) / 2 equal stretches
    between them: a stride would lose the spikes that one looks for in a loss curve.
    """
    if len(points) <= limit:
        return [sequence for sequence, _, _ in points]
    if limit < 4:
        return [points[-1][0]] if limit == 1 else [points[0][0], points[-1][0]][:limit]
    inner, buckets = points[1:-1], (limit - 2) // 2
    kept = {points[0][0], points[-1][0]}
    for bucket in range(buckets):
        stretch = inner[bucket * len(inner) // buckets : (bucket + 1) * len(inner) // buckets]
        # A loss that is not a number is the highest: it must be seen.
        ranked = [(loss if loss == loss else float("inf"), sequence) for sequence, _, loss in stretch]
        if ranked:
            kept |= {min(ranked)[1], max(ranked)[1]}
    return sorted(kept)
