"""The words: a small byte-level BPE in CLIP's layout, and the sentences a caption is trained in."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 16  # positions of the text encoder, both marks included
# A caption is mostly seen bare; these teach which words do not matter.
TEMPLATES = (
    "a {}", "the {}", "a picture of a {}", "a drawing of a {}", "an image of a {}", "{} on a white background",
    "a {} emoji", "{} icon", "one {}", "a small {}", "a photo of a {}", "{}, simple",
)  # fmt: skip


def train_tokenizer(captions: list[str], folder: Path, *, merges: int = 1000) -> CLIPTokenizer:
    """Learns the merges on the captions and the templates, and saves a CLIPTokenizer of about 1,500 tokens."""
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    sentences = captions * 3 + [template.replace("{}", "") for template in TEMPLATES] * 3
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges, min_frequency=2, initial_alphabet=alphabet, end_of_word_suffix="</w>",
        show_progress=False,
    )  # fmt: skip
    learner.train_from_iterator(sentences, trainer)
    learnt = json.loads(learner.to_str())["model"]["merges"]
    pairs = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learnt]
    tokens = alphabet + [letter + "</w>" for letter in alphabet] + ["".join(pair) for pair in pairs] + [START, END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in pairs) + "\n")
    tokenizer = CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)
    return tokenizer


def sentence(caption: str, chance: random.Random) -> str:
    """The caption as one training step sees it: none (for guidance), bare, or in a sentence."""
    draw = chance.random()
    if draw < 0.1:
        return ""
    return caption if draw < 0.85 else chance.choice(TEMPLATES).format(caption)
