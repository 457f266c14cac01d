"""Prompts that leave a choice: `{red|blue}` and `__colour__`, chosen by a seed alone."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.common.errors import InvalidArgument

FIELD = "settings.wildcards"
MAX_DEPTH = 50
"""Of braces in braces and of lines that name other wildcards, together."""
MAX_LENGTH = 10_000
"""Characters that come of it: as many as a prompt may have."""
MAX_LINES = 1_000
"""Lines that one prompt takes."""

_SYNTAX = re.compile(
    r"\\(?P<escaped>[{}|_])|(?P<kept>\\.?)|__(?P<name>[A-Za-z0-9-](?:_?[A-Za-z0-9-]){0,63})__"
    r"|(?P<sign>[{|])(?:\s*(?P<share>\d{1,6}(?:\.\d{0,6})?|\.\d{1,6})::)?|(?P<end>\})|(?P<plain>[^\\{}|_]+|_)",
    re.DOTALL,
)


@dataclass
class _Option:
    sign: str  # as it was written, for braces that turn out to be none
    share: float = 1.0
    nodes: "list[_Node]" = field(default_factory=list)


@dataclass(frozen=True)
class _Choice:
    options: Sequence[_Option]


@dataclass(frozen=True)
class _Name:
    name: str


_Node = str | _Choice | _Name


def choose(text: str, lines: Mapping[str, Sequence[str]], *, seed: int) -> str:
    """`text` with one of `a`, `b` and `c` for `{a|b|c}`, and one of `lines["name"]` for `__name__`.

    Braces may stand in braces, and lines may hold both. `{2::a|b}` takes a twice as often as b. Braces around nothing
    to choose from stay as they are, and so do all other brackets. A backslash before `{`, `}`, `|` or `_` leaves it as
    it is and goes itself; other backslashes stay, for whoever reads on. A name begins and ends with a letter, a digit
    or a dash, and has no two underscores together. The same text, lines and seed give the same.

    Raises InvalidArgument naming `settings.wildcards` for a name that is not there, lines that come back to themselves,
    choices nested deeper than 50, and a text that grows longer than a prompt may be.
    """
    return _Chooser(lines, random.Random(seed)).write(_parse(text), (), 0)


class _Chooser:
    """The state of one choice."""

    def __init__(self, lines: Mapping[str, Sequence[str]], chance: random.Random) -> None:
        self._lines = lines
        self._chance = chance
        self._taken = 0

    def write(self, nodes: Sequence[_Node], within: tuple[str, ...], depth: int) -> str:
        """`within` are the names whose lines the nodes are of."""
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"choices are nested deeper than {MAX_DEPTH}", field=FIELD)
        parts, length = [], 0
        for node in nodes:
            if isinstance(node, _Choice):
                shares = [option.share for option in node.options]
                [option] = self._chance.choices(node.options, shares if any(shares) else None)
                part = self.write(option.nodes, within, depth + 1)
            elif isinstance(node, _Name):
                part = self.write(_parse(self._line(node.name, within)), (*within, node.name), depth + 1)
            else:
                part = node
            parts.append(part)
            length += len(part)
            if length > MAX_LENGTH:
                raise InvalidArgument(f"the prompt is longer than {MAX_LENGTH} characters", field=FIELD)
        return "".join(parts)

    def _line(self, name: str, within: tuple[str, ...]) -> str:
        if name in within:
            circle = " -> ".join((*within[within.index(name) :], name))
            raise InvalidArgument(f"the lines of '{name}' come back to themselves: {circle}", field=FIELD)
        if not self._lines.get(name):
            known = ", ".join(sorted(self._lines)) or "none"
            raise InvalidArgument(f"there are no lines of the name '{name}'; there are: {known}", field=FIELD)
        self._taken += 1
        if self._taken > MAX_LINES:
            raise InvalidArgument(f"the prompt takes more than {MAX_LINES} lines", field=FIELD)
        [line] = self._chance.choices(self._lines[name])
        return line


def _parse(text: str) -> list[_Node]:
    """What stands for itself, choices and names, in order. Raises InvalidArgument for braces too deep."""
    open_braces: list[list[_Option]] = [[_Option("")]]  # the first is the text itself
    for found in _SYNTAX.finditer(text):
        now = open_braces[-1][-1].nodes
        share = float(found["share"]) if found["share"] else 1.0
        if found["name"]:
            now.append(_Name(found["name"]))
        elif found["sign"] == "{":
            if len(open_braces) > MAX_DEPTH:
                raise InvalidArgument(f"choices are nested deeper than {MAX_DEPTH}", field=FIELD)
            open_braces.append([_Option(found[0], share)])
        elif found["sign"] and len(open_braces) > 1:
            open_braces[-1].append(_Option(found[0], share))
        elif found["end"] and len(open_braces) > 1:
            options = open_braces.pop()
            outer = open_braces[-1][-1].nodes
            outer.extend([_Choice(options)] if len(options) > 1 else [*_as_written(options), "}"])
        else:
            now.append(found["escaped"] or found[0])
    while len(open_braces) > 1:
        options = open_braces.pop()
        open_braces[-1][-1].nodes.extend(_as_written(options))
    return open_braces[0][0].nodes


def _as_written(options: Sequence[_Option]) -> list[_Node]:
    return [node for option in options for node in (option.sign, *option.nodes)]
