"""Domain values as JSON text for the database, and back.

Text and not the database's JSON type: a diverged loss is NaN, which Python's JSON carries and Postgres' refuses.
"""

import json
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar

Value = TypeVar("Value")


def _encode(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _encode(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [_encode(each) for each in value]
    return value


def dump(value: object) -> str:
    """JSON of a dataclass made of plain values, enums, times, tuples and dataclasses."""
    return json.dumps(_encode(value), separators=(",", ":"))


@cache
def _decoder(kind: Any) -> Callable[[Any], Any]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (inner,) = (each for each in typing.get_args(kind) if each is not type(None))
        decode = _decoder(inner)
        return lambda value: None if value is None else decode(value)
    if typing.get_origin(kind) is tuple:
        decode = _decoder(typing.get_args(kind)[0])
        return lambda value: tuple(decode(each) for each in value)
    if kind is datetime:
        return datetime.fromisoformat
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        decoders = {each.name: _decoder(hints[each.name]) for each in fields(kind)}
        make: Callable[..., Any] = kind  # type: ignore[assignment]  # a dataclass is called to make one
        # What a later version added is left out by an older one, and takes its default in rows from before.
        return lambda value: make(**{name: decoders[name](part) for name, part in value.items() if name in decoders})
    return lambda value: value


def load(kind: type[Value], text: str) -> Value:
    """The value that `dump` wrote. Raises ValueError or TypeError for other text."""
    value: Value = _decoder(kind)(json.loads(text))  # type: ignore[arg-type]  # classes are hashable
    return value
