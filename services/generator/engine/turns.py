"""Who is next: which samples share the next pass of the denoiser."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Protocol, TypeVar

PATIENCE = 16
"""Passes that others may have in a row before a sample's own turn has come."""
WORTH = 0.85
"""Of the time a row, what a fuller pass takes where it is worth it."""
LONGER = 2.0
"""Times as long a fuller pass may take."""


class Candidate(Protocol):
    """A sample under way."""

    @property
    def lane(self) -> Hashable:
        """Samples of one lane can share a pass."""

    @property
    def remaining(self) -> int:
        """Passes before it."""

    @property
    def is_new(self) -> bool:
        """It has not been in a pass yet."""

    @property
    def rows(self) -> int:
        """Of the denoiser's batch."""

    @property
    def principal(self) -> str:
        """Who asked for it."""

    @property
    def passed_over(self) -> int:
        """Passes in a row that others had."""

    @property
    def number(self) -> int:
        """In the order of arrival."""


C = TypeVar("C", bound=Candidate)


def choose(
    samples: Iterable[C], *, limit: Callable[[Hashable], int], seconds: Callable[[Hashable, int], float]
) -> Sequence[C]:
    """The samples of the next pass, which `limit(lane)` bounds and which takes `seconds(lane, rows)`.

    Of each lane those go on that were in its last pass, then come those that end soonest; and as many of them as finish
    most work a second: the sum of 1 / remaining over the pass's time is largest (Smith 1956's rule, for a machine that
    works in batches), so that a short request is not held up by long ones. A caller's samples share one weight, so that
    sending more makes nobody faster. Where a device does many rows in much less than the time of one by one, more come
    along: that everybody's work takes less time is then worth that the pass lasts up to twice as long.
    Whoever was passed over PATIENCE times comes next, the longest waiting first, so nobody starves; and one that is
    new, so that whoever asks sees something begin.
    """
    lanes: dict[Hashable, list[C]] = {}
    counts: dict[str, int] = {}
    for sample in samples:
        lanes.setdefault(sample.lane, []).append(sample)
        counts[sample.principal] = counts.get(sample.principal, 0) + 1
    overdue = min(lanes, key=lambda lane: min(_urgency(each) for each in lanes[lane]), default=None)
    if overdue is not None and any(_is_due(each) for each in lanes[overdue]):
        lanes = {overdue: lanes[overdue]}  # the one that has waited for longest
    best: Sequence[C] = ()
    best_count, best_value = 0, -1.0
    for lane, own in lanes.items():
        there = sorted(own, key=_urgency)
        must = sum(_is_due(each) for each in there)
        there = there[: limit(lane)]
        work, rows = 0.0, 0
        for count, sample in enumerate(there, start=1):
            work += 1 / (sample.remaining * counts[sample.principal])
            rows += sample.rows
            value = work / seconds(lane, rows)
            if value > best_value and count >= min(must, limit(lane)):
                best, best_count, best_value = there, count, value
    return _filled(best, best_count, seconds)


def _filled(there: Sequence[C], fewest: int, seconds: Callable[[Hashable, int], float]) -> Sequence[C]:
    """At least the first `fewest` of a lane, and as many more as are worth it."""

    def pass_of(count: int) -> tuple[float, int]:
        rows = sum(sample.rows for sample in there[:count])
        return seconds(there[0].lane, rows), rows

    if not there:
        return there
    shortest, least = pass_of(fewest)
    for count in range(len(there), fewest, -1):
        longer, rows = pass_of(count)
        if longer <= LONGER * shortest and longer / rows <= WORTH * shortest / least:
            return there[:count]
    return there[:fewest]


def _is_due(sample: Candidate) -> bool:
    return sample.is_new or sample.passed_over >= PATIENCE


def _urgency(sample: Candidate) -> tuple[int, bool, bool, int, int]:
    """Those whose turn has come in the order in which it came, then new ones, then who was in the last pass, whose
    LoRAs are laid out, then who ends soonest."""
    overdue = max(0, sample.passed_over - PATIENCE + 1)
    return (-overdue, not sample.is_new, sample.passed_over > 0, sample.remaining, sample.number)
