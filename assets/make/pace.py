"""Two cores shared with other work: fewer threads while somebody else needs a core.

Threads that wait for one another at every operator are slowed far more than their share when one of them is put
aside, so a training step on one free core beats the same step on two busy ones.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch


class Pace:
    """Looks every few seconds at how many cores others keep busy, and sets torch's threads to the rest."""

    def __init__(self, every: float = 4.0) -> None:
        self.every, self.cores = every, os.cpu_count() or 1
        self.at, self.busy, self.own = time.monotonic(), busy_seconds(), time.process_time()

    def tune(self) -> None:
        """Called once a step; does nothing between its looks, and nothing where there is no /proc."""
        now = time.monotonic()
        if now - self.at < self.every:
            return
        busy, own = busy_seconds(), time.process_time()
        others = ((busy - self.busy) - (own - self.own)) / (now - self.at)
        self.at, self.busy, self.own = now, busy, own
        torch.set_num_threads(max(1, self.cores - round(others)))


def busy_seconds() -> float:
    """Seconds all cores have spent on work since the machine started."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system = (int(v) for v in stat.read_text().split("\n", 1)[0].split()[1:4])
    return (user + nice + system) / float(os.sysconf("SC_CLK_TCK"))
