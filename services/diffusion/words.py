"""Prompts through CLIP's text encoders, which the families put together in their own ways."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def read_words(tokenizer: Any, text_encoder: Any, prompts: Sequence[str], *, hidden: bool = False) -> Any:
    """The text encoder's whole output for prompts cut and padded to T tokens; `hidden`: with every layer's states."""
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    device = text_encoder.device
    mask = None
    if getattr(text_encoder.config, "use_attention_mask", False):
        mask = tokens.attention_mask.to(device)
    return text_encoder(tokens.input_ids.to(device), attention_mask=mask, output_hidden_states=hidden)


def without_blanks(states: "torch.Tensor", prompts: Sequence[str]) -> "torch.Tensor":
    """(B, ...) with zeros for prompts that are empty."""
    import torch

    said = torch.tensor([bool(prompt) for prompt in prompts], device=states.device)
    return states * said.view(-1, *[1] * (states.ndim - 1)).to(states.dtype)
