import io

import numpy
import pytest
from PIL import Image

from services.common import clip_readers, clips
from services.common.clips import Limits, available, encode_mp4, encode_webp_animation, first_frame, frames, probe
from services.common.pictures import PictureRefused, mask_of
from tests.clips_made import STEP, animation, film, grey_frames, sound
from tests.pictures_made import encoded, solid

CLIPS = {
    "h264": (film(), "mp4"),
    "hevc": (film(codec="libx265"), "mp4"),
    "vp9": (film(codec="libvpx-vp9", format="webm"), "webm"),
    "gif": (animation("GIF"), "gif"),
    "webp": (animation("WEBP"), "webp"),
}


def brightness(picture: Image.Image) -> int:
    """Of the middle, as the number of its frame."""
    return round(sum(picture.getpixel((picture.width // 2, picture.height // 2))) / 3 / STEP)


@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_is_told_by_its_content_and_counted_to_its_last_frame(name: str) -> None:
    data, format = CLIPS[name]
    info = probe(data)
    assert (info.format, info.width, info.height, info.num_frames) == (format, 64, 48, 10)
    assert info.frames_per_second == pytest.approx(10)


@pytest.mark.parametrize("name", CLIPS)
def test_its_frames_come_in_their_order_and_their_colours(name: str) -> None:
    assert [brightness(frame) for frame in frames(CLIPS[name][0])] == list(range(10))


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "EMPTY", "empty"),
        (b"just some text, called .mp4", "UNSUPPORTED_FORMAT", "not a clip"),
        (encoded(solid("RGB", "red")), "UNSUPPORTED_FORMAT", "not a clip"),
        (encoded(solid("RGB", "red"), "WEBP"), "UNSUPPORTED_FORMAT", "still WEBP"),
        (encoded(solid("RGB", "red"), "GIF"), "UNSUPPORTED_FORMAT", "still GIF"),
        (film(1), "UNSUPPORTED_FORMAT", "1 frames"),
        (film(format="matroska"), "UNSUPPORTED_FORMAT", "not a clip"),
        (film(rate=25, codec="mpeg2video"), "UNSUPPORTED_FORMAT", "coded as mpeg2video"),
        (sound(), "UNSUPPORTED_FORMAT", "without pictures"),
        (film()[:-60], "CORRUPT", "ends before"),
        (film(codec="libvpx-vp9", format="webm")[:-60], "CORRUPT", "ends before"),
        (animation("GIF")[:-200], "CORRUPT", "damaged"),
        (animation("WEBP")[:-100], "CORRUPT", "damaged"),
        (b"\0\0\0\x18ftypisom rubbish", "CORRUPT", "damaged"),
        (b"\x1a\x45\xdf\xa3 webm rubbish", "CORRUPT", "header"),
        (b"GIF89a", "CORRUPT", "header"),
        (film(size=(8, 64)), "TOO_SMALL", "too small"),
    ],
    ids=[
        "empty", "text", "png", "still webp", "still gif", "one frame", "matroska", "codec", "sound", "torn mp4",
        "torn webm", "torn gif", "torn webp", "mp4 rubbish", "webm rubbish", "gif rubbish", "small",
    ],
)  # fmt: skip
def test_what_is_not_taken_says_why(data: bytes, reason: str, words: str) -> None:
    with pytest.raises(PictureRefused) as caught:
        probe(data)
    assert caught.value.reason == reason
    assert words in caught.value.rule


def test_damage_in_the_middle_is_found() -> None:
    data = bytearray(film(30))
    start = data.index(b"mdat") + 800
    data[start : start + 60] = bytes(255 - each for each in data[start : start + 60])
    with pytest.raises(PictureRefused, match="damaged"):
        probe(bytes(data))


@pytest.mark.parametrize("name", ["h264", "gif", "webp"])
def test_more_frames_or_bytes_than_the_limits_are_refused_before_any_is_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = CLIPS[name]
    assert probe(data, Limits(len(data), 10)).num_frames == 10
    for kind in (clip_readers.Film, clip_readers.Animation):
        monkeypatch.setattr(kind, "frames", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(PictureRefused, match="10 frames exceed the limit of 9"):
        probe(data, Limits(len(data), 9))
    with pytest.raises(PictureRefused, match="bytes exceed"):
        probe(data, Limits(len(data) - 1, 10))


def test_frames_that_no_header_tells_of_are_counted_as_they_come() -> None:
    with pytest.raises(PictureRefused, match="exceed the limit of 9"):
        probe(CLIPS["vp9"][0], Limits(max_frames=9))


@pytest.mark.parametrize("name", CLIPS)
def test_a_frame_of_too_many_pixels_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_readers, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(PictureRefused) as caught:
        probe(CLIPS[name][0])
    assert caught.value.reason in ("TOO_MANY_PIXELS", "CORRUPT")  # as the decoder itself says where it looks first


def test_a_clip_that_was_filmed_upright_comes_upright() -> None:
    lying = numpy.zeros((3, 48, 64, 3), numpy.uint8)
    lying[:, :, :16] = 255
    data = film(rotation=90, frames=lying)  # to be turned to the left: its left edge comes down
    info = probe(data)
    assert (info.width, info.height) == (48, 64)
    upright = first_frame(data)
    assert upright.size == (48, 64)
    assert upright.getpixel((24, 4))[0] < 20
    assert upright.getpixel((24, 60))[0] > 235


@pytest.mark.parametrize(
    ("rate", "expected"), [(10, range(10)), (5, [0, 2, 4, 6, 8]), (4, [0, 2, 5, 7]), (30, range(10))]
)
def test_a_clip_of_a_higher_rate_is_thinned_and_one_of_a_lower_keeps_its_frames(rate: int, expected: list[int]) -> None:
    taken = [brightness(frame) for frame in frames(film(), own_rate=10, rate=rate)]
    assert taken == list(expected)
    assert available(10, 10, rate) == len(taken)


def test_frames_may_begin_anywhere() -> None:
    assert [brightness(frame) for frame in frames(film(), own_rate=10, rate=5, start=3)] == [6, 8]


def test_the_frames_of_every_rate_are_as_many_as_are_told() -> None:
    for own in (7.0, 23.976, 29.97, 30.0, 59.94):
        data = animation("GIF", 23, own)
        for rate in (1, 3, 7, 24, 30):
            assert len(list(frames(data, own_rate=own, rate=rate))) == available(23, own, rate)


def test_an_animation_that_was_written_is_read_back() -> None:
    for data, format in ((encode_webp_animation(grey_frames(7), 7), "webp"), (encode_mp4(grey_frames(7), 7), "mp4")):
        info = probe(data)
        assert (info.format, info.num_frames, info.width, info.height) == (format, 7, 64, 48)
        assert info.frames_per_second == pytest.approx(7, rel=1e-3)
        assert [brightness(frame) for frame in frames(data)] == list(range(7))


def test_an_mp4_of_odd_sides_loses_its_last_row_and_column() -> None:
    assert probe(encode_mp4(numpy.zeros((3, 33, 47, 3), numpy.uint8), 7)).width == 46


def test_transparent_places_of_an_animation_are_white() -> None:
    picture = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    data = encoded(picture, "WEBP", save_all=True, append_images=[Image.new("RGBA", (32, 32), "blue")], duration=100)
    assert first_frame(data).getpixel((3, 3)) == (255, 255, 255)


def test_an_animation_that_names_no_times_is_taken_as_browsers_show_it() -> None:
    first, second = solid("RGB", "red"), solid("RGB", "blue")
    data = encoded(first, "GIF", save_all=True, append_images=[second], duration=0)
    assert probe(data).frames_per_second == pytest.approx(10)


def test_a_mask_is_grey_and_of_the_size_that_is_asked_for() -> None:
    image = solid("RGB", "black", (64, 32))
    image.paste("white", (32, 0, 64, 32))
    mask = Image.open(io.BytesIO(mask_of(encoded(image, "JPEG", quality=95), (32, 16))))
    assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (32, 16))
    assert mask.getpixel((4, 4)) < 10
    assert mask.getpixel((28, 4)) > 245


def test_limits_are_what_the_catalog_says_by_default() -> None:
    assert Limits() == clips.LIMITS == Limits(clips.MAX_BYTES, clips.MAX_FRAMES)
