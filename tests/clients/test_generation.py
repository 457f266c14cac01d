"""What the SDK and the command make of what is asked, and what they do when a connection is cut."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from atelier.catalog.v1.dataset_pb2 import Image as DatasetImage
from atelier.generator.v1 import generation_pb2 as types
from atelier.generator.v1 import generator_service_pb2 as pb
from atelier.generator.v1.generator_service_pb2_grpc import (
    GeneratorServiceServicer,
    add_GeneratorServiceServicer_to_server,
)
from atelier_client import Atelier, Control, HighResolution, Picture
from atelier_client.cli.drawing import number_of_pictures, parse_control, parse_lora, parse_wildcard, picture_named
from atelier_client.errors import DeadlineExceeded, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from atelier_client.gallery import save_all
from atelier_client.inputs import MAX_BYTES, input_image
from atelier_client.pictures import drawing_of
from atelier_client.plain import flatten, to_plain
from PIL import Image

from services.common import errors
from services.common.server import Server

ID = "8c0a4f7e-3b1d-4a56-9c1e-0123456789ab"


@pytest.fixture
def client() -> Iterator[Atelier]:
    """One whose services nobody runs: what needs no answer works."""
    with Atelier(catalog="127.0.0.1:1", trainer="", generator="127.0.0.1:1") as unconnected:
        yield unconnected


def file_of(folder: Path, name: str = "cat.png") -> Path:
    Image.new("RGB", (8, 8), (200, 90, 10)).save(folder / name)
    return folder / name


def picture(index: int = 0, *, seed: int = 7, content_type: str = "image/png", sheet: bool = False) -> Picture:
    image = types.GeneratedImage(index=index, seed=seed, width=8, height=8, content_type=content_type, is_sheet=sheet)
    return Picture(b"picture %d" % index, ID, image)


# What is asked


def test_what_is_not_said_stays_unset(client: Atelier) -> None:
    assert client.generations.settings("a cat", 4) == types.GenerationSettings(model_id=4, prompt="a cat")


def test_a_picture_to_begin_with_may_come_from_anywhere(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    for source in (file, str(file), file.read_bytes()):
        assert input_image(source, field="image").data == file.read_bytes()
    with Image.open(file) as opened:
        sent = Image.open(io.BytesIO(input_image(opened, field="image").data))
    assert (sent.format, sent.size, sent.getpixel((0, 0))) == ("PNG", (8, 8), (200, 90, 10))
    reference = types.GeneratedImageRef(generation_id=ID, index=2)
    for source in (picture(2), reference):
        assert input_image(source, field="image").generated == reference
    for source in (12, DatasetImage(id=12)):
        assert input_image(source, field="image").dataset_image_id == 12
    whole = types.InputImage(sha256="0" * 64)
    assert input_image(whole, field="image") == whole


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere.png", "cannot be read"),
        (b"", "is empty"),
        (bytes(MAX_BYTES + 1), "32 are taken at most"),
        (1.5, "does not take a float"),
    ],
    ids=["no file", "empty", "large", "a number"],
)
def test_a_picture_that_is_none_is_named(source: object, words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"mask: .*{words}"):
        input_image(source, field="mask")  # type: ignore[arg-type]  # what a user without types may give


def test_a_picture_is_drawn_over_within_its_mask(client: Atelier, tmp_path: Path) -> None:
    settings = client.generations.settings("x", 4, image=file_of(tmp_path), strength=0.5, mask=12, mask_blur=0)
    over = settings.image_to_image
    assert (over.strength, over.mask.dataset_image_id, over.mask_blur) == (0.5, 12, 0)
    assert over.HasField("mask_blur"), "0 is a blur, and not the default"
    assert not settings.HasField("image_to_video")


def test_what_is_of_clips_makes_it_a_clip(client: Atelier) -> None:
    clip = client.generations.settings("", 3, image=12, frames=8, fps=6, motion=0, noise_augmentation=0.1)
    asked = clip.image_to_video
    assert (asked.num_frames, asked.frames_per_second, asked.motion_bucket_id) == (8, 6, 0)
    assert asked.image.dataset_image_id == 12
    assert not clip.HasField("image_to_image")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": 0.5}, "image: is needed for strength"),
        ({"frames": 8}, "image: is needed for frames"),
        ({"image": 1, "frames": 8, "mask": 2}, "mask: .*frames"),
        ({"size": "big"}, "size"),
        ({"format": "bmp"}, r"settings\.format: .*animated_webp"),
        ({"prompt_syntax": "lisp"}, r"settings\.prompt_syntax: .*weighted"),
        ({"steps": "many"}, r"settings\.steps"),
    ],
)
def test_options_that_do_not_go_together_are_refused(client: Atelier, options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        client.generations.settings("x", 4, **options)  # type: ignore[arg-type]  # what a user without types may give


def test_an_option_that_there_is_not_is_a_type_error(client: Atelier) -> None:
    with pytest.raises(TypeError, match="'stepz'"):
        client.generate("x", model=4, stepz=3)  # type: ignore[call-arg]  # the point of the test


def test_everything_else_has_its_place(client: Atelier, tmp_path: Path) -> None:
    (tmp_path / "animals.txt").write_text("cat\n\n# no dogs\n owl \n", encoding="utf-8")
    settings = client.generations.settings(
        "a __colour__ __animal__",
        4,
        loras={5: 0.25, 6: -1},
        controls=[Control(9, 12, weight=0.0, end=0.5)],
        high_resolution=HighResolution(1.5, steps=4),
        prompt_syntax="weighted",
        wildcards={"animal": tmp_path / "animals.txt", "colour": ["red", "blue"]},
        format="WebP",
        quality=80,
        deterministic=True,
    )
    assert [(each.model_id, each.weight) for each in settings.loras] == [(5, 0.25), (6, -1)]
    (control,) = settings.controls
    assert (control.model_id, control.weight, control.HasField("start"), control.end) == (9, 0.0, False, 0.5)
    assert control.HasField("weight")
    second = settings.high_resolution
    assert (second.scale, second.HasField("strength"), second.steps) == (1.5, False, 4)
    assert {name: list(each.lines) for name, each in settings.wildcards.items()} == {
        "animal": ["cat", "owl"],
        "colour": ["red", "blue"],
    }
    assert (settings.format, settings.quality, settings.deterministic) == (types.PICTURE_FORMAT_WEBP, 80, True)
    plain = to_plain(settings)
    assert plain["wildcards"]["animal"] == {"lines": ["cat", "owl"]}
    assert dict(flatten(plain, "settings"))["settings.loras[1].weight"] == -1


def test_a_number_is_the_second_passs_scale_and_a_name_a_controlnet(client: Atelier) -> None:
    settings = client.generations.settings("x", 4, high_resolution=2, controls={9: 12})
    assert settings.high_resolution.scale == 2
    assert settings.controls[0].image.dataset_image_id == 12


def test_a_grid_has_every_axis_that_is_given(client: Atelier) -> None:
    settings = client.generations.grid_settings(["a", "b"], [4, 5], weights=[0.5, 1], seeds=[1, 2, 3], steps=2)
    assert (settings.prompt, settings.model_id, settings.steps, settings.HasField("count")) == ("a", 4, 2, False)
    assert (list(settings.grid.prompts), list(settings.grid.model_ids)) == (["a", "b"], [4, 5])
    assert (list(settings.grid.lora_weights), list(settings.grid.seeds)) == ([0.5, 1], [1, 2, 3])
    assert number_of_pictures(settings) == 2 * 2 * 2 * 3
    assert number_of_pictures(client.generations.grid_settings("a", 4)) == 1
    with pytest.raises(InvalidArgument, match="models"):
        client.generations.grid_settings("a", [])


# What came of it


def test_files_are_named_by_their_format(tmp_path: Path) -> None:
    assert picture(content_type="image/webp").save(tmp_path / "deep" / "cat").name == "cat.webp"
    assert picture(content_type="video/mp4").save(tmp_path / "cat.bin").name == "cat.bin"
    drawing = drawing_of(types.Generation(id=ID), [picture(1, seed=8, content_type="image/jpeg"), picture(0)])
    assert [file.name for file in save_all(drawing, tmp_path)] == [f"{ID[:8]}-7.png", f"{ID[:8]}-8.jpg"]
    assert [file.name for file in save_all(drawing, tmp_path / "cat.png")] == ["cat-1.png", "cat-2.png"]


def test_a_grids_sheet_is_set_apart_from_its_cells(tmp_path: Path) -> None:
    drawing = drawing_of(types.Generation(id=ID), [picture(2, sheet=True), picture(1), picture(0)])
    assert [each.index for each in drawing] == [0, 1]
    assert drawing.sheet is not None
    assert drawing.sheet.index == 2
    assert [file.name for file in save_all(drawing, tmp_path)][1:] == [f"{ID[:8]}-2-7.png", f"{ID[:8]}-sheet.png"]
    named = save_all(drawing, tmp_path / "all.png")
    assert [file.name for file in named] == ["all-1.png", "all-2.png", "all.png"]
    assert named[-1].read_bytes() == b"picture 2"


def test_a_notebook_shows_pictures_and_clips() -> None:
    assert picture()._repr_png_() == b"picture 0"
    assert picture()._repr_html_() is None
    clip = picture(content_type="video/mp4")
    assert clip._repr_png_() is None
    assert (clip._repr_html_() or "").startswith('<video src="data:video/mp4;base64,')


# What the command reads


def test_the_command_reads_where_a_picture_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file_of(tmp_path)
    assert picture_named("cat.png", option="--image") == Path("cat.png")
    assert picture_named("dataset:12", option="--image") == 12
    assert picture_named(f"{ID}/3", option="--image") == types.GeneratedImageRef(generation_id=ID, index=3)
    with pytest.raises(InvalidArgument, match=r"--mask: there is no file dog\.png"):
        picture_named("dog.png", option="--mask")


@pytest.mark.parametrize(
    ("text", "control"),
    [
        ("canny=cat.png", Control("canny", Path("cat.png"))),
        ("canny=cat.png:0.8", Control("canny", Path("cat.png"), 0.8)),
        ("9=cat.png:1:0:.5", Control("9", Path("cat.png"), 1, 0, 0.5)),
        ("canny=dataset:12", Control("canny", 12)),
        ("canny=dataset:12:0.5", Control("canny", 12, 0.5)),
        ("canny=odd:1", Control("canny", Path("odd:1"))),
    ],
)
def test_the_command_reads_a_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, control: Control
) -> None:
    monkeypatch.chdir(tmp_path)
    file_of(tmp_path)
    (tmp_path / "odd:1").write_bytes(b"x")
    assert parse_control(text) == control


@pytest.mark.parametrize(
    ("parse", "text", "words"),
    [
        (parse_lora, "x=heavy", "'heavy' in 'x=heavy' is not a number"),
        (parse_control, "canny", "is not MODEL=PICTURE"),
        (parse_control, "=cat.png", "is not MODEL=PICTURE"),
        (parse_wildcard, "animal=nowhere.txt", "is not NAME=FILE"),
    ],
)
def test_the_command_says_what_it_cannot_read(parse: Callable[[str], object], text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse(text)


# Cut connections


class Scripted(GeneratorServiceServicer):
    """Sends what it is told, one list a call: messages, and an error to end with."""

    def __init__(self, *calls: list[pb.GenerateResponse | Exception]) -> None:
        self.calls = list(calls)
        self.requests: list[pb.GenerateRequest] = []
        self.left = threading.Event()

    async def Generate(self, request: pb.GenerateRequest, context: object) -> AsyncIterator[pb.GenerateResponse]:
        self.requests.append(request)
        try:
            for each in self.calls.pop(0) if len(self.calls) > 1 else self.calls[0]:
                if isinstance(each, Exception):
                    raise each
                yield each
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.left.set()
            raise


@contextmanager
def served(servicer: Scripted) -> Iterator[Atelier]:
    """A client of `servicer`, which runs on a loop of its own: the client's calls block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = Server([(add_GeneratorServiceServicer_to_server, servicer, "atelier.generator.v1.GeneratorService")])
    try:
        port = asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        with Atelier(catalog="", trainer="", generator=f"127.0.0.1:{port}") as connected:
            yield connected
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


