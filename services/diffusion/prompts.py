"""Prompts as Stable Diffusion WebUI (A1111) reads them: weights in brackets, and as long as one likes.

The syntax is that of its wiki's page "Features", section "Attention/emphasis", and the split into chunks that of
section "Infinite prompt length". Written anew from those pages.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

EMPHASIS = 1.1
"""What a pair of round brackets multiplies by, and a pair of square ones divides by."""
MAX_WEIGHT = 100.0
"""Weights stay within this either way, so that a thousand brackets give a number."""
COMMA_REACH = 20
"""Tokens that a chunk may leave empty to end at a comma."""

_SYNTAX = re.compile(
    r"(?P<escaped>\\[()\[\]\\])|(?P<lone>\\)|(?P<open>[(\[])"
    r"|(?P<weighed>:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\))|(?P<close>[)\]])|(?P<plain>[^\\()\[\]:]+|:)"
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")

Stretch = tuple[tuple[str, float], ...]
"""Words and their weights, in order; neighbours of one weight are one piece."""


def parse_prompt(text: str) -> tuple[Stretch, ...]:
    """The stretches between BREAKs, at least one. Never fails: a bracket that is not closed lasts to the end, and one
    that closes nothing stands for itself.

    `(words:1.3)` weighs 1.3, `(words)` 1.1, `[words]` 1/1.1; brackets in brackets multiply. A backslash before a
    bracket or a backslash leaves it as it is, and any other backslash is dropped.
    """
    pieces: list[str | None] = []  # None is a BREAK
    open_at: dict[str, list[int]] = {"(": [], "[": []}  # pieces before those that wait to be closed
    steps = [0]  # by how many steps of EMPHASIS the weight changes at each piece
    spans: list[tuple[int, int, float]] = []  # those with a number, which nest

    def add(piece: str | None) -> None:
        pieces.append(piece)
        steps.append(0)

    def emphasise(start: int, bracket: str) -> None:
        step = 1 if bracket == "(" else -1
        steps[start] += step
        steps[len(pieces)] -= step

    for found in _SYNTAX.finditer(text):
        token = found[0]
        if found["escaped"]:
            add(token[1])
        elif found["open"]:
            open_at[token].append(len(pieces))
        elif found["weighed"] and open_at["("]:
            spans.append((open_at["("].pop(), len(pieces), float(found["weight"])))
        elif found["close"] and open_at[bracket := "(" if token == ")" else "["]:
            emphasise(open_at[bracket].pop(), bracket)
        elif not found["lone"]:
            first, *rest = _BREAK.split(token)
            add(first)
            for each in rest:
                add(None)
                add(each)
    for bracket, starts in open_at.items():
        for start in starts:
            emphasise(start, bracket)
    return _stretches(pieces, _weights(steps, spans))


def _weights(steps: Sequence[int], spans: Sequence[tuple[int, int, float]]) -> list[float]:
    """Of each piece."""
    begun: list[tuple[int, float]] = []  # where it ends, and the product so far
    waiting = sorted(spans, key=lambda span: (span[0], -span[1]), reverse=True)
    weights, level = [], 0
    for place, step in enumerate(steps[:-1]):
        level += step
        while begun and begun[-1][0] <= place:
            begun.pop()
        while waiting and waiting[-1][0] <= place:
            _, end, factor = waiting.pop()
            if end > place:
                begun.append((end, _bounded(factor * (begun[-1][1] if begun else 1.0))))
        emphasis = EMPHASIS ** max(-100, min(100, level))
        weights.append(_bounded(emphasis * (begun[-1][1] if begun else 1.0)))
    return weights


def _bounded(weight: float) -> float:
    return max(-MAX_WEIGHT, min(MAX_WEIGHT, weight))


def _stretches(pieces: Sequence[str | None], weights: Sequence[float]) -> tuple[Stretch, ...]:
    """With neighbours of one weight put together, and nothing that is empty."""
    stretches: list[list[tuple[str, float]]] = [[]]
    for piece, weight in zip(pieces, weights, strict=True):
        now = stretches[-1]
        if piece is None:
            stretches.append([])
        elif piece and now and now[-1][1] == weight:
            now[-1] = (now[-1][0] + piece, weight)
        elif piece:
            now.append((piece, weight))
    return tuple(tuple(stretch) for stretch in stretches)


Token = tuple[int, float]
"""Its number in the vocabulary, and its weight."""


def tokens_of(tokenizer: Any, prompt: str) -> list[list[Token]]:
    """The tokens of each stretch, without markers."""
    stretches = parse_prompt(prompt)
    texts = [text for stretch in stretches for text, _ in stretch]
    ids = iter(tokenizer(texts, add_special_tokens=False, verbose=False).input_ids if texts else [])
    return [[(token, weight) for _, weight in stretch for token in next(ids)] for stretch in stretches]


def chunks_of(tokenizer: Any, prompt: str) -> list[list[Token]]:
    """What a CLIP reads at a time, at most two tokens less than its length; at least one, which may be empty."""
    room = tokenizer.model_max_length - 2  # for its begin and its end
    comma = tokenizer.convert_tokens_to_ids(",</w>")
    chunks: list[list[Token]] = []
    for stretch in tokens_of(tokenizer, prompt):
        start = 0
        while start < len(stretch):
            end = start + room
            if end < len(stretch):
                end = _cut(tokenizer, [token for token, _ in stretch[start : end + 1]], comma) + start
            chunks.append(stretch[start:end])
            start = end
    return chunks or [[]]


def _cut(tokenizer: Any, tokens: Sequence[int], comma: int) -> int:
    """How many of one token too many to take: to a comma near the end, else to the end of a word, else all but one."""
    room = len(tokens) - 1
    for end in range(room, max(room - COMMA_REACH, 0), -1):
        if tokens[end - 1] == comma:
            return end
    names = tokenizer.convert_ids_to_tokens(list(tokens))
    return next((end for end in range(room, 0, -1) if names[end - 1].endswith("</w>")), room)


@dataclass(frozen=True)
class Chunks:
    """Tokens for a CLIP: B prompts of n chunks each. All are (B * n, T), a prompt's chunks behind each other."""

    ids: "torch.Tensor"  # int64
    mask: "torch.Tensor"  # int64, 1 from the begin to the end marker
    weights: "torch.Tensor"  # float32

    def to(self, device: "torch.device") -> "Chunks":
        """There."""
        return Chunks(self.ids.to(device), self.mask.to(device), self.weights.to(device))


