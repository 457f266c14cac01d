"""Models written for other programs, and LoRAs taken in from them."""

import io
import json
import uuid
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from atelier.catalog.v1 import catalog_service_pb2 as pb
from atelier.catalog.v1 import model_pb2
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.numpy import load, save

from services.catalog.lora_files import read_lora
from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.diffusion.adapters import add_lora, load_loras, save_lora, set_lora_weights
from services.diffusion.load import load_components
from tests.catalog.house import Catalog, refused, sha256
from tests.tiny import make_tiny_pipeline

INPUTS = (torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 16, 32))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


def make_lora(pipeline: Path, folder: Path, *, text_encoder: bool = True, **options: Any) -> Path:
    """A LoRA that changes much, as a training leaves it."""
    components = load_components([pipeline], family="stable_diffusion", device="cpu", dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        parameters = add_lora(
            components.denoiser,
            rank=4,
            alpha=2.0,
            text_encoders=components.text_encoders if text_encoder else (),
            **options,
        )
        for parameter in parameters:
            parameter.data.normal_(std=0.3)
    record = {"ss_network_dim": "4", "ss_network_alpha": "2.0", "ss_seed": "7", "modelspec.trigger_phrase": "inkstyle"}
    adapted = components.adaptable if text_encoder else {"unet": components.denoiser}
    return save_lora(folder, metadata=record, **adapted)


async def base_model(catalog: Catalog, blobs: BlobStore, pipeline: Path) -> int:
    files = []
    for path in sorted(path for path in pipeline.rglob("*") if path.is_file()):
        digest, size = blobs.put_file(path)
        files.append(model_pb2.ModelFile(path=path.relative_to(pipeline).as_posix(), sha256=digest, size_bytes=size))
    request = pb.RegisterModelRequest(
        name="tiny base",
        type=model_pb2.MODEL_TYPE_BASE_MODEL,
        category=model_pb2.MODEL_CATEGORY_IMAGE,
        family=model_pb2.MODEL_FAMILY_STABLE_DIFFUSION,
        layout=model_pb2.WEIGHTS_LAYOUT_PIPELINE,
        stored=model_pb2.StoredWeights(files=files),
        license="Apache-2.0",
        native_resolution=64,
    )
    return (await catalog.stub.RegisterModel(request)).model.id


async def registered(catalog: Catalog, blobs: BlobStore, base_id: int, file: Path) -> int:
    digest, size = blobs.put_file(file)
    request = pb.RegisterModelRequest(
        name="Tusche / Ink?".replace("/", "&"),
        type=model_pb2.MODEL_TYPE_LORA,
        category=model_pb2.MODEL_CATEGORY_IMAGE,
        family=model_pb2.MODEL_FAMILY_STABLE_DIFFUSION,
        layout=model_pb2.WEIGHTS_LAYOUT_LORA,
        stored=model_pb2.StoredWeights(files=[model_pb2.ModelFile(path=file.name, sha256=digest, size_bytes=size)]),
        base_model_id=base_id,
        trigger_words=["inkstyle"],
        license="Apache-2.0",
    )
    return (await catalog.stub.RegisterModel(request)).model.id


async def exported(catalog: Catalog, model_id: int, format: str = "DIFFUSERS") -> tuple[str, bytes]:
    number = pb.ExportFormat.Value(f"EXPORT_FORMAT_{format}")
    request = pb.ExportModelRequest(model_id=model_id, format=number)
    answers = [answer async for answer in catalog.stub.ExportModel(request)]
    assert all(not answer.filename for answer in answers[1:])
    return answers[0].filename, b"".join(answer.content.data for answer in answers)


async def imported(catalog: Catalog, data: bytes, base_id: int, piece: int = 10_000, **more: Any) -> Any:
    async def parts() -> AsyncIterator[pb.ImportModelRequest]:
        yield pb.ImportModelRequest(
            start=pb.ImportStart(**{"name": "from elsewhere", "base_model_id": base_id, **more})
        )
        for offset in range(0, len(data), piece):
            yield pb.ImportModelRequest(chunk=pb.ImportChunk(offset=offset, data=data[offset : offset + piece]))

    return await catalog.stub.ImportModel(parts())


def answer_of(pipeline: Path, folder: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What plain diffusers' denoiser and text encoder say with a LoRA file."""
    plain = StableDiffusionPipeline.from_pretrained(pipeline)
    plain.load_lora_weights(folder, weight_name=name)
    with torch.no_grad():
        words = plain.text_encoder(torch.arange(16)[None])[0]
        return plain.unet(*INPUTS).sample, words


@pytest.mark.parametrize("rslora", [False, True])
async def test_a_lora_in_kohyas_layout_draws_the_same_in_plain_diffusers(
    catalog: Catalog, blobs: BlobStore, pipeline: Path, tmp_path: Path, rslora: bool
) -> None:
    ours = make_lora(pipeline, tmp_path / "ours", rslora=rslora)
    model_id = await registered(catalog, blobs, await base_model(catalog, blobs, pipeline), ours)
    filename, data = await exported(catalog, model_id, "LORA_KOHYA")
    assert filename == "Tusche-Ink-kohya.safetensors"
    assert (await exported(catalog, model_id, "LORA_KOHYA"))[1] == data, "equal models give equal files"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / filename).write_bytes(data)
    tensors = load(data)
    kinds = {name.rpartition("lora_down.weight")[1] or name.rpartition(".")[2] for name in tensors}
    assert kinds == {"lora_down.weight", "weight", "alpha"}
    assert {name.split("_")[1] for name in tensors} == {"unet", "te"}
    assert {float(value) for name, value in tensors.items() if name.endswith(".alpha")} == {4.0 if rslora else 2.0}
    with safe_open(tmp_path / "theirs" / filename, framework="np") as file:
        record = file.metadata()
    assert (record["ss_network_dim"], record["ss_seed"], record["modelspec.title"]) == ("4", "7", "Tusche & Ink?")
    assert float(record["ss_network_alpha"]) == (4.0 if rslora else 2.0)
    begin = 8 + int.from_bytes(data[:8], "little")
    assert record["sshs_model_hash"] == sha256(data[begin:])
    expected = answer_of(pipeline, tmp_path / "ours", ours.name)
    found = answer_of(pipeline, tmp_path / "theirs", filename)
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-4)


