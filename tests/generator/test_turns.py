"""Who shares the next pass: whatever arrives, everything ends once, nobody starves, and short ones are quick."""

import random
from collections.abc import Hashable
from dataclasses import dataclass

import pytest

from services.generator.engine.pace import Pace
from services.generator.engine.turns import PATIENCE, choose


@dataclass(eq=False)
class Piece:
    number: int
    total: int
    lane: Hashable = "one"
    principal: str = "a"
    rows: int = 2
    index: int = 0
    passed_over: int = 0

    @property
    def remaining(self) -> int:
        return self.total - self.index

    @property
    def is_new(self) -> bool:
        return not self.index


def linear(fixed: float, per_row: float) -> Pace:
    pace = Pace()
    for rows in (1, 2, 4, 8, 16, 2, 4):
        pace.note(rows, fixed + per_row * rows)
    return pace


GPU, CPU = linear(1.0, 0.01), linear(0.05, 0.5)


def a_pass(pieces: list[Piece], pace: Pace, *, most: int = 8) -> list[Piece]:
    """Steps those that are chosen; gives those that are done."""
    chosen = choose(pieces, limit=lambda _: most, seconds=lambda _, rows: pace.seconds(rows))
    assert 0 < len(chosen) <= most
    assert len({id(piece) for piece in chosen}) == len(chosen)
    assert len({piece.lane for piece in chosen}) == 1
    for piece in pieces:
        piece.passed_over = 0 if piece in chosen else piece.passed_over + 1
    for piece in chosen:
        piece.index += 1
    return [piece for piece in chosen if not piece.remaining]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("pace", [GPU, CPU], ids=["parallel", "serial"])
def test_whatever_arrives_ends_once_and_nobody_waits_for_ever(seed: int, pace: Pace) -> None:
    draw = random.Random(seed)
    pieces: list[Piece] = []
    waiting = [
        Piece(number, draw.randint(1, 60), f"lane {draw.randint(1, 3)}", draw.choice("abc"), draw.choice((1, 2)))
        for number in range(60)
    ]
    work, ended, passes, longest = sum(piece.total for piece in waiting), [], 0, 0
    while waiting or pieces:
        for _ in range(draw.randint(0, 4)):
            if waiting and len(pieces) < 32:
                pieces.append(waiting.pop(0))
        if not pieces:
            continue
        ended += a_pass(pieces, pace)
        pieces = [piece for piece in pieces if piece.remaining]
        if pieces and draw.random() < 0.02:
            work -= pieces.pop(draw.randrange(len(pieces))).remaining  # somebody leaves
        longest = max([longest, *(piece.passed_over for piece in pieces)])
        passes += 1
        assert passes <= work + 60, "more passes than steps"
    assert len(ended) == len({piece.number for piece in ended})
    # Each of at most 32 that are overdue has a pass within as many passes as they fill, lane by lane.
    assert longest <= PATIENCE + 32


@pytest.mark.parametrize("pace", [GPU, CPU], ids=["parallel", "serial"])
def test_a_short_one_behind_long_ones_ends_before_any_of_them(pace: Pace) -> None:
    pieces = [Piece(number, 50) for number in range(8)]
    for _ in range(5):
        a_pass(pieces, pace, most=8)
    short = Piece(8, 4)
    pieces.append(short)
    ended = [a_pass(pieces, pace, most=8) for _ in range(4)]
    assert ended == [[], [], [], [short]], "no step of the others' came before its own"


def test_rows_that_cost_nothing_are_all_taken_and_dear_ones_wait_for_the_short() -> None:
    pieces = [Piece(0, 5, index=1), *(Piece(number, 51, index=1) for number in range(1, 8))]
    shares = {}
    for name, pace in (("parallel", GPU), ("serial", CPU)):
        chosen = choose(pieces, limit=lambda _: 8, seconds=lambda _, rows, pace=pace: pace.seconds(rows))
        shares[name] = len(chosen)
    assert shares == {"parallel": 8, "serial": 1}


