"""How long a pass of the denoiser takes, learnt from those that were made."""

from dataclasses import dataclass

DECAY = 0.97
"""What an observation counts after each next one: some 30 are remembered."""
DISTURBED = 0.1
"""What one counts that was longer than expected: something else wanted the device too."""
LEAST_FIXED = 0.02
"""Share of a pass's time that does not hang on its rows, at least: so that more rows are never worse than fewer."""


@dataclass
class Pace:
    """Seconds of a pass as a + b * rows, of one base and size: by least squares over the latest passes, those that took
    longer than expected counting little (expectiles, Newey and Powell 1987). Full passes come when there is most to do
    beside them, and would seem dearer than they are."""

    _weight: float = 0.0
    _rows: float = 0.0
    _seconds: float = 0.0
    _rows_rows: float = 0.0
    _rows_seconds: float = 0.0
    _passes: int = 0

    def note(self, rows: int, seconds: float) -> None:
        """A pass was made. The first one is not counted: it warms caches up."""
        self._passes += 1
        if self._passes == 1:
            return
        counts = DISTURBED if self._weight and seconds > self.seconds(rows) else 1.0
        for name, value in (
            ("_weight", 1.0),
            ("_rows", rows),
            ("_seconds", seconds),
            ("_rows_rows", rows * rows),
            ("_rows_seconds", rows * seconds),
        ):
            setattr(self, name, getattr(self, name) * DECAY + counts * value)

    def seconds(self, rows: int) -> float:
        """What a pass of so many rows will take. Until something is known, rows are taken to be nearly free: so that
        they are tried."""
        if self._weight == 0:
            return 1.0 + 0.1 * rows
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        spread = self._rows_rows / self._weight - mean_rows**2
        together = self._rows_seconds / self._weight - mean_rows * mean_seconds
        # Where all had the same number of rows, half of the time is taken to be theirs.
        slope = together / spread if spread > 1e-3 else mean_seconds / 2 / mean_rows
        slope = min(max(slope, 0.0), mean_seconds * (1 - LEAST_FIXED) / mean_rows)
        return max(mean_seconds + slope * (rows - mean_rows), mean_seconds * LEAST_FIXED)