async def test_what_comes_back_from_kohyas_layout_is_drawn_by_the_generators_loader(
    catalog: Catalog, blobs: BlobStore, pipeline: Path, tmp_path: Path
) -> None:
    ours = make_lora(pipeline, tmp_path / "ours")
    base_id = await base_model(catalog, blobs, pipeline)
    _, data = await exported(catalog, await registered(catalog, blobs, base_id, ours), "LORA_KOHYA")
    answer = await imported(catalog, data, base_id, trigger_words=["ink"], license="MIT")
    model = answer.model
    assert (answer.rank, answer.layout) == (4, "kohya")
    assert (model.name, model.base_model_id, model.license) == ("from elsewhere", base_id, "MIT")
    assert (model.layout, model.type) == (model_pb2.WEIGHTS_LAYOUT_LORA, model_pb2.MODEL_TYPE_LORA)
    assert list(model.trigger_words) == ["ink"]
    (file,) = model.stored.files
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / file.path).write_bytes(blobs.get(file.sha256))

    def drawn(path: Path) -> torch.Tensor:
        components = load_components([pipeline], family="stable_diffusion", device="cpu", dtype=torch.float32)
        load_loras(components, [("one", path)])
        set_lora_weights(components, {"one": 1.0})
        with torch.no_grad():
            return components.denoiser(*INPUTS).sample

    torch.testing.assert_close(drawn(tmp_path / "back" / file.path), drawn(ours), atol=1e-5, rtol=1e-4)


async def test_a_zip_holds_the_files_and_a_card_that_the_hubs_tools_read(
    either: Catalog, blobs: BlobStore, pipeline: Path, tmp_path: Path
) -> None:
    ours = make_lora(pipeline, tmp_path)
    base_id = await base_model(either, blobs, pipeline)
    model_id = await registered(either, blobs, base_id, ours)
    filename, data = await exported(either, model_id)
    assert filename == "Tusche-Ink.zip"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["README.md", ours.name]
        assert archive.read(ours.name) == ours.read_bytes()
        card = ModelCard(archive.read("README.md").decode())
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "tiny base")
    assert (card.data.library_name, card.data.pipeline_tag) == ("diffusers", "text-to-image")
    assert card.data.to_dict()["instance_prompt"] == "inkstyle"
    assert "lora" in card.data.tags
    assert "load_lora_weights" in card.text
    assert (await exported(either, model_id))[1] == data, "equal models give equal files"

    told = {"atelier_training": '{"seed": 7}'}
    trained = tmp_path / "trained" / ours.name
    trained.parent.mkdir()
    trained.write_bytes(save(load(ours.read_bytes()), metadata=told))
    _, data = await exported(either, await registered(either, blobs, base_id, trained))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["README.md", "training.json", ours.name]
        assert json.loads(archive.read("training.json")) == {"seed": 7}, "the record that its header holds"

    whole, data = await exported(either, base_id)
    assert whole == "tiny-base.zip"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(tmp_path / "whole")
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "whole").unet.config.in_channels == 4
    assert (await exported(either, model_id, "LORA_DIFFUSERS"))[1] == ours.read_bytes()


async def test_what_a_format_cannot_hold_is_refused_with_the_reason(
    catalog: Catalog, blobs: BlobStore, pipeline: Path, tmp_path: Path
) -> None:
    base_id = await base_model(catalog, blobs, pipeline)
    dora = await registered(catalog, blobs, base_id, make_lora(pipeline, tmp_path / "dora", dora=True))
    with refused(FailedPrecondition, words="DoRA"):
        await exported(catalog, dora, "LORA_KOHYA")
    with refused(FailedPrecondition, words="is no LoRA"):
        await exported(catalog, base_id, "LORA_KOHYA")
    with refused(NotFound):
        await exported(catalog, 4711)
    plain = make_lora(pipeline, tmp_path / "plain", text_encoder=False)
    _, theirs = await exported(catalog, await registered(catalog, blobs, base_id, plain), "LORA_KOHYA")
    foreign = (await imported(catalog, theirs, base_id)).model.id
    with refused(FailedPrecondition, words="was not made here"):
        await exported(catalog, foreign, "LORA_KOHYA")
    assert (await exported(catalog, foreign, "LORA_DIFFUSERS"))[1] == theirs