def test_where_batches_are_worth_it_more_come_along_for_twice_the_time() -> None:
    pieces = [Piece(0, 3, index=1), *(Piece(number, 51, index=1) for number in range(1, 12))]

    def chosen(pace: Pace) -> list[int]:
        some = choose(pieces, limit=lambda _: 8, seconds=lambda _, rows: pace.seconds(rows))
        return [piece.number for piece in some]

    assert chosen(CPU) == [0]
    assert chosen(linear(0.3, 0.1)) == [*range(3)]  # 0.5, 0.7, 0.9, 1.1
    assert chosen(linear(0.4, 0.045)) == [*range(6)]  # 0.49, 0.58, 0.67, 0.76, 0.85, 0.94, 1.03
    assert chosen(linear(0.6, 0.02)) == [*range(8)]


def test_who_was_in_the_last_pass_stays_until_somebodys_turn_has_come() -> None:
    pieces = [Piece(number, 100) for number in range(8)]
    a_pass(pieces, GPU)
    pieces += [Piece(number, 60) for number in range(8, 10)]
    a_pass(pieces, GPU)  # those that are new, and six of the others
    inside = {piece.number for piece in pieces if not piece.passed_over}
    assert {8, 9} < inside
    for _ in range(PATIENCE - 1):
        a_pass(pieces, GPU)
        assert {piece.number for piece in pieces if not piece.passed_over} == inside
    a_pass(pieces, GPU)
    assert {piece.number for piece in pieces if not piece.passed_over} >= {*range(8)} - inside


@pytest.mark.parametrize("pace", [GPU, CPU], ids=["parallel", "serial"])
@pytest.mark.parametrize("lane", ["one", "another"])
def test_one_that_is_new_is_in_the_next_pass(pace: Pace, lane: str) -> None:
    pieces = [Piece(number, 10) for number in range(8)]
    a_pass(pieces, pace)
    new = Piece(8, 60, lane)
    pieces.append(new)
    a_pass(pieces, pace)
    assert new.index == 1


def test_pieces_that_are_alike_share_a_pass_on_any_device() -> None:
    for pace in (GPU, CPU, Pace()):
        chosen = choose(
            [Piece(n, 20) for n in range(6)], limit=lambda _: 8, seconds=lambda _, rows, p=pace: p.seconds(rows)
        )
        assert len(chosen) == 6


def test_sending_more_makes_nobody_faster() -> None:
    crowd = [Piece(number, 20, "crowd", "many") for number in range(16)]
    one = Piece(99, 20, "one", "single")
    pieces = [*crowd, one]
    # A fair share of two callers is every second pass; overdue ones of the crowd have some.
    for _ in range(2 * 20 + 16):
        a_pass(pieces, CPU)
        pieces = [piece for piece in pieces if piece.remaining]
    assert one not in pieces


def test_a_lane_is_bounded_by_its_own_limit() -> None:
    chosen = choose([Piece(n, 20) for n in range(6)], limit=lambda _: 2, seconds=lambda _, rows: GPU.seconds(rows))
    assert len(chosen) == 2


def test_a_pace_is_learnt_and_grows_with_rows() -> None:
    pace = Pace()
    assert pace.seconds(8) / 8 < pace.seconds(1), "what is unknown is tried"
    pace.note(8, 100.0)  # the first pass warms up and tells nothing
    for rows in (2, 4, 8, 16, 4, 2):
        pace.note(rows, 0.3 + 0.05 * rows)
    assert pace.seconds(10) == pytest.approx(0.8, rel=0.01)
    for place, rows in enumerate((16, 8, 16, 2, 16, 4) * 5):
        pace.note(rows, (0.3 + 0.05 * rows) * (1 if place % 3 else 2))  # every third has to share the device
    assert pace.seconds(10) == pytest.approx(0.8, rel=0.1)
    for _ in range(200):
        pace.note(4, 2.0)
    assert pace.seconds(4) == pytest.approx(2.0, rel=0.05), "what has changed is learnt anew"
    assert 0 < pace.seconds(1) <= pace.seconds(64)
