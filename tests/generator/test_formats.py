"""Files of pictures and clips: what they hold, and that equal ones are equal. What a mask keeps."""

import io
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import ExifTags, Image

from services.generator.domain import ImageToVideo, InputPicture, PictureFormat, Settings
from services.generator.images import encode
from services.generator.pasting import paste

SETTINGS = Settings(1, "a cat", "", 64, 48, 4, 7.5, 0.0, None, 7, 1, None)
CLIP = ImageToVideo(InputPicture("0" * 64), num_frames=6, frames_per_second=5)
PARAMETERS = "a cat, été 猫\nSteps: 4, Sampler: Euler"
REQUEST = '{"settings": {"prompt": "a cat, été 猫"}}'


def noise(*shape: int) -> np.ndarray:
    """Soft, as pictures are."""
    small = np.random.default_rng(5).integers(0, 255, (*shape[:-3], 6, 8, 3), dtype=np.uint8)
    return small.repeat(shape[-3] // 6, axis=-3).repeat(shape[-2] // 8, axis=-2)


def made(pixels: np.ndarray, format: PictureFormat, quality: int = 90, parameters: str = PARAMETERS) -> bytes:
    settings = replace(SETTINGS, format=format, quality=quality, image_to_video=CLIP if format.is_of_clips else None)
    data = encode(pixels, settings, parameters=parameters, request=REQUEST)
    assert data == encode(pixels, settings, parameters=parameters, request=REQUEST)
    return data


def comment(image: Image.Image) -> str:
    value = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    return str(value.removeprefix(b"UNICODE\0").decode("utf-16-be"))


def test_an_mp4_holds_its_frames_rate_and_settings() -> None:
    data = made(noise(6, 48, 64, 3), PictureFormat.MP4)
    with av.open(io.BytesIO(data)) as container:
        assert container.metadata["comment"] == PARAMETERS
        assert container.metadata["description"] == REQUEST
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 5)
        assert len(list(container.decode(stream))) == 6


@pytest.mark.parametrize("quality", [80, 100])
def test_an_animated_webp_holds_its_frames_rate_and_settings(quality: int) -> None:
    frames = noise(6, 48, 64, 3)
    image = Image.open(io.BytesIO(made(frames, PictureFormat.ANIMATED_WEBP, quality)))
    assert image.n_frames == 6
    assert comment(image) == PARAMETERS
    image.seek(5)
    image.load()
    assert image.info["duration"] == 200
    same = np.array_equal(np.asarray(image.convert("RGB")), frames[5])
    assert same == (quality == 100)


@pytest.mark.parametrize("format", [PictureFormat.WEBP, PictureFormat.JPEG])
def test_better_pictures_take_more_bytes(format: PictureFormat) -> None:
    sizes = [len(made(noise(48, 64, 3), format, quality)) for quality in (10, 50, 99)]
    assert sizes == sorted(sizes)


def test_a_jpeg_keeps_as_much_of_a_very_long_prompt_as_it_can() -> None:
    long = "é" * 40_000
    image = Image.open(io.BytesIO(made(noise(48, 64, 3), PictureFormat.JPEG, parameters=long)))
    assert len(comment(image)) > 30_000
    assert comment(Image.open(io.BytesIO(made(noise(48, 64, 3), PictureFormat.WEBP, parameters=long)))) == long


def test_what_the_mask_keeps_is_put_back_to_the_pixel() -> None:
    original, drawn = noise(48, 64, 3), np.full((48, 64, 3), 9, np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 255
    sharp = paste(drawn, original, mask, blur=0)
    assert np.array_equal(sharp[:, :32], original[:, :32])
    assert np.array_equal(sharp[:, 32:], drawn[:, 32:])
    faded = paste(drawn, original, mask, blur=8)
    assert np.array_equal(faded[:, :27], original[:, :27])
    assert np.array_equal(faded[:, 37:], drawn[:, 37:])
    assert not np.array_equal(faded[:, 28:36], sharp[:, 28:36])


def test_a_second_pass_has_the_original_enlarged_with_it() -> None:
    original, drawn = np.full((48, 64, 3), 200, np.uint8), np.full((96, 128, 3), 9, np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    mask[24:] = 255
    pasted = paste(drawn, original, mask, blur=0)
    assert pasted.shape == (96, 128, 3)
    assert (pasted[:46] == 200).all()
    assert (pasted[50:] == 9).all()
