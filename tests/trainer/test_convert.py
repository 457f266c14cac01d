"""Every value to its proto and back; the loss curve thinned; nothing heavy imported."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest
from atelier.trainer.v1 import training_pb2 as tr
from atelier.trainer.v1 import worker_service_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.trainer import convert, domain
from services.trainer.metrics import Point, kept_checkpoints, latest_attempt, thin
from tests.trainer.house import ENVIRONMENT
from tests.trainer.made import progress

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
sizes = st.integers(1, 1000)
loras = st.builds(
    domain.LoraConfig,
    sizes,
    st.none() | finite,
    finite,
    st.lists(texts, min_size=1, max_size=3).map(tuple),
    st.booleans(),
    st.booleans(),
    finite,
)
dreambooths = st.builds(domain.DreamBoothConfig, texts, texts, st.booleans(), finite, sizes, st.booleans())
configs = st.builds(
    domain.TrainingConfig,
    learning_rate=finite,
    batch_size=sizes,
    epochs=sizes,
    max_steps=st.none() | sizes,
    resolution=st.none() | sizes,
    seed=st.none() | st.integers(0, 2**53 - 1),
    mixed_precision=st.sampled_from(domain.Precision),
    gradient_checkpointing=st.booleans(),
    schedule=st.sampled_from(domain.Schedule),
    snr_gamma=finite,
    random_flip=st.booleans(),
    trigger_word=texts,
    lora=st.none() | loras,
    dreambooth=st.none() | dreambooths,
    samples=st.builds(
        domain.SampleConfig, st.lists(texts, max_size=3).map(tuple), st.none() | sizes, sizes, finite, sizes
    ),
    checkpoints=st.builds(domain.CheckpointConfig, st.none() | sizes, sizes),
    device=st.sampled_from(domain.Device),
    optimizer=st.sampled_from(domain.Optimizer),
    ema_decay=finite,
    prediction_type=st.sampled_from(domain.Prediction),
    zero_terminal_snr=st.booleans(),
    caption_shuffle=st.booleans(),
    caption_keep_tags=sizes,
    aspect_buckets=st.booleans(),
    masked_loss=st.booleans(),
    compile=st.booleans(),
    validation=st.builds(domain.ValidationConfig, finite, st.none() | sizes, sizes, st.booleans()),
    share_device=st.booleans(),
    video=st.none() | st.builds(domain.VideoConfig, sizes, sizes, sizes, finite),
)


@given(configs)
def test_a_configuration_survives_the_wire(config: domain.TrainingConfig) -> None:
    wire = convert.config_to_proto(config).SerializeToString()
    assert convert.config_from_proto(tr.TrainingConfig.FromString(wire)) == config


def test_an_empty_configuration_becomes_the_defaults() -> None:
    assert convert.config_from_proto(tr.TrainingConfig()) == domain.TrainingConfig()
    assert convert.config_from_proto(tr.TrainingConfig(lora=tr.LoraConfig())).lora == domain.LoraConfig()
    assert convert.config_from_proto(tr.TrainingConfig(video=tr.VideoConfig())).video == domain.VideoConfig()


def test_zero_is_a_value_and_not_the_default() -> None:
    given_config = tr.TrainingConfig(seed=0, weight_decay=0.0, max_grad_norm=0.0)
    config = convert.config_from_proto(given_config)
    assert (config.seed, config.weight_decay, config.max_grad_norm) == (0, 0.0, 0.0)


@pytest.mark.parametrize("kind", [*domain.EventBody.__args__])
def test_every_event_has_its_place_in_the_proto(kind: type) -> None:
    made: dict[type, domain.EventBody] = {
        domain.Queued: domain.Queued(2),
        domain.Loading: domain.Loading(domain.LoadingStage.SAVING, 1, 2),
        domain.Progress: progress(3),
        domain.Validation: domain.Validation(3, 0.25, 4, True),
        domain.Sample: domain.Sample(1, 0, "a", "ab" * 32, 64, 64),
        domain.Checkpoint: domain.Checkpoint(1, 2, datetime.now(UTC), 0.5),
        domain.Log: domain.Log(domain.LogLevel.ERROR, "oh"),
        domain.Lent: domain.Lent(1200, True),
        domain.Done: domain.Done(1, "x"),
        domain.Failure: domain.Failure("R", "m"),
        domain.Cancelled: domain.Cancelled(),
        domain.Paused: domain.Paused(),
    }
    event = convert.event_to_proto(domain.Event(7, datetime.now(UTC), made[kind]))
    assert event.sequence == 7
    assert event.WhichOneof("event") not in (None, "heartbeat")


@pytest.mark.parametrize(
    "report",
    [
        worker_service_pb2.WorkerReport(number=1, step=convert.progress_to_proto(progress(3))),
        worker_service_pb2.WorkerReport(number=1, sample=tr.SampleEvent(step=1, prompt="x", sha256="ab" * 32)),
        worker_service_pb2.WorkerReport(number=1, log=tr.LogEvent(level=tr.LOG_LEVEL_WARNING, message="w")),
        worker_service_pb2.WorkerReport(number=1, failed=tr.JobFailure(reason="R", message="m")),
        worker_service_pb2.WorkerReport(number=1, cancelled=tr.CancelledEvent()),
        worker_service_pb2.WorkerReport(number=1, loading=tr.LoadingEvent(stage=tr.LOADING_STAGE_SAVING)),
        worker_service_pb2.WorkerReport(number=1, lent=tr.LentEvent(made_room=True)),
        worker_service_pb2.WorkerReport(number=1, lent=tr.LentEvent(lent_millis=0)),
    ],
    ids=lambda report: str(report.WhichOneof("report")),
)
def test_a_report_becomes_the_same_event(report: worker_service_pb2.WorkerReport) -> None:
    body = convert.report_from_proto(report)
    assert not isinstance(body, domain.Trained)
    event = convert.event_to_proto(domain.Event(1, datetime.now(UTC), body))
    kind = report.WhichOneof("report")
    assert kind is not None
    assert getattr(event, kind) == getattr(report, kind)


points = st.lists(st.floats(0, 10), max_size=300).map(
    lambda losses: [(10 + number, number, loss) for number, loss in enumerate(losses, start=1)]
)


@given(points, st.integers(4, 100))
def test_a_thinned_curve_keeps_its_ends_and_its_extremes(curve: list[Point], limit: int) -> None:
    kept = thin(curve, limit)
    assert len(kept) <= limit
    assert kept == sorted(set(kept))
    if curve:
        shown = {loss for sequence, _, loss in curve if sequence in kept}
        assert (kept[0], kept[-1]) == (curve[0][0], curve[-1][0])
        assert {min(loss for _, _, loss in curve), max(loss for _, _, loss in curve)} <= shown


def test_a_diverged_loss_is_seen_in_a_thinned_curve() -> None:
    curve = [(number, number, float("nan") if number == 50 else 0.5) for number in range(1, 101)]
    assert 50 in thin(curve, 10)


def test_a_curve_that_began_again_is_that_of_the_last_attempt() -> None:
    assert latest_attempt([(1, 1, 0.9), (2, 2, 0.8), (5, 1, 0.9), (6, 2, 0.7)]) == [(5, 1, 0.9), (6, 2, 0.7)]


def test_checkpoints_are_the_kept_ones_of_the_last_attempt() -> None:
    made = [domain.Checkpoint(step, 1, datetime.now(UTC), 0.5, ()) for step in (10, 20, 30, 10, 20, 30, 40)]
    assert [each.step for each in kept_checkpoints(made, keep=3)] == [20, 30, 40]
    assert [each.step for each in kept_checkpoints(made[:5], keep=3)] == [10, 20]
    assert kept_checkpoints([], keep=3) == []


def test_the_control_plane_loads_no_torch() -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'peft', 'accelerate', 'numpy'}"
    program = f"import services.trainer.__main__, sys; sys.exit(', '.join({heavy} & sys.modules.keys()) or 0)"
    assert subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, check=False).returncode == 0
