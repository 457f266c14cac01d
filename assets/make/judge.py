"""Names what a picture shows: a small classifier of the concepts, to score the model and the demo. Not shipped.

It learns the real pictures, softened as generated ones are, also greyed and as outlines, and the icons of the same
things: so it can tell whether a picture in the icons' style still shows its subject.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from assets.make.concepts import concepts
from assets.make.data import icons, pictures, to_tensor
from assets.make.demo import DEMO_ICONS, PROMPT_ICONS, PROMPTS
from assets.make.style import fade, soften, tint
from assets.style_check import build
from assets.style_check import to_tensor as images_to_tensor

WIDTH = 32


def icons_of_concepts() -> dict[str, str]:
    """Each icon's name to the caption of the same thing, where the names agree."""
    found = dict(DEMO_ICONS) | dict(zip(PROMPT_ICONS, PROMPTS, strict=True))
    names = {**icons(demo=True), **icons(demo=False)}
    for short_name, (caption, _) in concepts().items():
        for name in (caption.replace(" ", "-"), short_name.replace("_", "-")):
            if name in names and caption not in found.values():
                found.setdefault(name, caption)
    return found


def outline(images: torch.Tensor) -> torch.Tensor:
    """Dark lines on white where the picture has edges."""
    grey = images.mean(dim=1, keepdim=True)
    wide = F.max_pool2d(grey, 3, 1, 1) + F.max_pool2d(-grey, 3, 1, 1)
    return (1 - 2.5 * wide).clamp(-1, 1).expand(-1, 3, -1, -1)


def train(vae_folder: Path, out: Path, *, steps: int = 900, batch: int = 48, seed: int = 0) -> None:
    """Trains on the concepts (colour words apart) and saves weights and labels."""
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(vae_folder).eval()
    labels = sorted({caption for caption, _ in concepts().values()})
    seen = [picture for picture in pictures() if picture.caption in labels]
    painted = [p for p in pictures() if p.caption not in labels and p.concept in labels]
    drawn = {**icons(demo=True), **icons(demo=False)}
    icon_names = icons_of_concepts()
    print(f"{len(labels)} labels, {len(painted)} in other colours, {len(icon_names)} icons", flush=True)
    colour = to_tensor([p.pixels for p in seen + painted])
    colour_labels = torch.tensor([labels.index(p.caption) for p in seen] + [labels.index(p.concept) for p in painted])
    chances = torch.tensor([1.0] * len(seen) + [0.1] * len(painted))
    line = to_tensor([drawn[name] for name in icon_names])
    line_labels = torch.tensor([labels.index(caption) for caption in icon_names.values()])
    model = build(len(labels), WIDTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.multinomial(chances, batch * 3 // 4)
        images = fade(colour[rows], 0.15)
        images[: batch // 8] = outline(images[: batch // 8])
        icon_rows = torch.randint(len(line), (batch // 4,))
        images = soften(tint(torch.cat([images, line[icon_rows]]), 0.1), vae)
        wanted = torch.cat([colour_labels[rows], line_labels[icon_rows]])
        logits = model(images)
        loss = F.cross_entropy(logits, wanted, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            right = (logits.argmax(1) == wanted).float().mean().item()
            print(f"{step} loss {loss.item():.3f} right {right:.2f}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "judge.safetensors")
    (out / "labels.json").write_text(json.dumps(labels))


class Judge:
    """The trained classifier and its labels."""

    def __init__(self, folder: Path) -> None:
        self.labels: list[str] = json.loads((folder / "labels.json").read_text())
        self.model: nn.Module = build(len(self.labels), WIDTH)
        self.model.load_state_dict(load_file(folder / "judge.safetensors"))
        self.model.eval()

    @torch.no_grad()
    def ranks(self, images: list[Image.Image], captions: list[str]) -> list[int]:
        """How many labels score above the caption, for each picture; 0 is right at once."""
        logits = self.model(images_to_tensor(images))
        wanted = logits[torch.arange(len(images)), [self.labels.index(caption) for caption in captions]]
        ranks: list[int] = (logits > wanted[:, None]).sum(dim=1).tolist()
        return ranks


def top(ranks: list[int], k: int) -> float:
    """The share of pictures whose caption is among the first k."""
    return sum(rank < k for rank in ranks) / len(ranks)
