"""The optimizers that a job may choose, and which parameters learn how fast."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from services.common.errors import InvalidArgument
from services.trainer.domain import Optimizer, TrainingConfig

if TYPE_CHECKING:
    import torch

NAMES = {
    Optimizer.ADAMW: "torch.optim.adamw.AdamW",
    Optimizer.ADAMW_8BIT: "bitsandbytes.optim.adamw.AdamW8bit",
    Optimizer.PRODIGY: "prodigyopt.prodigy.Prodigy",
    Optimizer.ADAFACTOR: "transformers.optimization.Adafactor",
}
"""As other tools write them into a LoRA's header."""


def make_optimizer(
    groups: "Sequence[tuple[list[torch.nn.Parameter], float]]", config: TrainingConfig
) -> "torch.optim.Optimizer":
    """The optimizer over groups of parameters, each with the ratio of its learning rate to the job's.

    Raises InvalidArgument for one that is not installed here.
    """
    import torch

    given: list[dict[str, Any]] = [{"params": parameters, "ratio": ratio} for parameters, ratio in groups]
    lr, decay = config.learning_rate, config.weight_decay
    match config.optimizer:
        case Optimizer.ADAMW:
            return torch.optim.AdamW(given, lr=lr, weight_decay=decay, fused=True)
        case Optimizer.ADAMW_8BIT if _are_on_a_cpu(groups):
            from services.trainer.worker.eight_bit import EightBitAdamW

            return EightBitAdamW(given, lr=lr, weight_decay=decay)
        case Optimizer.ADAMW_8BIT:
            try:
                from bitsandbytes.optim.adamw import AdamW8bit
            except ImportError as error:
                message = (
                    f"adamw_8bit needs bitsandbytes, which is not here (pip install 'atelier[eight-bit]'): {error}"
                )
                raise InvalidArgument(message, field="config.optimizer") from error
            eight: torch.optim.Optimizer = AdamW8bit(given, lr=lr, weight_decay=decay)  # type: ignore[no-untyped-call]  # it has no types
            return eight
        case Optimizer.PRODIGY:
            from prodigyopt import Prodigy  # type: ignore[import-untyped]  # it has no types

            # As its authors advise for diffusion models: bias correction, and a warm-up does not count as progress.
            prodigy: torch.optim.Optimizer = Prodigy(
                given, lr=lr, weight_decay=decay, use_bias_correction=True, safeguard_warmup=True
            )
            return prodigy
        case Optimizer.ADAFACTOR:
            from transformers.optimization import Adafactor

            # With the job's own learning rate and schedule, not the ones that it would make up.
            factored: torch.optim.Optimizer = Adafactor(
                given, lr=lr, weight_decay=decay, scale_parameter=False, relative_step=False, warmup_init=False
            )
            return factored


def _are_on_a_cpu(groups: "Sequence[tuple[list[torch.nn.Parameter], float]]") -> bool:
    return all(parameter.device.type == "cpu" for parameters, _ in groups for parameter in parameters)
