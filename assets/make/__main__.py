"""`python -m assets.make <step>`: makes the starter model and all that is beside it again, in this order:

fetch        the pinned npm packages into the cache, and the icons drawn
autoencoder  --steps 3600
base         --steps 6500   the denoiser and the text encoder; goes on where it stopped
judge        the classifier of concepts, for the scores
style        the style check
export       the shipped folder
demo         the demo's images, captions and prompts
scores       top-1 and top-5 of the shipped model, and the README's sheet
lora         the demo's fine-tune, tried and scored
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from assets.make.data import CACHE

ASSETS = Path(__file__).parents[1]
WORK = CACHE / "work"


def main() -> None:
    """Runs one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = ["fetch", "autoencoder", "base", "style", "export", "demo", "scores", "lora"]
    parser.add_argument("step", choices=steps)
    parser.add_argument("--steps", type=int, default=6500, help="of autoencoder and base")
    parser.add_argument("--resume", action="store_true", help="autoencoder: go on from its last weights")
    parser.add_argument("--work", type=Path, default=WORK, help="where checkpoints go")
    options = parser.parse_args()
    run(options.step, options.work, options.steps, options.resume)


def run(step: str, work: Path, steps: int, resume: bool) -> None:
    """Each step imports what it needs: only `fetch` has to work before anything is there."""
    vae, base = work / "vae", work / "base"
    if step == "fetch":
        from assets.make.data import fetch

        fetch()
    elif step == "autoencoder":
        from assets.make import autoencoder

        autoencoder.train(vae, steps=steps, start_from=vae if resume else None)
    elif step == "base":
        from assets.make import base as denoiser

        denoiser.train(vae, base, steps=steps)
    elif step == "style":
        from assets.make import style

        print(json.dumps(style.train(vae, ASSETS / "style-check"), indent=1))
    elif step == "export":
        from assets.make.export import export

        print(f"{export(vae, base, ASSETS / 'starter-model') / 2**20:.1f} MiB")
    elif step == "demo":
        from assets.make.demo import write

        write(ASSETS)
    elif step == "scores":
        from assets.make.scores import score_base

        print(json.dumps(score_base(ASSETS / "starter-model"), indent=1))
    elif step == "lora":
        from assets.make.scores import score_lora

        print(json.dumps(score_lora(ASSETS / "starter-model", work), indent=1))


if __name__ == "__main__":
    main()
