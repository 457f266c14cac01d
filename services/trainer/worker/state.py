"""What training goes on from: the parameters, the optimizer and the scaler, exactly as they were after a step.

Nothing else has a memory: the order of the pictures, their noise, the timesteps and the dropout of a step are functions
of the seed and the step's number, and caches are made again from the snapshot. So on one device with one set of
libraries, training that goes on from a state ends with the very bytes of training that was never interrupted.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.blobs import BlobStore
from services.common.errors import AtelierError, DataLoss
from services.trainer.domain import Checkpoint, ModelFile, TrainingConfig
from services.trainer.worker.methods import Trainee, sort_header
from services.trainer.worker.plan import Plan

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

FORMAT = "1"
NAME = "training_state.safetensors"


@dataclass(frozen=True)
class Learner:
    """What changes with each step. `optimizer` is accelerate's where a scaler works, else torch's own."""

    parameters: "list[torch.nn.Parameter]"
    optimizer: "torch.optim.Optimizer"
    scaler: Any | None

    def save(self, path: Path, *, job_id: str, step: int) -> None:
        """Writes the state after `step` to a new safetensors file."""
        from safetensors.torch import save_file

        tensors = {f"parameter.{place}": each.detach().cpu() for place, each in enumerate(self.parameters)}
        for place, memory in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{name}": _as_tensor(value).cpu() for name, value in memory.items()}
        scaler = self.scaler.state_dict() if self.scaler is not None else {}
        about = {"format": FORMAT, "atelier_job_id": job_id, "step": str(step), "scaler": json.dumps(scaler)}
        save_file(tensors, path, metadata=about)
        sort_header(path)

    def load(self, path: Path, *, job_id: str, step: int) -> None:
        """Stands where `save` did. Raises DataLoss when the file is not this job's state after this step."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                found = (about.get("format"), about.get("atelier_job_id"), about.get("step"))
                if found != (FORMAT, job_id, str(step)):
                    raise DataLoss(f"is the state of another training: {found}", reason="STATE_UNUSABLE")
                self._restore({name: file.get_tensor(name) for name in file.keys()}, json.loads(about["scaler"]))  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise DataLoss(f"cannot be used: {error}", reason="STATE_UNUSABLE") from error

    def _restore(self, tensors: "dict[str, torch.Tensor]", scaler: dict[str, Any]) -> None:
        import torch

        memories: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, place, what = name.split(".", 2)
                memories.setdefault(int(place), {})[what] = value
        values = [tensors[f"parameter.{place}"] for place in range(len(self.parameters))]
        for parameter, value in zip(self.parameters, values, strict=True):
            if parameter.shape != value.shape:
                raise ValueError(f"a parameter is {tuple(value.shape)} and not {tuple(parameter.shape)}")
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": memories, "param_groups": groups})
        if self.scaler is not None and scaler:
            self.scaler.load_state_dict(scaler)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)


def make_learner(trainee: Trainee, config: TrainingConfig, plan: Plan, accelerator: "Accelerator") -> Learner:
    """The optimizer of a job before its first step."""
    import torch

    # A LoRA is hundreds of small tensors. As views of one, they are clipped, updated and cleared in one go. A whole
    # model has too many weights to hold their gradients while there are none.
    parameters = [as_one(trainee.parameters)] if trainee.is_lora else trainee.parameters
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(
        parameters, lr=plan.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    if accelerator.scaler is not None:  # its wrapper costs most of a millisecond a step; only fp16's scaling needs it
        optimizer = accelerator.prepare_optimizer(optimizer)
    return Learner(parameters, optimizer, accelerator.scaler)


def as_one(parameters: "Sequence[torch.nn.Parameter]") -> "torch.nn.Parameter":
    """A flat parameter of which all `parameters` (one dtype, one device) become views, and their gradients too."""
    import torch

    whole = torch.nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    whole.grad = torch.zeros_like(whole)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, data, grad in zip(parameters, whole.data.split(sizes), whole.grad.split(sizes), strict=True):
        parameter.data, parameter.grad = data.view(parameter.shape), grad.view(parameter.shape)
    return whole


def store_state(learner: Learner, blobs: BlobStore, scratch: Path, *, job_id: str, step: int) -> ModelFile:
    """Puts the state after `step` into the blob store: written aside, fsynced and renamed. Raises OSError."""
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / f"state-{step}.safetensors"
    try:
        learner.save(path, job_id=job_id, step=step)
        digest, size = blobs.put_file(path)
    finally:
        path.unlink(missing_ok=True)
    return ModelFile(NAME, digest, size)


def restore(
    learner: Learner, checkpoints: Sequence[Checkpoint], blobs: BlobStore, *, job_id: str
) -> tuple[Checkpoint | None, list[str]]:
    """Stands where the first of `checkpoints` that is whole does; None where none is. And why the others are not."""
    troubles = []
    for checkpoint in checkpoints:
        if checkpoint.state is None:
            continue
        try:
            if not blobs.verify(checkpoint.state.sha256):
                raise DataLoss("is damaged: its bytes have changed", reason="STATE_UNUSABLE")
            learner.load(blobs.path(checkpoint.state.sha256), job_id=job_id, step=checkpoint.step)
        except AtelierError as error:
            troubles.append(f"the state of step {checkpoint.step} {error.message}")
        else:
            return checkpoint, troubles
    return None, troubles


def _as_tensor(value: "torch.Tensor | float") -> "torch.Tensor":
    import torch

    return value.detach() if isinstance(value, torch.Tensor) else torch.tensor(value)
