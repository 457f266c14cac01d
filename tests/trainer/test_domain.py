"""The table of moves, and domain values as text."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer import domain
from services.trainer.codec import dump, load
from services.trainer.domain import ENDED, MOVES, JobStatus, sources


def test_every_status_has_a_row_in_the_table_of_moves() -> None:
    assert set(MOVES) == set(JobStatus)


def test_only_completed_failed_and_cancelled_are_ends() -> None:
    assert {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED} == ENDED


@given(st.lists(st.integers(min_value=0, max_value=10), max_size=20))
def test_no_walk_leaves_an_end_or_comes_back_to_pending(choices: list[int]) -> None:
    status = JobStatus.PENDING
    for choice in choices:
        targets = sorted(MOVES[status], key=lambda each: each.value)
        if not targets:
            assert status in ENDED
            return
        status = targets[choice % len(targets)]
        assert status is not JobStatus.PENDING


@given(st.sampled_from(list(JobStatus)), st.sampled_from(list(JobStatus)))
def test_sources_are_the_moves_read_backwards(start: JobStatus, target: JobStatus) -> None:
    assert (start in sources(target)) == (target in MOVES[start])


@pytest.mark.parametrize("start", [status for status in JobStatus if status not in ENDED])
def test_every_unfinished_job_can_come_to_an_end(start: JobStatus) -> None:
    reached = {start}
    for _ in JobStatus:
        reached |= {target for status in reached for target in MOVES[status]}
    assert reached & ENDED


numbers = st.floats(allow_nan=False) | st.just(math.inf)
progresses = st.builds(
    domain.Progress,
    **{name: st.integers(0, 2**40) for name in ("step", "total_steps", "epoch", "total_epochs")},
    **{name: st.integers(0, 2**62) for name in ("elapsed_millis", "remaining_millis", "memory_bytes")},
    **dict.fromkeys(("loss", "smoothed_loss", "learning_rate", "images_per_second", "grad_norm"), numbers),
)
files = st.tuples(st.builds(domain.ModelFile, st.text(max_size=9), st.text(max_size=9), st.integers(0, 2**60)))
times = st.datetimes(timezones=st.just(UTC))


@given(
    st.one_of(
        progresses,
        st.builds(domain.Queued, st.integers(0, 99)),
        st.builds(domain.Loading, st.sampled_from(domain.LoadingStage), st.integers(0), st.integers(0)),
        st.builds(domain.Log, st.sampled_from(domain.LogLevel), st.text()),
        st.builds(domain.Failure, st.text(), st.text()),
        st.builds(domain.Checkpoint, st.integers(0), st.integers(0), times, numbers, files),
        st.builds(domain.Trained, st.integers(0), st.integers(1, 2), files),
        st.just(domain.Cancelled()),
    )
)
def test_values_survive_their_text(value: object) -> None:
    assert load(type(value), dump(value)) == value


def test_a_configuration_survives_its_text() -> None:
    config = domain.TrainingConfig(
        seed=2**53 - 1, lora=domain.LoraConfig(target_modules=("a.b",)), samples=domain.SampleConfig(("x", "y"), 5)
    )
    assert load(domain.TrainingConfig, dump(config)) == config


def test_a_diverged_loss_survives_its_text() -> None:
    value = domain.Progress(1, 1, 1, 1, math.nan, math.inf, 0, 0, 0, 0, 0, 0)
    assert math.isnan(load(domain.Progress, dump(value)).loss)


def test_a_field_of_a_later_version_is_left_out() -> None:
    assert load(domain.Queued, '{"position":3,"since":"2026"}') == domain.Queued(3)


def test_times_keep_their_zone() -> None:
    now = datetime.now(UTC)
    value = domain.Checkpoint(1, 2, now, 0.5)
    assert load(domain.Checkpoint, dump(value)).created_at == now
