"""Runs the benchmarks: all of them, or those named. Usage: python -m benchmarks [name ...]"""

import subprocess
import sys
from pathlib import Path

NOT_BENCHMARKS = {"__init__", "__main__", "harness", "house", "models"}


def main(names: list[str]) -> int:
    """Each in a process of its own, so that none warms another. Returns how many failed."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_BENCHMARKS)
    unknown = set(names) - set(found)
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(found)}", file=sys.stderr)
        return 2
    return sum(
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode != 0
        for name in names or found
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
