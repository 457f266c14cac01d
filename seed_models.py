"""Adds the base models (Stable Diffusion 1.5, XL, Video: ids 1, 2, 3) and the starter model, as `atelier seed` does."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV_PYTHON = HERE / ".venv" / "bin" / "python"


def main() -> None:
    try:
        from atelier_client.cli import app
    except ImportError as error:
        if not VENV_PYTHON.exists():
            raise SystemExit(f"{error}. Install first: `make up` and `make demo` do so.") from error
        if Path(sys.prefix).resolve() == (HERE / ".venv").resolve():
            raise
        os.execv(VENV_PYTHON, [str(VENV_PYTHON), *sys.argv])
    app(["seed", *sys.argv[1:]], prog_name="seed_models.py")


if __name__ == "__main__":
    main()
