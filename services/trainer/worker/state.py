"""What training goes on from: the parameters, their average, the optimizer and the scaler, exactly as they were after a
step; and what was measured until then.

Nothing else has a memory: the order of the pictures, their noise, the timesteps and the dropout of a step are functions
of the seed and the step's number, and caches are made again from the snapshot. So on one device with one set of
libraries, training that goes on from a state ends with the very bytes of training that was never interrupted.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from services.common.blobs import BlobStore
from services.common.errors import AtelierError, DataLoss
from services.trainer.domain import Checkpoint, ModelFile, Optimizer, TrainingConfig
from services.trainer.worker.average import Average
from services.trainer.worker.fused import FusedStep
from services.trainer.worker.methods import Trainee, sort_header
from services.trainer.worker.optimizers import make_optimizer
from services.trainer.worker.plan import Plan

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

FORMAT = "2"
NAME = "training_state.safetensors"


QUANTIZED = "__bnb_optimizer_quant_state__"  # under which bitsandbytes keeps its tensors one level deeper

Measured: TypeAlias = list[tuple[int, float]]
"""(step, loss) of every validation so far."""


@dataclass(frozen=True)
class Learner:
    """What changes with each step. `optimizer` is accelerate's where a scaler works, else torch's own."""

    parameters: "list[torch.nn.Parameter]"
    optimizer: "torch.optim.Optimizer"
    scaler: Any | None
    average: Average | None = None
    is_flat: bool = False
    """The parameters are views of few large ones, and so are their gradients, which stay."""
    fused: FusedStep | None = None
    """Where the backward pass applies the gradients itself."""

    def backward(self, accelerator: "Accelerator", loss: "torch.Tensor", *, is_last: bool) -> None:
        """The gradients of a part of a step; with those of the last part the step may be made."""
        with self.fused.last_backward() if self.fused is not None and is_last else nullcontext():
            accelerator.backward(loss)

    def finish_step(self, accelerator: "Accelerator", max_grad_norm: float) -> "torch.Tensor":
        """Makes the step, unless the backward pass has, and gives the norm that the gradients had; 0 clips nothing."""
        if self.fused is not None:
            return self.fused.norm()
        norm: torch.Tensor = accelerator.clip_grad_norm_(self.parameters, max_grad_norm or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self.is_flat)
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model as it would be saved: the average of its weights, where there is one."""
        if self.average is None:
            yield
            return
        with self.average.applied():
            yield

    def save(self, path: Path, *, job_id: str, step: int, measured: Measured) -> None:
        """Writes the state after `step` to a new safetensors file."""
        from safetensors.torch import save_file

        tensors = {f"parameter.{place}": each.detach().cpu() for place, each in enumerate(self.parameters)}
        if self.average is not None:
            tensors |= {f"average.{place}": each.cpu() for place, each in enumerate(self.average.values)}
        memory, numbers = _flattened(self.optimizer.state_dict()["state"])
        tensors |= {f"optimizer.{name}": value.cpu() for name, value in memory.items()}
        groups = [_plain(group) for group in self.optimizer.state_dict()["param_groups"]]
        about = {
            "format": FORMAT,
            "atelier_job_id": job_id,
            "step": str(step),
            "scaler": json.dumps(self.scaler.state_dict() if self.scaler is not None else {}),
            "optimizer": json.dumps({"numbers": numbers, "groups": groups}, sort_keys=True),
            "measured": json.dumps(measured),
        }
        save_file(tensors, path, metadata=about)
        sort_header(path)

    def load(self, path: Path, *, job_id: str, step: int) -> Measured:
        """Stands where `save` did, and gives what had been measured. Raises DataLoss when the file is not this job's
        state after this step."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                found = (about.get("format"), about.get("atelier_job_id"), about.get("step"))
                if found != (FORMAT, job_id, str(step)):
                    raise DataLoss(f"is the state of another training: {found}", reason="STATE_UNUSABLE")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            self._restore(tensors, json.loads(about["optimizer"]), json.loads(about["scaler"]))
            return [(int(step), float(loss)) for step, loss in json.loads(about["measured"])]
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DataLoss(f"cannot be used: {error}", reason="STATE_UNUSABLE") from error

    def _restore(self, tensors: "dict[str, torch.Tensor]", optimizer: Any, scaler: dict[str, Any]) -> None:
        import torch

        values = [tensors[f"parameter.{place}"] for place in range(len(self.parameters))]
        for parameter, value in zip(self.parameters, values, strict=True):
            if parameter.shape != value.shape:
                raise ValueError(f"a parameter is {tuple(value.shape)} and not {tuple(parameter.shape)}")
        memory = {name.removeprefix("optimizer."): value for name, value in tensors.items()}
        memory = {name: value for name, value in memory.items() if f"optimizer.{name}" in tensors}
        groups = self.optimizer.state_dict()["param_groups"]
        groups = [here | there for here, there in zip(groups, optimizer["groups"], strict=True)]
        state = _unflattened(memory, optimizer["numbers"])
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if self.scaler is not None and scaler:
            self.scaler.load_state_dict(scaler)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)
            for place, mean in enumerate(self.average.values if self.average else ()):
                mean.copy_(tensors[f"average.{place}"])


def _flattened(state: Mapping[int, Mapping[str, Any]]) -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
    """An optimizer's memory as tensors and plain numbers, named `place.what`."""
    import torch

    flat: dict[str, Any] = {}
    for place, memory in state.items():
        deeper = {f"{QUANTIZED}.{name}": value for name, value in memory.get(QUANTIZED, {}).items()}
        flat |= {f"{place}.{name}": value for name, value in {**memory, **deeper}.items() if name != QUANTIZED}
    # All parameters share bitsandbytes' two maps of 256 numbers; a safetensors file shares nothing.
    tensors = {
        name: value.detach().clone() if ".qmap" in name else value.detach()
        for name, value in flat.items()
        if isinstance(value, torch.Tensor)
    }
    return tensors, {name: value for name, value in flat.items() if name not in tensors}


