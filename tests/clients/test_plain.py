"""Messages as plain values, and names as enum values."""

import json
import math

import pytest
from atelier.catalog.v1.dataset_pb2 import Dataset
from atelier.generator.v1.generation_pb2 import Scheduler
from atelier.generator.v1.generator_service_pb2 import GenerateResponse, GenerationPreview
from atelier.trainer.v1.training_pb2 import JobStatus, MixedPrecision, TrainingConfig, TrainingJob
from atelier_client.errors import InvalidArgument
from atelier_client.generation import parse_size
from atelier_client.naming import did_you_mean
from atelier_client.plain import fill, number_of, short_name, short_names, to_plain
from atelier_client.training import training_config
from google.protobuf.timestamp_pb2 import Timestamp


def test_numbers_stay_numbers_enums_get_short_names_and_times_are_rfc_3339() -> None:
    dataset = Dataset(id=3, name="n", num_items=2**40, created_at=Timestamp(seconds=0, nanos=0))
    dataset.type = 1
    plain = json.loads(json.dumps(to_plain(dataset)))
    assert plain["num_items"] == 2**40
    assert plain["type"] == "image"
    assert plain["created_at"] == "1970-01-01T00:00:00Z"
    assert plain["size_bytes"] == 0


def test_what_is_unset_is_left_out_and_zero_that_is_set_is_kept() -> None:
    config = TrainingConfig(noise_offset=0.0)
    plain = to_plain(config)
    assert plain["noise_offset"] == 0.0
    assert not {"learning_rate", "lora", "seed"} & plain.keys()


def test_bytes_and_the_other_members_of_a_oneof_are_left_out() -> None:
    plain = to_plain(GenerateResponse(generation_id="g", preview=GenerationPreview(index=1, step=2, data=b"png")))
    assert plain == {"generation_id": "g", "preview": {"index": 1, "step": 2}}


def test_a_value_that_this_client_does_not_know_is_shown_in_digits() -> None:
    job = TrainingJob()
    job.status = 77  # type: ignore[assignment]  # a newer server's
    assert to_plain(job)["status"] == "77"
    assert short_name(JobStatus.DESCRIPTOR, JobStatus.JOB_STATUS_COMPLETED) == "completed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("euler", Scheduler.SCHEDULER_EULER),
        ("Euler a", Scheduler.SCHEDULER_EULER_ANCESTRAL),
        ("euler-ancestral", Scheduler.SCHEDULER_EULER_ANCESTRAL),
        ("DPM++ 2M Karras", Scheduler.SCHEDULER_DPMPP_2M_KARRAS),
        (" DDIM ", Scheduler.SCHEDULER_DDIM),
    ],
)
def test_schedulers_are_known_by_the_names_people_use(text: str, expected: int) -> None:
    assert number_of(Scheduler.DESCRIPTOR, text, field="scheduler") == expected


def test_every_short_name_finds_its_value_again() -> None:
    for enum in (Scheduler.DESCRIPTOR, JobStatus.DESCRIPTOR, MixedPrecision.DESCRIPTOR):
        for name in short_names(enum):
            assert short_name(enum, number_of(enum, name, field="x")) == name


@pytest.mark.parametrize("text", ["warp", "", "unspecified"])
def test_an_unknown_scheduler_lists_the_known_ones(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        number_of(Scheduler.DESCRIPTOR, text, field="settings.scheduler")
    assert "dpmpp_2m_karras" in caught.value.fields["settings.scheduler"]


def test_a_training_config_is_filled_from_nested_dicts() -> None:
    config = training_config(
        {
            "epochs": 5,
            "schedule": "cosine",
            "lora": {"rank": 8, "target_modules": ["to_q"]},
            "samples": {"prompts": "one"},
        }
    )
    assert (config.epochs, config.lora.rank, list(config.lora.target_modules)) == (5, 8, ["to_q"])
    assert list(config.samples.prompts) == ["one"]
    assert not config.HasField("learning_rate")


def test_nan_reaches_the_service_which_refuses_it() -> None:
    assert math.isnan(training_config({"learning_rate": math.nan}).learning_rate)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"epoch": 5}, "config.epoch"),
        ({"lora": {"rang": 8}}, "config.lora.rang"),
        ({"epochs": "many"}, "config.epochs"),
        ({"epochs": 2**40}, "config.epochs"),
        ({"schedule": "sinus"}, "config.schedule"),
        ({"epochs": {"a": 1}}, "config.epochs"),
    ],
)
def test_a_wrong_field_or_type_is_named_by_its_path(values: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        training_config(values)
    assert list(caught.value.fields) == [field]


def test_none_leaves_a_field_unset() -> None:
    config = TrainingConfig()
    fill(config, {"epochs": None, "lora": {"rank": None}}, path="config")
    assert not config.HasField("epochs")


@pytest.mark.parametrize(
    ("size", "expected"), [(512, (512, 512)), ("512x768", (512, 768)), ("64", (64, 64)), ((8, 9), (8, 9))]
)
def test_sizes_are_width_first(size: int | str | tuple[int, int], expected: tuple[int, int]) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["", "x", "512x", "1x2x3", "big", "-5"])
def test_a_size_that_is_none_is_refused_by_name(size: str) -> None:
    with pytest.raises(InvalidArgument, match="size"):
        parse_size(size)


def test_hints_name_near_names_first() -> None:
    assert did_you_mean("icon", ["icons", "cats"]) == "; did you mean 'icons'?"
    assert did_you_mean("zzz", ["icons", "cats"]) == "; there are 'icons', 'cats'"
    assert did_you_mean("zzz", []) == ""
