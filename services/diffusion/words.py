"""Prompts through CLIP's text encoders, which the families put together in their own ways."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from services.diffusion.prompts import chunks_of, pad_chunks, weigh

if TYPE_CHECKING:
    import torch

    from services.diffusion.load import Components


def read_prompts(
    components: "Components", prompts: Sequence[str], *, layer: int | None = None, weighted: bool = False
) -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """Of each text encoder the states (B, T, D) and its first answer, the sentence's where it has a projection (B, P).

    The states are those behind a layer, counted from the end, or behind all and the last norm. Prompts are cut and
    padded to what the encoder reads at a time, T tokens; `weighted` reads them as `services.diffusion.prompts` does,
    in as many chunks as the longest wants, n T tokens, and the sentence is the first chunk's.
    """
    tokenizers = components.tokenizers
    if not weighted:
        return [
            _told(read_words(tokenizer, encoder, prompts, hidden=layer is not None), layer)
            for tokenizer, encoder in zip(tokenizers, components.text_encoders, strict=True)
        ]
    split = [[chunks_of(tokenizer, prompt) for prompt in prompts] for tokenizer in tokenizers]
    count = max(len(chunks) for each in split for chunks in each)
    answers = []
    for tokenizer, encoder, each in zip(tokenizers, components.text_encoders, split, strict=True):
        chunks = pad_chunks(tokenizer, each, count).to(encoder.device)
        states, first = _told(_read(encoder, chunks.ids, chunks.mask, hidden=layer is not None), layer)
        whole = weigh(states, chunks.weights).unflatten(0, (len(prompts), count)).flatten(1, 2)
        answers.append((whole, first.unflatten(0, (len(prompts), count))[:, 0]))
    return answers


def _told(answer: Any, layer: int | None) -> "tuple[torch.Tensor, torch.Tensor]":
    return (answer[0] if layer is None else answer.hidden_states[layer]), answer[0]


def read_words(tokenizer: Any, text_encoder: Any, prompts: Sequence[str], *, hidden: bool = False) -> Any:
    """The text encoder's whole output for prompts cut and padded to T tokens; `hidden`: with every layer's states."""
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return _read(text_encoder, tokens.input_ids, tokens.attention_mask, hidden=hidden)


def _read(text_encoder: Any, ids: "torch.Tensor", mask: "torch.Tensor", *, hidden: bool) -> Any:
    device = text_encoder.device
    wanted = mask.to(device) if getattr(text_encoder.config, "use_attention_mask", False) else None
    return text_encoder(ids.to(device), attention_mask=wanted, output_hidden_states=hidden)


def without_blanks(states: "torch.Tensor", prompts: Sequence[str]) -> "torch.Tensor":
    """(B, ...) with zeros for prompts that are empty."""
    import torch

    said = torch.tensor([bool(prompt) for prompt in prompts], device=states.device)
    return states * said.view(-1, *[1] * (states.ndim - 1)).to(states.dtype)
