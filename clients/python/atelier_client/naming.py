"""Hints for names that were not found."""

from collections.abc import Sequence
from difflib import get_close_matches


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A clause to end an error message with: near names first, else all when they are few, else nothing."""
    near = get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(repr(each) for each in near) + "?"
    if 0 < len(known) <= 8:
        return "; there are " + ", ".join(repr(each) for each in dict.fromkeys(known))
    return ""