def pad_chunks(tokenizer: Any, prompts: Sequence[Sequence[Sequence[Token]]], count: int) -> Chunks:
    """Of `count` chunks each, empty ones behind a prompt's own."""
    import torch

    length = tokenizer.model_max_length
    ids, masks, weights = [], [], []
    for chunks in prompts:
        for chunk in [*chunks, *[()] * (count - len(chunks))]:
            blank = length - 2 - len(chunk)
            words = [token for token, _ in chunk]
            padding = [tokenizer.pad_token_id] * blank
            ids.append([tokenizer.bos_token_id, *words, tokenizer.eos_token_id, *padding])
            masks.append([1] * (length - blank) + [0] * blank)
            weights.append([1.0, *[weight for _, weight in chunk], *[1.0] * (blank + 1)])
    return Chunks(torch.tensor(ids), torch.tensor(masks), torch.tensor(weights))


def weigh(states: "torch.Tensor", weights: "torch.Tensor") -> "torch.Tensor":
    """States (B, T, D) of tokens, times their weights (B, T), each row brought back to the mean that it had.

    As A1111's wiki has it ("emphasis: Original"): z w mean(z) / mean(z w). There the means are taken over all that is
    encoded together; here over each row, so that nobody's words hang on a neighbour's. Rows of weights 1 stay as they
    are, to the bit.
    """
    import torch

    plain = states.float()
    scaled = plain * weights[..., None]
    ratio = plain.mean((1, 2), keepdim=True) / scaled.mean((1, 2), keepdim=True)
    scaled = scaled * torch.where(ratio.isfinite(), ratio, 1.0)
    weighed = (weights != 1).any(1)[:, None, None]
    return torch.where(weighed, scaled.to(states.dtype), states)
