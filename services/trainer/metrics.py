"""The loss curve as a plot needs it, and the checkpoints that a job still has."""

from collections.abc import Sequence

from services.trainer.domain import Checkpoint

Point = tuple[int, int, float]
"""(sequence, step, loss)."""


def latest_attempt(points: Sequence[Point]) -> Sequence[Point]:
    """The points of the last attempt: a job that went back to the queue began again at its first step."""
    return points[_began([step for _, step, _ in points]) :]


def kept_checkpoints(made: Sequence[Checkpoint], *, keep: int) -> list[Checkpoint]:
    """The latest `keep` of the last attempt: a worker deletes the weights of those before."""
    return list(made[_began([checkpoint.step for checkpoint in made]) :][-keep:])


def _began(steps: Sequence[int]) -> int:
    """Where the last rising run of steps begins."""
    falls = [index for index in range(1, len(steps)) if steps[index] <= steps[index - 1]]
    return falls[-1] if falls else 0


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
