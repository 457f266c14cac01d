"""Models pushed to a hub and pulled from one: a real one of our own on loopback, and the hub's own client."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1 import model_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from huggingface_hub import ModelCard
from huggingface_hub.utils._http import default_client_factory

from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unavailable
from tests.catalog.house import Catalog, catalog_at, png, refused
from tests.catalog.hub_made import TOKEN, HubMade, Repository, hub_made
from tests.catalog.test_weights import SOUND

REPOSITORY = "someone/ink-style"


@pytest.fixture
def hub() -> Iterator[HubMade]:
    with hub_made() as hub:
        yield hub
    huggingface_hub.set_client_factory(default_client_factory)


@pytest.fixture
async def linked(tmp_path: Path, blobs: BlobStore, hub: HubMade) -> AsyncIterator[Catalog]:
    async with catalog_at(tmp_path / "catalog", blobs, hub_endpoint=hub.url) as running:
        yield running


async def lora(catalog: Catalog) -> model_pb2.Model:
    base = await catalog.register()
    file = model_pb2.ModelFile(
        path="pytorch_lora_weights.safetensors", sha256=catalog.blobs.put(SOUND), size_bytes=len(SOUND)
    )
    picture = model_pb2.ModelSample(prompt="a red apple", sha256=catalog.blobs.put(png(3)), width=24, height=16)
    more = {"stored": model_pb2.StoredWeights(files=[file]), "samples": [picture], "trigger_words": ["inkstyle"]}
    return await catalog.register(**catalog.adapter(base.id, name="Ink", **more))


def push(model_id: int, **more: Any) -> pb.PushModelRequest:
    return pb.PushModelRequest(**{"model_id": model_id, "repo_id": REPOSITORY, "token": TOKEN, **more})


def pull(base_id: int, **more: Any) -> pb.PullModelRequest:
    return pb.PullModelRequest(**{"base_model_id": base_id, "repo_id": REPOSITORY, "token": TOKEN, **more})


async def test_what_is_pushed_has_a_card_with_samples_and_can_be_pulled_back(linked: Catalog, hub: HubMade) -> None:
    model = await lora(linked)
    pushed = await linked.stub.PushModel(push(model.id, private=True))
    repository = hub.repositories[REPOSITORY]
    assert (pushed.url, pushed.commit, repository.private) == (f"{hub.url}/{REPOSITORY}", repository.sha, True)
    (files,) = repository.commits
    assert set(files) == {"README.md", "pytorch_lora_weights.safetensors", "images/sample-0.png"}
    assert files["images/sample-0.png"] == png(3)
    card = ModelCard(files["README.md"].decode())
    assert card.data.to_dict()["widget"] == [{"text": "a red apple", "output": {"url": "images/sample-0.png"}}]
    assert card.data.to_dict()["base_model_relation"] == "adapter"

    request = pull(model.base_model_id, request_id=str(uuid.uuid4()), trigger_words=["ink"])
    pulled = await linked.stub.PullModel(request)
    assert (pulled.rank, pulled.layout, pulled.commit) == (4, "kohya", repository.sha)
    assert (pulled.model.name, list(pulled.model.trigger_words)) == ("ink-style", ["ink"])
    assert pulled.model.stored == model.stored
    assert (await linked.stub.PullModel(request)).model == pulled.model, "the same request is done once"


async def test_a_second_push_is_a_second_commit_and_a_pull_may_name_the_first(linked: Catalog, hub: HubMade) -> None:
    model = await lora(linked)
    first = await linked.stub.PushModel(push(model.id))
    told = model_pb2.Model(description="Better told.")
    mask = FieldMask(paths=["description"])
    await linked.stub.UpdateModel(pb.UpdateModelRequest(model_id=model.id, model=told, update_mask=mask))
    second = await linked.stub.PushModel(push(model.id, commit_message="Tell it better"))
    assert first.commit != second.commit
    pulled = await linked.stub.PullModel(pull(model.base_model_id, revision=first.commit))
    assert pulled.commit == first.commit


async def test_the_deployments_own_token_serves_who_brings_none(tmp_path: Path, blobs: BlobStore, hub: HubMade) -> None:
    settings = {"hub_endpoint": hub.url, "hub_token": TOKEN}
    async with catalog_at(tmp_path / "catalog", blobs, **settings) as catalog:
        await catalog.stub.PushModel(push((await lora(catalog)).id, token=""))
    assert len(hub.repositories[REPOSITORY].commits) == 1


async def test_what_a_hub_refuses_is_told_apart(linked: Catalog, hub: HubMade, capfd: Any) -> None:
    model = await lora(linked)
    base_id = model.base_model_id
    with refused(FailedPrecondition, reason="NO_HUB_TOKEN", words="ATELIER_CATALOG_HUB_TOKEN"):
        await linked.stub.PushModel(push(model.id, token=""))
    with refused(PermissionDenied, words="refuses the token"):
        await linked.stub.PushModel(push(model.id, token="hf_a_wrong_one"))
    with refused(NotFound, words="someone/ink-style"):
        await linked.stub.PullModel(pull(base_id))
    with refused(NotFound, words="wants a token"):
        await linked.stub.PullModel(pull(base_id, token=""))
    hub.repositories[REPOSITORY] = Repository(False, [{"a.safetensors": SOUND, "b.safetensors": b"PK" + bytes(20)}])
    with refused(InvalidArgument, field="filename", words=r"a.safetensors, b.safetensors"):
        await linked.stub.PullModel(pull(base_id))
    with refused(NotFound, words="no file c.safetensors"):
        await linked.stub.PullModel(pull(base_id, filename="c.safetensors"))
    with refused(NotFound):
        await linked.stub.PullModel(pull(base_id, revision="elsewhere"))
    with refused(InvalidArgument, reason="PICKLE_REFUSED"):
        await linked.stub.PullModel(pull(base_id, filename="b.safetensors"))
    with refused(NotFound):
        await linked.stub.PushModel(push(4711))
    on_hub = await linked.register(hub=model_pb2.HubWeights(repo_id="a/b", revision="0" * 40))
    with refused(FailedPrecondition, reason="WEIGHTS_ON_HUB"):
        await linked.stub.PushModel(push(on_hub.id))
    said = capfd.readouterr()
    assert "hf_a_wrong_one" not in said.out + said.err
    assert TOKEN not in said.out + said.err


async def test_a_hub_out_of_reach_is_unavailable(tmp_path: Path, blobs: BlobStore, hub: HubMade) -> None:
    async with catalog_at(tmp_path / "catalog", blobs, hub_endpoint=hub.url) as catalog:
        model = await lora(catalog)
        hub.broken = True
        with refused(Unavailable, reason="HUB_UNAVAILABLE"):
            await catalog.stub.PushModel(push(model.id))
    async with catalog_at(tmp_path / "other", blobs, hub_endpoint="http://127.0.0.1:9") as catalog:
        with refused(Unavailable, words="out of reach"):
            await catalog.stub.PullModel(pull((await catalog.register()).id))
