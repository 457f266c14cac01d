"""Page tokens: opaque to clients, a keyset for us, so that pages stay right while rows come and go."""

import base64
import binascii
import json

from services.common.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


def page_size(requested: int) -> int:
    """The size to use: 0 means the default; more than the maximum is cut to it."""
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_token(*parts: int | str) -> str:
    """The token of the last row of a page: its sort key, part by part."""
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_token(token: str, *kinds: type[int] | type[str]) -> tuple[int | str, ...] | None:
    """The parts of `token`, or None for the empty token of a first page.

    Raises InvalidArgument (field `page_token`) for anything that `encode_token` did not make with parts of these kinds.
    """
    if not token:
        return None
    try:
        parts = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if not isinstance(parts, list) or len(parts) != len(kinds):
            raise ValueError("wrong number of parts")
        if any(type(part) is not kind for part, kind in zip(parts, kinds, strict=True)):
            raise ValueError("wrong kind of part")
    except (ValueError, binascii.Error, UnicodeDecodeError) as error:
        raise InvalidArgument("is not a token that this server gave out", field="page_token") from error
    return tuple(parts)
