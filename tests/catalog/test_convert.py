"""The contract's messages and the domain's values, there and back."""

from datetime import UTC, datetime
from enum import StrEnum

import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1 import model_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.catalog import domain
from services.catalog.convert import (
    dataset_to_proto,
    enum_from_proto,
    enum_to_proto,
    image_to_proto,
    item_to_proto,
    model_to_proto,
    new_model_from_proto,
    snapshot_to_proto,
    stored_from_proto,
    stored_to_proto,
    time_from_proto,
    time_to_proto,
)

KINDS: list[type[StrEnum]] = [
    domain.DatasetType,
    domain.ImageFormat,
    domain.ModelType,
    domain.ModelCategory,
    domain.ModelFamily,
    domain.WeightsLayout,
]
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_of_an_enum_goes_there_and_back(kind: type[StrEnum]) -> None:
    numbers = [enum_to_proto(value) for value in kind]
    assert [enum_from_proto(kind, number) for number in numbers] == list(kind)
    assert len(set(numbers)) == len(numbers)
    assert enum_from_proto(kind, 0) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_has_no_word_that_the_domain_lacks(kind: type[StrEnum]) -> None:
    from services.catalog.convert import _PREFIXES

    prefix, enum = _PREFIXES[kind]
    assert set(enum.keys()) == {f"{prefix}{value.name}" for value in kind} | {f"{prefix}UNSPECIFIED"}


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1)))
def test_a_moment_goes_there_and_back(moment: datetime) -> None:
    aware = moment.replace(tzinfo=UTC)
    assert time_from_proto(time_to_proto(aware)) == aware


def test_a_dataset_says_all_it_is() -> None:
    dataset = domain.Dataset(7, "n", domain.DatasetType.VIDEO, "d", 3, 2**40, 5, MOMENT, MOMENT)
    message = dataset_to_proto(dataset)
    assert (message.id, message.name, message.description) == (7, "n", "d")
    assert (message.num_items, message.size_bytes, message.cover_image_id) == (3, 2**40, 5)
    assert time_from_proto(message.created_at) == time_from_proto(message.updated_at) == MOMENT
    empty = domain.Dataset(7, "n", domain.DatasetType.IMAGE, "", 0, 0, None, MOMENT, MOMENT)
    assert not dataset_to_proto(empty).HasField("cover_image_id")


def test_images_snapshots_and_their_items_say_all_they_are() -> None:
    image = domain.Image(1, 2, "f", "c", "a" * 64, domain.ImageFormat.WEBP, 3, 4, 5, MOMENT)
    message = image_to_proto(image)
    assert (message.id, message.dataset_id, message.filename, message.caption, message.sha256) == (
        1,
        2,
        "f",
        "c",
        "a" * 64,
    )
    assert (message.width, message.height, message.size_bytes) == (3, 4, 5)
    snapshot = snapshot_to_proto(domain.Snapshot("b" * 64, 2, 3, 4, MOMENT))
    assert (snapshot.digest, snapshot.dataset_id, snapshot.num_items, snapshot.size_bytes) == ("b" * 64, 2, 3, 4)
    item = item_to_proto(domain.SnapshotItem("a" * 64, "f", "c", 3, 4, 5))
    assert (item.sha256, item.filename, item.caption, item.width, item.height, item.size_bytes) == (
        "a" * 64, "f", "c", 3, 4, 5,
    )  # fmt: skip


@pytest.mark.parametrize(
    "weights",
    [
        domain.StoredWeights(
            (domain.ModelFile("unet/x.safetensors", "a" * 64, 2**33), domain.ModelFile("b", "c" * 64, 0))
        ),
        domain.HubWeights("a/b", "d" * 40),
    ],
)
def test_a_model_goes_there_and_back(weights: domain.StoredWeights | domain.HubWeights) -> None:
    new = {
        "name": "m",
        "type": domain.ModelType.LORA,
        "category": domain.ModelCategory.IMAGE,
        "family": domain.ModelFamily.STABLE_DIFFUSION_XL,
        "layout": domain.WeightsLayout.LORA,
        "weights": weights,
        "base_model_id": 2,
        "job_id": "0d1b1c6e-6a8b-4f7e-8d6e-0d9d3c1d7a11",
        "dataset_id": 3,
        "snapshot_digest": "e" * 64,
        "checkpoint_step": 0,
        "trigger_words": ("a", "b"),
        "license": "MIT",
        "description": "d",
        "native_resolution": 64,
    }
    model = domain.Model(**new, id=101, is_active=False, created_at=MOMENT, updated_at=MOMENT)  # type: ignore[arg-type]  # named above
    message = model_to_proto(model)
    assert (message.id, message.is_active) == (101, False)
    assert message.HasField("checkpoint_step")
    if isinstance(weights, domain.StoredWeights):
        assert (message.size_bytes, message.digest) == (weights.size_bytes, weights.digest)
        assert stored_from_proto(stored_to_proto(weights)) == weights
    known = pb.RegisterModelRequest.DESCRIPTOR.fields_by_name
    shared = {field.name: value for field, value in message.ListFields() if field.name in known}
    request = pb.RegisterModelRequest(**shared)
    assert new_model_from_proto(request) == domain.NewModel(**new)  # type: ignore[arg-type]  # named above


def test_what_is_unset_stays_unset() -> None:
    request = pb.RegisterModelRequest(name="m", hub=model_pb2.HubWeights(repo_id="a/b"))
    new = new_model_from_proto(request)
    assert (new.base_model_id, new.dataset_id, new.checkpoint_step, new.job_id) == (None, None, None, "")
