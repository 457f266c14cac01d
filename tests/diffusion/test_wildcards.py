"""Choices in prompts: by the seed alone, and never endless."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.diffusion.prompts import parse_prompt
from services.diffusion.wildcards import MAX_DEPTH, MAX_LENGTH, choose

COLOURS = ("red", "green", "blue")


def all_of(text: str, lines: dict[str, tuple[str, ...]] | None = None) -> set[str]:
    return {choose(text, lines or {}, seed=seed) for seed in range(200)}


def test_one_of_several_is_taken() -> None:
    assert all_of("a {red|green|blue} cat") == {f"a {colour} cat" for colour in COLOURS}
    assert all_of("{a|}") == {"a", ""}
    assert all_of("{a|{b|c} d}") == {"a", "b d", "c d"}
    assert all_of("{a|b}{c|d}") == {"ac", "ad", "bc", "bd"}


def test_a_line_of_a_name_is_taken_and_may_choose_again() -> None:
    lines = {"colour": COLOURS, "animal": ("__colour__ cat", "{big|small} dog"), "hair-style_2": ("bob",)}
    assert all_of("a __colour__ cat", lines) == {f"a {colour} cat" for colour in COLOURS}
    dogs = {"big dog", "small dog"}
    assert all_of("__animal__", lines) == {f"{colour} cat" for colour in COLOURS} | dogs
    assert all_of("{__colour__|none}", lines) == {*COLOURS, "none"}
    assert all_of("__hair-style_2____hair-style_2__", lines) == {"bobbob"}


def test_shares_say_how_often() -> None:
    counts = Counter(choose("{3::a|b|0::c}", {}, seed=seed) for seed in range(400))
    assert set(counts) == {"a", "b"}
    assert counts["a"] > 2 * counts["b"]
    assert all_of("{0::a|0::b}") == {"a", "b"}
    assert all_of("{ .5::a| 2.5::b}") == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    [
        "a (red:1.3) [cat] ((dog)) BREAK a:b",
        "{alone}",
        "{2::alone}",
        "{a|b",
        "{2::a|3::b",
        "a|b}",
        "snake_case _a_ __ ___ ____ _____",
        r"\(a\) \\ \n",
        "",
        "trailing \\",
    ],
)
def test_what_leaves_no_choice_stays_as_it_is(text: str) -> None:
    assert all_of(text) == {text}


def test_a_backslash_takes_a_sign_for_itself() -> None:
    assert all_of(r"\{a\|b\} \_\_x\_\_") == {"{a|b} __x__"}
    assert all_of(r"{a\|b|c\}}") == {"a|b", "c}"}
    assert all_of(r"\\{a|b}") == {r"\\a", r"\\b"}


def test_weights_around_and_within_choices_are_weights() -> None:
    assert all_of("({red|blue}:1.3) cat") == {"(red:1.3) cat", "(blue:1.3) cat"}
    assert all_of("{(red:1.2)|[blue]}") == {"(red:1.2)", "[blue]"}
    [stretch] = parse_prompt(choose(r"({red|red}:1.5) \(cat\)", {}, seed=1))
    assert stretch == (("red", 1.5), (" (cat)", 1.0))


@given(st.text(st.sampled_from("ab{}|_:\\(2 "), max_size=60), st.integers(0, 2**53 - 1))
def test_the_seed_alone_decides(text: str, seed: int) -> None:
    lines = dict.fromkeys(("a", "b", "2", "aa", "ab", "ba", "bb", "a_b", "b_a"), ("x", "y {1|2}"))
    try:
        first = choose(text, lines, seed=seed)
    except InvalidArgument as error:
        assert "there are no lines" in error.message  # noqa: PT017 - only such a name may fail
        return
    assert choose(text, lines, seed=seed) == first


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ({}, "'a'; there are: none"),
        ({"b": ("x",)}, "'a'; there are: b"),
        ({"a": ()}, "'a'"),
        ({"a": ("__a__",)}, "a -> a"),
        ({"a": ("__b__",), "b": ("__c__",), "c": ("__b__",)}, "b -> c -> b"),
        ({"a": ("x" * 900 + "__b__" * 20,), "b": ("y" * 1000,)}, str(MAX_LENGTH)),
        ({"a": ("{" * (MAX_DEPTH + 1),)}, str(MAX_DEPTH)),
        ({chr(ord("a") + n): (f"__{chr(ord('b') + n)}__" * 2,) for n in range(25)} | {"z": ("",)}, "1000 lines"),
        ({"a": ("__n0__",), **{f"n{n}": (f"__n{n + 1}__",) for n in range(99)}}, str(MAX_DEPTH)),
    ],
)
def test_what_cannot_be_chosen_names_the_field(lines: dict[str, tuple[str, ...]], told: str) -> None:
    with pytest.raises(InvalidArgument, match=told) as caught:
        choose("__a__", lines, seed=1)
    assert list(caught.value.violations) == ["settings.wildcards"]


def test_the_longest_prompts_are_chosen_from() -> None:
    for text in ("__a" * 1000 + "_", "{a|" * 40 + "}" * 10, "\\" * 9999, "_" * 10000, "{a|b}" * 2000):
        assert len(choose(text, {"a": ("b",)}, seed=1)) <= len(text)
