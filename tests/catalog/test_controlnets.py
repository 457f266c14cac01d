"""ControlNets: looked at when they are registered, listed, and given back as they came."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1 import model_pb2

from services.common.errors import FailedPrecondition, InvalidArgument
from tests.catalog.house import Catalog, refused
from tests.tiny import make_tiny_control, make_tiny_pipeline

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
XL = model_pb2.MODEL_FAMILY_STABLE_DIFFUSION_XL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ControlNet as diffusers saves it."""
    place = tmp_path_factory.mktemp("controlnet")
    return make_tiny_control(place / "control", make_tiny_pipeline(place / "pipeline"))


def control(catalog: Catalog, files: dict[str, bytes], **more: Any) -> dict[str, Any]:
    """What a ControlNet of these files says to RegisterModel."""
    stored = [
        model_pb2.ModelFile(path=path, sha256=catalog.blobs.put(data), size_bytes=len(data))
        for path, data in files.items()
    ]
    return {
        "name": "canny",
        "type": model_pb2.MODEL_TYPE_CONTROLNET,
        "layout": model_pb2.WEIGHTS_LAYOUT_CONTROLNET,
        **({} if "hub" in more else {"stored": model_pb2.StoredWeights(files=stored)}),
        **more,
    }


def files_of(folder: Path, **config: Any) -> dict[str, bytes]:
    told = {**json.loads((folder / CONFIG).read_text(encoding="utf-8")), **config}
    return {CONFIG: json.dumps(told).encode(), WEIGHTS: (folder / WEIGHTS).read_bytes()}


async def test_one_is_registered_found_and_given_back_as_it_came(either: Catalog, folder: Path) -> None:
    files = files_of(folder)
    made = await either.register(**control(either, files))
    assert (await either.stub.GetModel(pb.GetModelRequest(model_id=made.id))).model == made
    assert (made.type, made.layout) == (model_pb2.MODEL_TYPE_CONTROLNET, model_pb2.WEIGHTS_LAYOUT_CONTROLNET)
    assert not made.HasField("base_model_id")
    await either.register()
    listed = await either.stub.ListModels(pb.ListModelsRequest(type=model_pb2.MODEL_TYPE_CONTROLNET))
    assert [model.id for model in listed.models] == [made.id]
    request = pb.ExportModelRequest(model_id=made.id, format=pb.EXPORT_FORMAT_DIFFUSERS)
    data = b"".join([part.content.data async for part in either.stub.ExportModel(request)])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {name: archive.read(name) for name in files} == files
        assert "controlnet" in archive.read("README.md").decode()


async def test_one_may_lie_on_a_hub_and_name_a_base(catalog: Catalog) -> None:
    base = await catalog.register()
    hub = {"repo_id": "somebody/canny", "revision": "a" * 40}
    made = await catalog.register(**control(catalog, {}, hub=hub, base_model_id=base.id))
    assert (made.hub.repo_id, made.base_model_id) == ("somebody/canny", base.id)
    with refused(FailedPrecondition, reason="FAMILY_MISMATCH"):
        await catalog.register(**control(catalog, {}, hub=hub, base_model_id=base.id, family=XL))


async def test_type_and_layout_go_together(catalog: Catalog, folder: Path) -> None:
    base = await catalog.register()
    for broken in ({"type": model_pb2.MODEL_TYPE_FULL}, {"layout": model_pb2.WEIGHTS_LAYOUT_PIPELINE}):
        with refused(InvalidArgument, field="layout"):
            await catalog.register(**control(catalog, files_of(folder), base_model_id=base.id, **broken))


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"family": model_pb2.MODEL_FAMILY_STABLE_DIFFUSION_3}, "family"),
        ({"category": model_pb2.MODEL_CATEGORY_VIDEO}, "category"),
    ],
)
async def test_what_takes_no_controlnets_is_named(
    catalog: Catalog, folder: Path, broken: dict[str, int], field: str
) -> None:
    with refused(InvalidArgument, field=field):
        await catalog.register(**control(catalog, files_of(folder), **broken))


async def test_files_are_the_two_that_diffusers_saves(catalog: Catalog, folder: Path) -> None:
    both = files_of(folder)
    for files in ({CONFIG: both[CONFIG]}, {**both, "extra.bin": b"x"}, {f"deep/{path}": both[path] for path in both}):
        with refused(InvalidArgument, field="stored.files", words=CONFIG):
            await catalog.register(**control(catalog, files))


def header(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({CONFIG: b"{"}, "CORRUPT"),
        ({CONFIG: b"[]"}, "CORRUPT"),
        ({CONFIG: b"\xff{}"}, "CORRUPT"),
        ({CONFIG: b'{"_class_name": "UNet2DConditionModel"}'}, "NOT_A_CONTROLNET"),
        ({CONFIG: b" " * (1 << 20) + b"{}"}, "TOO_MANY_BYTES"),
        ({WEIGHTS: b"\x80\x02pickled"}, "PICKLE_REFUSED"),
        ({WEIGHTS: struct.pack("<Q", 1 << 40) + b"{"}, "CORRUPT"),
        ({WEIGHTS: header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})}, "CORRUPT"),
        ({WEIGHTS: header({})}, "NOT_A_CONTROLNET"),
    ],
)
async def test_what_is_no_controlnet_is_refused(
    catalog: Catalog, folder: Path, spoilt: dict[str, bytes], reason: str
) -> None:
    with refused(InvalidArgument, field="stored.files", reason=reason):
        await catalog.register(**control(catalog, {**files_of(folder), **spoilt}))


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({}, XL),
        ({"addition_embed_type": "text_time"}, model_pb2.MODEL_FAMILY_STABLE_DIFFUSION),
        ({"cross_attention_dim": 2048}, model_pb2.MODEL_FAMILY_STABLE_DIFFUSION),
        ({"cross_attention_dim": 1024}, XL),
    ],
)
async def test_one_of_another_family_is_refused(
    catalog: Catalog, folder: Path, config: dict[str, Any], family: int
) -> None:
    with refused(FailedPrecondition, reason="FAMILY_MISMATCH"):
        await catalog.register(**control(catalog, files_of(folder, **config), family=family))


async def test_nothing_is_made_of_a_controlnet(catalog: Catalog, folder: Path) -> None:
    made = await catalog.register(**control(catalog, files_of(folder)))
    with refused(FailedPrecondition, reason="UNSUPPORTED_BASE_MODEL"):
        await catalog.register(**catalog.adapter(made.id))
    started = pb.ImportModelRequest(start=pb.ImportStart(name="lora", base_model_id=made.id))
    with refused(FailedPrecondition, reason="UNSUPPORTED_BASE_MODEL"):
        await catalog.stub.ImportModel(iter([started]))
