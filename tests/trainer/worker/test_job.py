"""Whole jobs in this process: what they report, what they leave in the blob store, and how they end."""

import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open

from services.common.blobs import BlobStore
from services.common.errors import AtelierError, InvalidArgument
from services.diffusion.load import load_components
from services.diffusion.weights import materialise
from services.trainer.domain import (
    Checkpoint,
    CheckpointConfig,
    Device,
    DreamBoothConfig,
    Loading,
    LoadingStage,
    Log,
    LoraConfig,
    Method,
    Optimizer,
    Paused,
    Precision,
    Progress,
    Report,
    Sample,
    SampleConfig,
    Schedule,
    Trained,
    TrainingConfig,
    ValidationConfig,
)
from services.trainer.worker.assignment import Assignment, BaseModel
from services.trainer.worker.checkpoint import Pace
from services.trainer.worker.data import Item
from services.trainer.worker.job import run_job
from services.trainer.worker.prepare import Places
from services.trainer.worker.record import config_of
from tests.trainer.worker.conftest import CAPTIONS, make_config

pytestmark = pytest.mark.usefixtures("accelerator")


JOB_ID = "0f0e0d0c-1111-2222-3333-444455556666"


@dataclass(frozen=True)
class House:
    """A base model and pictures in a blob store."""

    places: Places
    base: BaseModel
    items: tuple[Item, ...]

    def run(
        self,
        config: TrainingConfig,
        method: Method = Method.LORA,
        *,
        checkpoints: Sequence[Checkpoint] = (),
        pausing: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[Report | None]:
        """`checkpoints` of earlier attempts, newest first."""
        assignment = Assignment(JOB_ID, method, config, "ab" * 32, (self.base,), tuple(checkpoints))
        return run_job(assignment, self.items, self.places, pausing, clock)

    def reports(self, config: TrainingConfig, method: Method = Method.LORA) -> list[Report]:
        return [report for report in self.run(config, method) if report is not None]

    def folder(self, trained: Trained) -> Path:
        """The trained weights as a folder."""
        files = [(file.path, file.sha256) for file in trained.files]
        return materialise(files, self.places.blobs, self.places.models)


@pytest.fixture
def house(pipeline: Path, blobs: BlobStore, tmp_path: Path) -> House:
    paths = sorted(path for path in pipeline.rglob("*") if path.is_file())
    files = tuple((path.relative_to(pipeline).as_posix(), blobs.put_file(path)[0]) for path in paths)
    base = BaseModel(7, "tiny", "stable_diffusion", "cd" * 32, files)
    places = Places(blobs, tmp_path / "scratch", tmp_path / "models", tmp_path / "hub", None)
    return House(places, base, tuple(picture(blobs, place) for place in range(5)))


def picture(blobs: BlobStore, place: int) -> Item:
    pixels = numpy.random.default_rng(place).integers(0, 256, (40 + place, 36, 3), dtype=numpy.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return Item(blobs.put(buffer.getvalue()), f"{place}.png", CAPTIONS[place], 36, 40 + place)


def last(reports: list[Report]) -> Trained:
    assert isinstance(reports[-1], Trained)
    return reports[-1]


def digests(trained: Trained) -> dict[str, str]:
    return {file.path: file.sha256 for file in trained.files}


def test_a_lora_job_reports_its_stages_its_steps_and_its_weights(house: House) -> None:
    reports = house.reports(make_config(epochs=2))
    stages = [report.stage for report in reports if isinstance(report, Loading)]
    assert list(dict.fromkeys(stages)) == [
        LoadingStage.LOADING_MODEL,
        LoadingStage.CACHING_LATENTS,
        LoadingStage.SAVING,
    ]
    assert [report.step for report in reports if isinstance(report, Progress)] == [1, 2, 3, 4, 5, 6]
    trained = last(reports)
    assert (trained.step, trained.layout) == (6, 2)
    assert [file.path for file in trained.files] == ["pytorch_lora_weights.safetensors"]
    assert trained.files[0].size_bytes == house.places.blobs.size(trained.files[0].sha256)
    assert not list(house.places.scratch.glob("weights-*"))


def tensors(house: House, trained: Trained) -> list[bytes]:
    """What was learnt, without the files' headers."""
    contents = [house.places.blobs.get(file.sha256) for file in trained.files]
    return [content[8 + int.from_bytes(content[:8], "little") :] for content in contents]


def test_the_same_job_learns_the_same_with_or_without_samples_and_checkpoints(house: House) -> None:
    config = make_config(epochs=2, random_flip=True, caption_dropout=0.2, lora=LoraConfig(rank=2, dropout=0.1))
    plain = last(house.reports(config))
    samples = SampleConfig(("red apple", "blue cat"), interval_steps=2, steps=2)
    busy = house.reports(replace(config, samples=samples, checkpoints=CheckpointConfig(interval_steps=1)))
    assert tensors(house, plain) == tensors(house, last(busy))
    drawn = [(report.step, report.index) for report in busy if isinstance(report, Sample)]
    assert drawn == [(2, 0), (2, 1), (4, 0), (4, 1), (6, 0), (6, 1)]
    image = next(report for report in busy if isinstance(report, Sample))
    with Image.open(house.places.blobs.path(image.sha256)) as png:
        assert (png.format, png.size) == ("PNG", (image.width, image.height)) == ("PNG", (32, 32))


RESUMABLE: dict[str, tuple[Method, dict[str, object]]] = {
    "lora": (Method.LORA, {"random_flip": True, "caption_dropout": 0.2, "lora": LoraConfig(rank=2, dropout=0.1)}),
    "text encoder too": (Method.LORA, {"train_text_encoder": True, "gradient_accumulation_steps": 2}),
    "fused": (Method.FULL, {"max_grad_norm": 0.0, "train_text_encoder": True, "gradient_accumulation_steps": 2}),
    "fused 8-bit AdamW": (
        Method.FULL,
        {"max_grad_norm": 0.0, "optimizer": Optimizer.ADAMW_8BIT, "gradient_checkpointing": True, "ema_decay": 0.9},
    ),
    "fused Adafactor": (Method.FULL, {"max_grad_norm": 0.0, "optimizer": Optimizer.ADAFACTOR}),
    "8-bit AdamW": (Method.FULL, {"optimizer": Optimizer.ADAMW_8BIT}),
    "Prodigy and EMA": (Method.LORA, {"optimizer": Optimizer.PRODIGY, "learning_rate": 1.0, "ema_decay": 0.9}),
    "Adafactor and EMA": (Method.FULL, {"optimizer": Optimizer.ADAFACTOR, "ema_decay": 0.9}),
    "LoRA+ with DoRA": (Method.LORA, {"lora": LoraConfig(rank=2, dora=True, rslora=True, plus_ratio=4.0)}),
    "buckets, masks and shuffled tags": (
        Method.LORA,
        {"aspect_buckets": True, "masked_loss": True, "caption_shuffle": True},
    ),
    "validation": (Method.LORA, {"validation": ValidationConfig(0.3, interval_steps=1, patience=50, use_best=True)}),
    "full": (Method.FULL, {"schedule": Schedule.COSINE, "warmup_steps": 2}),
    "dreambooth": (
        Method.DREAMBOOTH,
        {"dreambooth": DreamBoothConfig("a sks dog", "a dog", prior_preservation=True, num_class_images=2)},
    ),
}


@pytest.mark.parametrize("name", RESUMABLE)
def test_training_that_goes_on_from_a_checkpoint_ends_with_the_same_bytes(house: House, name: str) -> None:
    method, options = RESUMABLE[name]
    config = make_config(epochs=3, checkpoints=CheckpointConfig(interval_steps=2), **options)
    undisturbed = house.reports(config, method)
    checkpoints = [report for report in undisturbed if isinstance(report, Checkpoint)]
    smoothed = [report.smoothed_loss for report in undisturbed if isinstance(report, Progress)]
    for cut, saved in enumerate(checkpoints):
        # As after a SIGKILL behind this checkpoint: all that is known of the attempt is what it left.
        made = (report for report in house.run(config, method) if isinstance(report, Checkpoint))
        before = list(itertools.islice(made, cut + 1))
        made.close()
        assert before[-1].state == saved.state, "states are bytes for bytes the same, too"
        resumed = [each for each in house.run(config, method, checkpoints=before[::-1]) if each is not None]
        steps = [report.step for report in resumed if isinstance(report, Progress)]
        assert steps == list(range(saved.step + 1, len(smoothed) + 1))
        assert digests(last(resumed)) == digests(last(undisturbed))
        assert [report.smoothed_loss for report in resumed if isinstance(report, Progress)] == pytest.approx(
            smoothed[saved.step :]
        )


@pytest.mark.parametrize("harm", ["flip a bit", "cut in half", "delete", "another job's"])
def test_a_damaged_state_is_passed_over_for_the_one_before_and_said_so(house: House, harm: str) -> None:
    config = make_config(epochs=3, checkpoints=CheckpointConfig(interval_steps=2))
    undisturbed = house.reports(config)
    older, newer = [report for report in undisturbed if isinstance(report, Checkpoint)][-2:]
    assert older.state is not None
    assert newer.state is not None
    path = house.places.blobs.path(newer.state.sha256)
    content = path.read_bytes()
    match harm:
        case "flip a bit":
            path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        case "cut in half":
            path.write_bytes(content[: len(content) // 2])
        case "delete":
            path.unlink()
        case _:
            foreign = house.places.blobs.put(content.replace(JOB_ID.encode(), JOB_ID[::-1].encode()))
            newer = replace(newer, state=replace(newer.state, sha256=foreign))
    resumed = [each for each in house.run(config, checkpoints=[newer, older]) if each is not None]
    logs = [report.message for report in resumed if isinstance(report, Log)]
    assert any(line.startswith(f"the state of step {newer.step} ") for line in logs)
    assert f"training goes on after step {older.step}, from its checkpoint" in logs
    assert digests(last(resumed)) == digests(last(undisturbed))


def test_without_a_sound_state_training_begins_anew_and_says_so(house: House) -> None:
    config = make_config(epochs=2, checkpoints=CheckpointConfig(interval_steps=2))
    undisturbed = house.reports(config)
    saved = [replace(each, state=None) for each in undisturbed if isinstance(each, Checkpoint)]
    resumed = [each for each in house.run(config, checkpoints=saved[::-1]) if each is not None]
    assert any(isinstance(each, Log) and "begins anew" in each.message for each in resumed)
    assert digests(last(resumed)) == digests(last(undisturbed))


def test_a_pause_comes_at_the_next_step_behind_a_checkpoint(house: House) -> None:
    config = make_config(max_steps=120)
    undisturbed = last(house.reports(config))
    seen: list[Report] = []

    def begun() -> bool:
        return any(isinstance(each, Progress) for each in seen)

    seen.extend(report for report in house.run(config, pausing=begun) if report is not None)
    saved, paused = seen[-2:]
    assert isinstance(saved, Checkpoint)
    assert isinstance(paused, Paused)
    steps = [report.step for report in seen if isinstance(report, Progress)]
    assert saved.step == steps[-1] < undisturbed.step, "it was paused in the middle"
    resumed = [each for each in house.run(config, checkpoints=[saved]) if each is not None]
    assert digests(last(resumed)) == digests(undisturbed)


def test_a_pause_while_the_job_is_prepared_leaves_it_at_once(house: House) -> None:
    reports = [report for report in house.run(make_config(), pausing=lambda: True) if report is not None]
    assert isinstance(reports[-1], Paused)
    assert not any(isinstance(report, Progress | Checkpoint) for report in reports)


def test_checkpoints_come_as_often_as_they_cost_little() -> None:
    now = 0.0
    pace = Pace(None, last_step=1000, clock=lambda: now)
    due = []
    for step in range(1, 1001):
        now += 1.0
        assert pace.due(step) is pace.due(step)
        if pace.due(step):
            due.append(step)
            now += 3.0
            pace.saved(3.0)
    assert due[0] == 60, "no more than one a minute"
    assert {later - before for before, later in itertools.pairwise(due)} == {150}, "3 seconds are 2 % of 150"


def test_a_lora_draws_in_a_plain_pipeline_what_the_trained_model_draws(house: House, pipeline: Path) -> None:
    config = make_config(max_steps=8, learning_rate=3e-2, train_text_encoder=True, lora=LoraConfig(rank=4, alpha=2.0))
    samples = SampleConfig(("red apple",), steps=3, guidance_scale=2.0)
    reports = house.reports(replace(config, samples=samples))
    sample = next(report for report in reports if isinstance(report, Sample))
    file = house.places.blobs.path(last(reports).files[0].sha256)
    with safe_open(file, framework="pt") as weights:
        record = weights.metadata()
        keys = set(weights.keys())
    assert record["ss_network_dim"] == "4"
    assert record["ss_network_alpha"] == "2.0"
    assert record["atelier_job_id"] == "0f0e0d0c-1111-2222-3333-444455556666"
    assert record["atelier_snapshot_digest"] == "ab" * 32
    assert record["ss_sd_model_hash"] == "cd" * 32
    assert {key.partition(".")[0] for key in keys} == {"unet", "text_encoder"}
    plain = StableDiffusionPipeline.from_pretrained(pipeline)
    plain.set_progress_bar_config(disable=True)
    plain.load_lora_weights(house.folder(last(reports)), weight_name="pytorch_lora_weights.safetensors")

    def draw() -> numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.int64]]:
        from services.trainer.worker.seeds import derive_seed

        generator = torch.Generator().manual_seed(derive_seed(7, "sample", 0))
        arguments = {"num_inference_steps": 3, "guidance_scale": 2.0, "width": 32, "height": 32}
        return numpy.array(plain("red apple", generator=generator, **arguments).images[0]).astype(int)

    with_lora = draw()
    plain.unload_lora_weights()
    trained = numpy.array(Image.open(house.places.blobs.path(sample.sha256))).astype(int)
    assert abs(with_lora - trained).max() <= 1
    assert abs(draw() - trained).max() > 8


@pytest.mark.parametrize("text_encoder", [False, True])
def test_full_training_leaves_half_precision_folders_that_plain_diffusers_loads(
    house: House, pipeline: Path, text_encoder: bool
) -> None:
    config = make_config(max_steps=2, learning_rate=1e-2, train_text_encoder=text_encoder)
    trained = last(house.reports(config, Method.FULL))
    assert trained.layout == 1
    folder = house.folder(trained)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    base = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    assert not torch.equal(unet.conv_in.weight, base.conv_in.weight)
    assert (folder / "text_encoder").exists() == text_encoder
    with safe_open(folder / "unet/diffusion_pytorch_model.safetensors", framework="pt") as weights:
        assert weights.get_tensor("conv_in.weight").dtype == torch.float16
        assert weights.metadata()["atelier_method"] == "full"
    whole = load_components([folder, pipeline], family="stable_diffusion", device="cpu", dtype=torch.float32)
    plain = load_components([pipeline], family="stable_diffusion", device="cpu", dtype=torch.float32)
    pairs = zip(whole.text_encoders[0].parameters(), plain.text_encoders[0].parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs) != text_encoder
    # A model trained on this one takes what it lacks from the base behind it.
    again = BaseModel(8, "mine", "stable_diffusion", "", tuple((each.path, each.sha256) for each in trained.files))
    assignment = Assignment("1" * 36, Method.LORA, make_config(max_steps=1), "ab" * 32, (again, house.base))
    assert isinstance(list(run_job(assignment, house.items, house.places))[-1], Trained)


def test_dreambooth_draws_its_class_with_the_base_model_before_it_trains(house: House) -> None:
    dreambooth = DreamBoothConfig("photo of sks dog", "a dog", prior_preservation=True, num_class_images=3)
    config = make_config(max_steps=2, dreambooth=dreambooth)
    reports = house.reports(config, Method.DREAMBOOTH)
    drawing = [report for report in reports if getattr(report, "stage", None) is LoadingStage.DRAWING_CLASS_IMAGES]
    assert [(report.done, report.total) for report in drawing if isinstance(report, Loading)] == [
        (0, 3),
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    caching = [report for report in reports if getattr(report, "stage", None) is LoadingStage.CACHING_LATENTS]
    assert isinstance(caching[-1], Loading)
    assert caching[-1].total == len(house.items) + 3
    assert last(reports).layout == 2
    whole = replace(config, dreambooth=replace(dreambooth, full=True, prior_preservation=False))
    assert last(house.reports(whole, Method.DREAMBOOTH)).layout == 1


def drawing_reports(reports: Sequence[Report | None]) -> list[int]:
    """How many of the class were there at each report of their drawing."""
    stage = LoadingStage.DRAWING_CLASS_IMAGES
    return [each.done for each in reports if isinstance(each, Loading) and each.stage is stage]


def test_a_class_is_drawn_once_however_often_the_job_is_begun(house: House) -> None:
    dreambooth = DreamBoothConfig("photo of sks dog", "a dog", prior_preservation=True, num_class_images=6)
    config = make_config(max_steps=1, dreambooth=dreambooth)
    whole = house.reports(config, Method.DREAMBOOTH)
    assert drawing_reports(house.reports(config, Method.DREAMBOOTH)) == [], "they are kept"
    other = replace(config, seed=8)
    begun = house.run(other, Method.DREAMBOOTH)
    while drawing_reports([next(begun)]) != [5]:
        pass
    begun.close()  # type: ignore[attr-defined]  # an Iterator by its type, a generator by nature
    resumed = house.reports(other, Method.DREAMBOOTH)
    assert drawing_reports(resumed) == [4, 5, 6], "what a batch was drawn with is drawn together again"
    undisturbed = replace(house, places=replace(house.places, models=house.places.models / "elsewhere"))
    afresh = undisturbed.reports(other, Method.DREAMBOOTH)
    assert drawing_reports(afresh) == [0, 1, 2, 3, 4, 5, 6]
    assert digests(last(resumed)) == digests(last(afresh)) != digests(last(whole))


def test_a_damaged_class_picture_is_drawn_again(house: House) -> None:
    dreambooth = DreamBoothConfig("photo of sks dog", "a dog", prior_preservation=True, num_class_images=2)
    config = make_config(max_steps=1, dreambooth=dreambooth)
    whole = house.reports(config, Method.DREAMBOOTH)
    pictures = [each for each in house.places.class_cache.glob("*/??/*") if each.is_file()]
    assert len(pictures) == 2
    pictures[0].write_bytes(b"half")
    again = house.reports(config, Method.DREAMBOOTH)
    assert drawing_reports(again) == [0, 1, 2]
    assert digests(last(again)) == digests(last(whole))


def test_a_class_that_is_a_dataset_is_learnt_and_none_is_drawn(house: House) -> None:
    dreambooth = DreamBoothConfig("photo of sks dog", "a dog", prior_preservation=True, class_dataset_id=9)
    config = make_config(max_steps=2, dreambooth=dreambooth, aspect_buckets=True, masked_loss=True)
    assignment = Assignment(JOB_ID, Method.DREAMBOOTH, config, "ab" * 32, (house.base,), (), "ef" * 32)

    def train(class_items: Sequence[Item]) -> list[Report]:
        reports = run_job(assignment, house.items[:2], house.places, class_items=class_items)
        return [report for report in reports if report is not None]

    one = train(house.items[2:5])
    assert drawing_reports(one) == []
    caching = [each for each in one if isinstance(each, Loading) and each.stage is LoadingStage.CACHING_LATENTS]
    assert caching[-1].total == 2 + 3
    recaptioned = [replace(item, caption="a red apple") for item in house.items[2:5]]
    assert digests(last(train(recaptioned))) == digests(last(one)), "its captions are not read"
    assert digests(last(train(house.items[3:5]))) != digests(last(one)), "and its pictures are"


def test_leaving_a_job_leaves_nothing_behind(house: House) -> None:
    job = house.run(make_config(max_steps=100_000))
    for report in job:
        if isinstance(report, Progress):
            break
    job.close()  # type: ignore[attr-defined]  # an Iterator by its type, a generator by nature
    assert not list(house.places.scratch.glob("weights-*"))


def _poisoned(house: House) -> House:
    return replace(house, items=(replace(house.items[0], sha256=house.places.blobs.put(b"no picture")),))


def _gone(house: House) -> House:
    return replace(house, items=(replace(house.items[0], sha256="0" * 64),))


def _weightless(house: House) -> House:
    return replace(house, base=replace(house.base, files=(("unet/config.json", "1" * 64),)))


@pytest.mark.parametrize(
    ("spoil", "changes", "reason", "words"),
    [
        (_poisoned, {}, "BAD_IMAGE", "0.png"),
        (_gone, {}, "IMAGE_UNAVAILABLE", "0.png"),
        (_weightless, {}, "WEIGHTS_UNAVAILABLE", "unet/config.json"),
        (lambda house: replace(house, items=()), {}, "EMPTY_DATASET", "empty"),
        (None, {"resolution": 40}, None, "config.resolution"),
        (None, {"lora": LoraConfig(target_modules=("to_nowhere",))}, None, "config.lora.target_modules"),
        (None, {"device": Device.MPS}, None, "config.device"),
        (None, {"mixed_precision": Precision.FP16, "device": Device.CPU}, None, "config.mixed_precision"),
    ],
)
def test_what_cannot_be_done_says_why(
    house: House,
    spoil: Callable[[House], House] | None,
    changes: dict[str, object],
    reason: str | None,
    words: str,
) -> None:
    if "device" in changes and changes["device"] is Device.MPS and torch.backends.mps.is_available():
        pytest.skip("there is an MPS device")
    spoilt = spoil(house) if spoil else house
    with pytest.raises(AtelierError) as raised:
        spoilt.reports(make_config(max_steps=1, **changes))
    assert words in raised.value.message or words in str(raised.value)
    if reason is None:
        assert isinstance(raised.value, InvalidArgument)
    else:
        assert raised.value.reason == reason


def record_of(house: House, trained: Trained) -> dict[str, Any]:
    file = next(file for file in trained.files if file.path.endswith(".safetensors"))
    with safe_open(house.places.blobs.path(file.sha256), framework="pt") as weights:
        record: dict[str, Any] = json.loads(weights.metadata()["atelier_training"])
    return record


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_training_from_the_record_of_a_model_gives_the_models_bytes(house: House, method: Method) -> None:
    lora = LoraConfig(rank=2, alpha=3.0, dropout=0.1) if method is Method.LORA else None
    config = make_config(max_steps=3, seed=2**53 - 1, trigger_word="tusché", random_flip=True, lora=lora)
    trained = last(house.reports(config, method))
    record = record_of(house, trained)
    told = Assignment(JOB_ID, Method(record["method"]), config_of(record), record["snapshot_digest"], (house.base,))
    assert told.config == config, "every setting is in the record"
    again = [report for report in run_job(told, house.items, house.places) if report is not None]
    assert digests(last(again)) == digests(trained)


def test_the_record_names_all_that_decides_the_weights(house: House) -> None:
    record = record_of(house, last(house.reports(make_config(max_steps=1))))
    assert record["bases"] == [{"name": "tiny", "family": "stable_diffusion", "digest": "cd" * 32}]
    assert (record["snapshot_digest"], record["class_snapshot_digest"]) == ("ab" * 32, "")
    assert (record["device"], record["mixed_precision"]) == ("cpu", "no")
    assert (record["seed"], record["step"], record["num_images"]) == (7, 1, 5)
    assert record["versions"]["torch"] == torch.__version__
    assert set(record["versions"]) > {"python", "atelier", "diffusers", "transformers", "peft"}
    settings = record["config"]
    assert (settings["weight_decay"], settings["optimizer"]) == (0.01, "OPTIMIZER_ADAMW"), "defaults are visible"
    assert JOB_ID not in json.dumps(record)


def test_the_header_is_text_that_other_tools_read(house: House) -> None:
    config = make_config(max_steps=1, trigger_word="inkstyle", snr_gamma=5.0)
    file = house.places.blobs.path(last(house.reports(config)).files[0].sha256)
    with safe_open(file, framework="pt") as weights:
        record = weights.metadata()
    assert record["modelspec.trigger_phrase"] == "inkstyle"
    assert record["ss_resolution"] == "(32, 32)"
    assert record["ss_num_train_images"] == "5"
    assert float(record["ss_min_snr_gamma"]) == 5.0
    assert json.loads(record["ss_network_args"])["target_modules"]