CUT = errors.Unavailable("cut", reason="CUT", retry_after_seconds=0.01)
FULL = errors.ResourceExhausted("full", reason="QUEUE_FULL", retry_after_seconds=0.01)
SETTINGS = types.GenerationSettings(model_id=4)


def stepped(step: int) -> pb.GenerateResponse:
    return pb.GenerateResponse(generation_id=ID, step=pb.GenerationStep(step=step, total_steps=9, count=1))


def drawn() -> list[pb.GenerateResponse]:
    image = pb.GenerationPicture(image=types.GeneratedImage(seed=7), data=b"x")
    return [
        pb.GenerateResponse(generation_id=ID, image=image),
        pb.GenerateResponse(generation_id=ID, done=pb.GenerationDone(generation=types.Generation(id=ID))),
    ]


class Ended(Exception):
    """A test's own end of a stream."""


def test_a_cut_stream_is_taken_up_under_one_request_id() -> None:
    servicer = Scripted([stepped(1), CUT], [FULL], [stepped(1), CUT], [*drawn(), Ended()])
    with served(servicer) as client:
        answers = client.generations.stream(SETTINGS, preview_interval=2)
        kinds = []
        for answer in answers:
            kinds.append(answer.WhichOneof("event"))
            if kinds[-1] == "done":
                answers.close()  # type: ignore[attr-defined]  # a generator, which says Iterator
    assert kinds == ["step", "step", "image", "done"]
    assert len({request.request_id for request in servicer.requests}) == 1
    assert len(servicer.requests) == 4
    assert {request.preview_interval for request in servicer.requests} == {2}


