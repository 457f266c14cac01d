"""Prompts as Stable Diffusion WebUI reads them: what weighs how much, and where long ones are split."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.diffusion.adapters import add_lora, load_loras, save_lora, set_lora_weights
from services.diffusion.encode import encode_prompts
from services.diffusion.load import Components, load_components
from services.diffusion.prompts import MAX_WEIGHT, chunks_of, parse_prompt, weigh
from tests.tiny import TOKENS, make_tiny_pipeline
from tests.tiny_families import MAKERS

FAMILIES = {"stable_diffusion": make_tiny_pipeline, **MAKERS}
ROOM = TOKENS - 2


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Components:
    folder = FAMILIES[request.param](tmp_path_factory.mktemp(request.param) / "model")
    return load_components([folder], family=request.param, device="cpu", dtype=torch.float32)


def read(text: str) -> list[list[tuple[str, float]]]:
    return [[(words, pytest.approx(weight)) for words, weight in stretch] for stretch in parse_prompt(text)]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a cat", [("a cat", 1)]),
        ("", []),
        ("a cat (tabby)", [("a cat ", 1), ("tabby", 1.1)]),
        ("((a)) [b]", [("a", 1.21), (" ", 1), ("b", 1 / 1.1)]),
        ("(a:1.3)(b: .5 )", [("a", 1.3), ("b", 0.5)]),
        ("(a (b:2) [c]:1.5)", [("a ", 1.5), ("b", 3), (" ", 1.5), ("c", 1.5 / 1.1)]),
        ("(((a:1.2) b:2) c)", [("a", 1.1 * 2 * 1.2), (" b", 2.2), (" c", 1.1)]),
        ("(a:-1)", [("a", -1)]),
        ("(a:0)", [("a", 0)]),
        # What is not closed lasts to the end, and what closes nothing is a sign like any other.
        ("(a [b", [("a ", 1.1), ("b", 1)]),
        ("a) b] c:1.3)", [("a) b] c:1.3)", 1)]),
        ("[a:1.3)", [("a:1.3)", 1 / 1.1)]),
        ("(a:x)", [("a:x", 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("a: b", [("a: b", 1)]),
        (r"a \(b\) \[c\] \\ \d", [(r"a (b) [c] \ d", 1)]),
        (r"(a \(b\):1.5)", [("a (b)", 1.5)]),
        ("()a", [("a", 1)]),
        ("BREAKFAST", [("BREAKFAST", 1)]),
    ],
)
def test_brackets_weigh_words(text: str, pieces: list[tuple[str, float]]) -> None:
    assert read(text) == [pieces]


def test_break_ends_a_stretch_even_in_brackets() -> None:
    assert read("a BREAK b") == [[("a", 1)], [("b", 1)]]
    assert read("(a BREAK b:1.4), c") == [[("a", 1.4)], [("b", 1.4), (", c", 1)]]
    assert read("BREAK") == [[], []]


@given(st.text(st.sampled_from("ab ()[]\\:.19"), max_size=60))
def test_every_prompt_is_read_to_something_in_bounds(text: str) -> None:
    for stretch in parse_prompt(text):
        for words, weight in stretch:
            assert words
            assert abs(weight) <= MAX_WEIGHT
        assert all(left[1] != right[1] for left, right in pairwise(stretch))


@given(st.text(max_size=60))
def test_what_is_escaped_is_read_as_it_was_written(text: str) -> None:
    text = text.replace("BREAK", "")
    escaped = "".join(f"\\{letter}" if letter in "()[]\\" else letter for letter in text)
    assert read(escaped) == [[(text, 1)] if text else []]


@given(st.lists(st.tuples(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.integers(0, 40)), max_size=8))
def test_pieces_written_down_are_read_back(pieces: list[tuple[str, int]]) -> None:
    written = "".join(f"({words}:{weight / 10})" for words, weight in pieces)
    [stretch] = parse_prompt(written)
    spread = [(letter, weight) for words, weight in stretch for letter in words]
    assert spread == [(letter, weight / 10) for words, weight in pieces for letter in words]


def test_the_longest_prompts_are_read_in_no_time() -> None:
    for text in ("(" * 10000, "(a" * 5000, "(a" * 2500 + ")" * 5000, "(a[" * 3000 + ":9)" * 300, "\\" * 10000):
        for stretch in parse_prompt(text):
            assert all(abs(weight) <= MAX_WEIGHT for _, weight in stretch)


def test_chunks_end_with_words_and_rather_with_commas(components: Components) -> None:
    tokenizer = components.tokenizers[0]

    def texts(prompt: str) -> list[str]:
        return [tokenizer.decode([token for token, _ in chunk]).strip() for chunk in chunks_of(tokenizer, prompt)]

    assert texts("") == [""]
    assert texts("red " * ROOM) == [" ".join(["red"] * ROOM)]
    assert [len(text.split()) for text in texts("red " * (ROOM + 1))] == [ROOM, 1]
    # A word of three tokens that would not fit goes into the next chunk, and a word of too many is split.
    assert texts("red " * (ROOM - 1) + "xyz blue") == [" ".join(["red"] * (ROOM - 1)), "xyz blue"]
    assert texts("x" * (ROOM + 2)) == ["x" * ROOM, "xx"]
    assert texts("red " * (ROOM - 5) + ", " + "blue " * 8)[0].endswith("red ,")
    assert texts("red BREAK blue") == ["red", "blue"]


@given(st.lists(st.sampled_from(["red", "blue", "xyz", ",", "BREAK", "(dog:1.2)"]), max_size=60))
@settings(deadline=None, max_examples=30)
def test_no_token_is_lost_by_splitting(tiny_tokenizer: Any, words: list[str]) -> None:
    chunks = chunks_of(tiny_tokenizer, " ".join(words))
    assert all(len(chunk) <= ROOM for chunk in chunks)
    kept = [token for chunk in chunks for token, _ in chunk]
    plain = " ".join("dog" if word == "(dog:1.2)" else word for word in words if word != "BREAK")
    assert kept == tiny_tokenizer(plain, add_special_tokens=False).input_ids


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_folder: Path) -> Any:
    return load_components([tiny_folder], family="stable_diffusion", device="cpu", dtype=torch.float32).tokenizers[0]


def test_a_prompt_without_weights_is_told_as_ever_to_the_bit(one: Components) -> None:
    prompts = ["a red apple, xyz", "", "cat: dog", "red " * ROOM]
    plain, weighted = encode_prompts(one, prompts), encode_prompts(one, prompts, weighted=True)
    assert set(plain) == set(weighted)
    for name, value in plain.items():
        assert torch.equal(value, weighted[name])
    # Nor does it matter that others of the batch have weights.
    beside = encode_prompts(one, [*prompts[:3], "(cat:1.5)"], weighted=True)
    assert all(torch.equal(beside[name][:3], value[:3]) for name, value in plain.items())
    brackets = encode_prompts(one, [r"a red \(apple\)"], weighted=True)
    assert torch.equal(brackets["words"], encode_prompts(one, ["a red (apple)"])["words"])


def test_weights_move_the_words_and_not_the_sentence(one: Components) -> None:
    said = encode_prompts(one, ["a red apple", "a (red) apple", "a (red:1.1) apple", "a (red:0) apple"], weighted=True)
    words = said["words"]
    assert torch.equal(words[1], words[2])
    assert not torch.allclose(words[0], words[1])
    if "pooled" in said:
        assert torch.equal(said["pooled"][0], said["pooled"][3])
    if one.family.name == "stable_diffusion":
        assert words[3, 2].abs().max() == 0
        torch.testing.assert_close(words[0].mean(), words[3].mean())


def test_a_long_prompt_is_its_chunks_behind_each_other(one: Components) -> None:
    first, second = "red " * ROOM, "blue dog"
    said = encode_prompts(one, [first + second, "cat"], weighted=True)
    apart = encode_prompts(one, [first, second, "cat", "(()) "], weighted=True)
    words = said["words"]
    for row, chunks in enumerate(((0, 1), (2, 3))):
        for place, chunk in enumerate(chunks):
            there = words[row, place * TOKENS : (place + 1) * TOKENS]
            torch.testing.assert_close(there, apart["words"][chunk, :TOKENS], atol=1e-6, rtol=0)
    if "pooled" in said:
        torch.testing.assert_close(said["pooled"], apart["pooled"][[0, 2]], atol=1e-6, rtol=0)


def test_a_long_prompt_beside_an_empty_one_is_drawn(one: Components) -> None:
    said = encode_prompts(one, ["red " * (2 * ROOM + 1), ""], weighted=True)
    channels = one.vae.config.latent_channels
    noisy = torch.randn(2, channels, 16, 16, generator=torch.Generator().manual_seed(1))
    told = {**said, "geometry": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    with torch.no_grad():
        answer = one.family.predict(one, noisy, torch.tensor([500, 500]), told)
    assert torch.isfinite(answer).all()
    if one.family.name == "stable_diffusion_xl":
        assert said["words"][1].abs().max() == 0  # as this model was published
    assert said["words"].shape[1] == 3 * TOKENS + (256 if one.family.name == "stable_diffusion_3" else 0)


def test_weighing_keeps_the_mean_and_survives_a_mean_of_nothing() -> None:
    states = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(2)) + 0.5
    weights = torch.tensor([[1.0] * 5, [1.0, 2.0, 0.5, 1.0, 0.0]])
    weighed = weigh(states, weights)
    assert torch.equal(weighed[0], states[0])
    torch.testing.assert_close(weighed[1].mean(), states[1].mean())
    ratio = weighed[1, 1] / states[1, 1]
    torch.testing.assert_close(ratio / (weighed[1, 0] / states[1, 0]), torch.full((7,), 2.0))
    assert torch.isfinite(weigh(torch.zeros(1, 5, 7), weights[1:])).all()
    assert weigh(states.half(), weights).dtype == torch.float16


def test_a_text_encoder_with_a_lora_reads_weights_too(tiny_folder: Path, tmp_path: Path) -> None:
    def fresh() -> Components:
        return load_components([tiny_folder], family="stable_diffusion", device="cpu", dtype=torch.float32)

    trained = fresh()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in add_lora(trained.denoiser, rank=2, text_encoders=trained.text_encoders):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    file = save_lora(tmp_path, **trained.adaptable)
    components = fresh()
    before = encode_prompts(components, ["a (red:1.2) apple"], weighted=True)["words"]
    load_loras(components, [("mine", file)])
    set_lora_weights(components, {"mine": 1.0})
    after = encode_prompts(components, ["a (red:1.2) apple", "a red apple"], weighted=True)["words"]
    assert not torch.allclose(before, after[:1])
    assert torch.equal(after[1], encode_prompts(components, ["", "a red apple"])["words"][1])
    assert np.isfinite(after.detach().numpy()).all()