def _unflattened(tensors: "Mapping[str, torch.Tensor]", numbers: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **numbers}.items():
        place, what = name.split(".", 1)
        memory = state.setdefault(int(place), {})
        if what.startswith(f"{QUANTIZED}."):
            memory, what = memory.setdefault(QUANTIZED, {}), what.removeprefix(f"{QUANTIZED}.")
        memory[what] = value
    return state


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """What of an optimizer's group is a number: Prodigy keeps there what it has found out of the step size."""
    return {name: value for name, value in group.items() if isinstance(value, int | float) and name != "params"}


def make_learner(trainee: Trainee, config: TrainingConfig, plan: Plan, accelerator: "Accelerator") -> Learner:
    """The optimizer of a job before its first step. Raises InvalidArgument for one that is not installed here."""
    groups = [(parameters, ratio) for parameters, ratio in trainee.groups(config) if parameters]
    # A LoRA is hundreds of small tensors. As views of one, they are clipped, updated and cleared in one go. A whole
    # model has too many weights to hold their gradients while there are none, and Adafactor wants matrices.
    is_flat = trainee.is_lora and config.optimizer is not Optimizer.ADAFACTOR
    if is_flat:
        groups = [([as_one(parameters)], ratio) for parameters, ratio in groups]
    parameters = [each for some, _ in groups for each in some]
    optimizer = make_optimizer(groups, config)
    if accelerator.scaler is not None:  # its wrapper costs most of a millisecond a step; only fp16's scaling needs it
        optimizer = accelerator.prepare_optimizer(optimizer)
    average = Average(parameters, config.ema_decay) if config.ema_decay else None
    is_fused = not trainee.is_lora and accelerator.scaler is None and steps_inside_backward(config)
    fused = FusedStep(parameters, optimizer) if is_fused else None
    return Learner(parameters, optimizer, accelerator.scaler, average, is_flat, fused)


def steps_inside_backward(config: TrainingConfig) -> bool:
    """True where a whole model's gradients need not wait for one another: nothing is clipped by the norm of all, and
    the optimizer is not Prodigy, whose step size comes from all of them."""
    return not config.max_grad_norm and config.optimizer is not Optimizer.PRODIGY


def as_one(parameters: "Sequence[torch.nn.Parameter]") -> "torch.nn.Parameter":
    """A flat parameter of which all `parameters` (one dtype, one device) become views, and their gradients too."""
    import torch

    whole = torch.nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    whole.grad = torch.zeros_like(whole)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, data, grad in zip(parameters, whole.data.split(sizes), whole.grad.split(sizes), strict=True):
        parameter.data, parameter.grad = data.view(parameter.shape), grad.view(parameter.shape)
    return whole


def store_state(
    learner: Learner, blobs: BlobStore, scratch: Path, *, job_id: str, step: int, measured: Measured
) -> ModelFile:
    """Puts the state after `step` into the blob store: written aside, fsynced and renamed. Raises OSError."""
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / f"state-{step}.safetensors"
    try:
        learner.save(path, job_id=job_id, step=step, measured=measured)
        digest, size = blobs.put_file(path)
    finally:
        path.unlink(missing_ok=True)
    return ModelFile(NAME, digest, size)


def restore(
    learner: Learner, checkpoints: Sequence[Checkpoint], blobs: BlobStore, *, job_id: str
) -> tuple[Checkpoint | None, Measured, list[str]]:
    """Stands where the first of `checkpoints` that is whole does; None where none is. With what had been measured by
    then, and why the others are not whole."""
    troubles = []
    for checkpoint in checkpoints:
        if checkpoint.state is None:
            continue
        try:
            if not blobs.verify(checkpoint.state.sha256):
                raise DataLoss("is damaged: its bytes have changed", reason="STATE_UNUSABLE")
            measured = learner.load(blobs.path(checkpoint.state.sha256), job_id=job_id, step=checkpoint.step)
        except AtelierError as error:
            troubles.append(f"the state of step {checkpoint.step} {error.message}")
        else:
            return checkpoint, measured, troubles
    return None, [], troubles