def test_a_stream_that_never_gets_further_is_given_up() -> None:
    servicer = Scripted([stepped(1), stepped(2), CUT])
    with served(servicer) as client, pytest.raises(Unavailable, match="cut"):
        client.generations.draw(SETTINGS)
    assert len(servicer.requests) == 5


def test_a_full_queue_is_said_with_when_to_come_back() -> None:
    servicer = Scripted([FULL])
    with served(servicer) as client, pytest.raises(ResourceExhausted) as full:
        client.generations.draw(SETTINGS)
    assert (full.value.reason, full.value.retry_after_seconds, len(servicer.requests)) == ("QUEUE_FULL", 0.01, 1)


def test_leaving_a_drawing_ends_its_call() -> None:
    servicer = Scripted([stepped(1)])

    def interrupt(answer: object) -> None:
        raise KeyboardInterrupt

    with served(servicer) as client:
        with pytest.raises(KeyboardInterrupt):
            client.generations.draw(SETTINGS, on_event=interrupt)
        assert servicer.left.wait(10)


def test_a_time_limit_ends_the_call() -> None:
    servicer = Scripted([stepped(1)])
    with served(servicer) as client:
        with pytest.raises(DeadlineExceeded):
            client.generations.draw(SETTINGS, timeout=0.5)
        assert servicer.left.wait(10)


def test_an_error_is_not_tried_again() -> None:
    servicer = Scripted([errors.NotFound("model", 4)])
    with served(servicer) as client, pytest.raises(NotFound):
        client.generations.draw(SETTINGS)
    assert len(servicer.requests) == 1