def lora(**tensors: tuple[int, ...]) -> bytes:
    return save({name: numpy.zeros(shape, numpy.float32) for name, shape in tensors.items()})


KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SOUND = lora(**{f"{KEY}.lora_down.weight": (4, 32), f"{KEY}.lora_up.weight": (16, 4), f"{KEY}.alpha": ()})


def with_header(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A sound file whose header lies."""
    length = int.from_bytes(SOUND[:8], "little")
    header = json.loads(SOUND[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + SOUND[8 + length :]


def entry(header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = header[f"{KEY}.lora_down.weight"]
    return found


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"PK\x03\x04" + bytes(100), "PICKLE_REFUSED", "pickle"),
        (b"\x80\x02}q\x00." + bytes(100), "PICKLE_REFUSED", "convert it to .safetensors"),
        (b"", "CORRUPT", "cut off"),
        (SOUND[:40], "CORRUPT", "cut off"),
        (SOUND[:-10], "CORRUPT", "does not lie where its shape says"),
        ((1 << 40).to_bytes(8, "little") + bytes(50), "CORRUPT", "cut off"),
        (with_header(lambda header: entry(header).update(data_offsets=[0, 1 << 40])), "CORRUPT", "does not lie"),
        (with_header(lambda header: entry(header).update(shape=[4, 33])), "CORRUPT", "does not lie"),
        (with_header(lambda header: entry(header).update(dtype="F8_WHAT")), "CORRUPT", "cannot be used"),
        (with_header(lambda header: entry(header).update(shape=[-4, -32])), "CORRUPT", "cannot be used"),
        (with_header(lambda header: header.update(__metadata__={"a": 1})), "CORRUPT", "not all text"),
        (lora(**{"encoder.layer.0.weight": (4, 4)}), "NOT_A_LORA", "holds no LoRA"),
        (lora(**{"lora_unet_x.alpha": ()}), "NOT_A_LORA", "no layer has a down matrix"),
        (save({}), "NOT_A_LORA", "holds no LoRA"),
    ],
)
async def test_a_file_that_is_no_sound_lora_is_refused_and_nothing_is_left_of_it(
    catalog: Catalog, blobs: BlobStore, pipeline: Path, data: bytes, reason: str, words: str
) -> None:
    base_id = await base_model(catalog, blobs, pipeline)
    before = sorted(blobs.root.rglob("*"))
    with refused(InvalidArgument, field="chunk", reason=reason, words=words):
        await imported(catalog, data, base_id)
    assert sorted(blobs.root.rglob("*")) == before


async def test_an_import_is_done_once_and_in_order_and_fits_its_base(
    catalog: Catalog, blobs: BlobStore, pipeline: Path
) -> None:
    base_id = await base_model(catalog, blobs, pipeline)
    request_id = str(uuid.uuid4())
    first = (await imported(catalog, SOUND, base_id, request_id=request_id)).model
    assert (await imported(catalog, SOUND, base_id, request_id=request_id)).model == first
    with refused(NotFound):
        await imported(catalog, SOUND, 4711)
    with refused(FailedPrecondition, words="is a LoRA itself"):
        await imported(catalog, SOUND, first.id)
    big = lora(**{f"{KEY}.lora_down.weight": (4, 2048), f"{KEY}.lora_up.weight": (16, 4)})
    with refused(FailedPrecondition, words="a LoRA for stable_diffusion_xl"):
        await imported(catalog, big, base_id)

    async def torn() -> AsyncIterator[pb.ImportModelRequest]:
        yield pb.ImportModelRequest(start=pb.ImportStart(name="torn", base_model_id=base_id))
        yield pb.ImportModelRequest(chunk=pb.ImportChunk(offset=0, data=SOUND[:50]))
        yield pb.ImportModelRequest(chunk=pb.ImportChunk(offset=60, data=SOUND[60:]))

    with refused(InvalidArgument, words="begins at 60 where 50 was due"):
        await catalog.stub.ImportModel(torn())


def test_the_rank_and_the_family_are_read_from_the_header_alone(tmp_path: Path) -> None:
    for width, family in (
        (768, "stable_diffusion"),
        (1024, "stable_diffusion"),
        (2048, "stable_diffusion_xl"),
        (32, None),
    ):
        file = tmp_path / f"{width}.safetensors"
        file.write_bytes(lora(**{f"{KEY}.lora_down.weight": (7, width), f"{KEY}.lora_up.weight": (16, 7)}))
        found = read_lora(file)
        assert (found.rank, found.family and found.family.value) == (7, family)
