"""A base model in memory, with the LoRAs on it and the words that it has read."""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from services.common.errors import InvalidArgument
from services.diffusion.adapters import load_loras, remove_lora, set_lora_weights
from services.diffusion.compiling import as_written, is_compiled
from services.diffusion.device import bytes_of
from services.diffusion.encode import cut_tokens, encode_prompts, some_of
from services.diffusion.families.family import Conditioning
from services.diffusion.load import Components
from services.diffusion.mixed import Adapter, RowAdapters
from services.diffusion.previews import PreviewMap
from services.diffusion.prompts import chunks_of
from services.generator.engine.held import Held

WORDS_BYTES = 64 << 20
"""Of conditioning that is kept by prompt."""
MAX_CHUNKS = 40
"""Of a prompt: as many as the longest that is taken has, unless it is full of BREAKs. Each lengthens every pass."""


@dataclass
class Lora:
    """A LoRA on a base."""

    model_id: int
    memory_bytes: int
    by_rows: bool  # False: through peft's layers, which act on a whole pass
    reads: bool  # what words say changes with it
    users: int = 0
    used: float = field(default_factory=time.monotonic)


MAKING = threading.Lock()
"""Held while modules are made: diffusers and transformers make them without memory, changing torch for all threads."""

Words = tuple[Conditioning, Conditioning | None, tuple[str, ...]]
"""What is said, what guidance leads away from, and what of both was cut."""


class Base(Held):
    """Only the engine's thread calls it, but for `describe`."""

    def __init__(self, components: Components, *, model_id: int, name: str) -> None:
        super().__init__(model_id=model_id, name=name)
        self.components = components
        self.loras: dict[str, Lora] = {}
        self.denoiser_rows = RowAdapters(components.denoiser)
        self.previews = PreviewMap(components)
        self._word_rows = {part: RowAdapters(components.parts[part]) for part in components.family.text_encoders}
        self._is_compiled = is_compiled(components.denoiser)
        self.own_bytes = components.memory_bytes
        self._acting: Mapping[str, float] = {}
        self._words: OrderedDict[object, tuple[Words, int]] = OrderedDict()
        self._words_bytes = 0
        self._lock = threading.Lock()

    @property
    def memory_bytes(self) -> int:
        return self.own_bytes + sum(lora.memory_bytes for lora in self.loras.values())

    def put_on(self, name: str, model_id: int, adapter: Adapter | None, path: Path) -> None:
        """A LoRA that was read; None is one for peft. Raises as `load_loras`."""
        if adapter is None:
            with MAKING:
                load_loras(self.components, [(name, path)])
            self._acting = {}
            lora = Lora(model_id, path.stat().st_size, by_rows=False, reads=True)
        else:
            for part, layers in adapter.layers.items():
                self._rows_of(part).add(name, layers)
            reads = not self._word_rows.keys().isdisjoint(adapter.layers)
            lora = Lora(model_id, adapter.memory_bytes, by_rows=True, reads=reads)
        with self._lock:
            self.loras[name] = lora

    def take_off(self, name: str) -> None:
        with self._lock:
            lora = self.loras.pop(name)
        if lora.by_rows:
            for rows in (self.denoiser_rows, *self._word_rows.values()):
                rows.remove(name)
        else:
            remove_lora(self.components, name)
            self._acting = {}
        self._forget_words(name)

    def split(self, weights: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
        """Those that act row by row, and those that act on a whole pass."""
        by_rows = {name: weight for name, weight in weights.items() if self.loras[name].by_rows}
        return by_rows, {name: weight for name, weight in weights.items() if name not in by_rows}

    def act(self, weights: Mapping[str, float]) -> None:
        """Makes exactly these of peft's LoRAs act."""
        if dict(weights) != self._acting:
            set_lora_weights(self.components, weights)
            self._acting = dict(weights)

    def passes(self, *, adapted: bool) -> AbstractContextManager[None]:
        """Around a pass of the denoiser; `adapted` says that LoRAs act in it, which what is compiled does not know."""
        return as_written() if adapted and self._is_compiled else nullcontext()

    def words(self, prompt: str, negative: str | None, weights: Mapping[str, float], *, weighted: bool) -> Words:
        """What the denoiser is told of a prompt and of what guidance leads away from, read once and kept.

        Raises InvalidArgument naming the prompt that is read in too many chunks.
        """
        import torch

        weights = {name: weight for name, weight in weights.items() if self.loras[name].reads}
        key = (prompt, negative, tuple(sorted(weights.items())), weighted)
        if (kept := self._words.get(key)) is not None:
            self._words.move_to_end(key)
            return kept[0]
        told = {"prompt": prompt} | ({} if negative is None else {"negative_prompt": negative})
        if weighted:
            self._check_chunks(told)
        by_rows, whole = self.split(weights)
        self.act(whole)
        prompts = [prompt] if negative is None else [prompt, negative]
        components = self.components
        components.wake(*components.readers)  # before the LoRAs on them are laid out
        with torch.no_grad(), ExitStack() as stack:
            for rows in self._word_rows.values():
                stack.enter_context(rows.rows([by_rows] * len(prompts), steady=True))
            read = encode_prompts(components, prompts, weighted=weighted)
        # Weighted prompts are read to their end, some words apart.
        warnings = () if weighted else self._cut(told)
        unsaid = None if negative is None else some_of(read, slice(1, 2))
        words: Words = (some_of(read, slice(0, 1)), unsaid, warnings)
        size = bytes_of(read.values())
        self._words[key] = (words, size)
        self._words_bytes += size
        while self._words_bytes > WORDS_BYTES and len(self._words) > 1:
            self._words_bytes -= self._words.popitem(last=False)[1][1]
        return words

    def _lora_ids(self) -> tuple[int, ...]:
        with self._lock:
            return tuple(lora.model_id for lora in self.loras.values())

    def _rows_of(self, part: str) -> RowAdapters:
        return self._word_rows.get(part, self.denoiser_rows)

    def _check_chunks(self, prompts: Mapping[str, str]) -> None:
        tokenizer = self.components.tokenizers[0]
        for name, text in prompts.items():
            if (count := len(chunks_of(tokenizer, text))) > MAX_CHUNKS:
                message = f"is read in {count} chunks of {tokenizer.model_max_length - 2} tokens; {MAX_CHUNKS} at most"
                raise InvalidArgument(message, field=f"settings.{name}")

    def _cut(self, prompts: Mapping[str, str]) -> tuple[str, ...]:
        limit = self.components.tokenizers[0].model_max_length
        found = {name: cut_tokens(self.components, text) for name, text in prompts.items()}
        return tuple(
            f"{name} has more than the {limit} tokens that the model reads; this was left out: {cut}"
            for name, cut in found.items()
            if cut
        )

    def _forget_words(self, lora: str) -> None:
        for key in [key for key in self._words if any(lora == name for name, _ in key[2])]:  # type: ignore[index]
            self._words_bytes -= self._words.pop(key)[1]
