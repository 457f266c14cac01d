"""The loss curve as a picture."""

from collections.abc import Sequence
from pathlib import Path

from atelier.trainer.v1.training_pb2 import StepProgress


def draw_loss(file: Path, points: Sequence[StepProgress], *, title: str) -> Path:
    """Writes the raw and the smoothed loss over the steps as PNG and gives its path."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    steps = [point.step for point in points]
    axes.plot(steps, [point.loss for point in points], color="#b9c6e4", linewidth=0.9, label="each step")
    axes.plot(steps, [point.smoothed_loss for point in points], color="#2f5bb7", linewidth=2.0, label="smoothed")
    axes.set(title=title, xlabel="optimizer step", ylabel="loss")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    plt.close(figure)
    return file
