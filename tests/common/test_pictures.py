import io
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from services.common.pictures import MAX_BYTES, PictureRefused, decode_rgb, inspect, thumbnail
from tests.pictures_made import animated, encoded, png_bomb, solid


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_the_three_formats_are_told_by_content(format: str) -> None:
    info = inspect(encoded(solid("RGB", "teal"), format.upper()))
    assert (info.format, info.width, info.height) == (format, 32, 24)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "EMPTY"),
        (b"just some text, called .png", "UNSUPPORTED_FORMAT"),
        (encoded(solid("RGB", "red"), "GIF"), "UNSUPPORTED_FORMAT"),
        (encoded(solid("RGB", "red"), "BMP"), "UNSUPPORTED_FORMAT"),
        (animated("WEBP"), "UNSUPPORTED_FORMAT"),
        (animated("PNG"), "UNSUPPORTED_FORMAT"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:-200], "CORRUPT"),
        (encoded(Image.effect_noise((64, 64), 90), "PNG")[:-200], "CORRUPT"),
        (encoded(Image.effect_noise((64, 64), 90), "WEBP")[:-200], "CORRUPT"),
        (b"\x89PNG\r\n\x1a\nrubbish", "CORRUPT"),
        (png_bomb(), "TOO_MANY_PIXELS"),
        (encoded(solid("RGB", "red", (15, 400))), "TOO_SMALL"),
        (b"\xff\xd8\xff" + b"\0" * MAX_BYTES, "TOO_MANY_BYTES"),
    ],
    ids=[
        "empty", "text", "gif", "bmp", "animated webp", "animated png", "torn jpeg", "torn png", "torn webp",
        "rubbish", "bomb", "small", "large",
    ],
)  # fmt: skip
def test_what_is_not_taken_says_why(data: bytes, reason: str) -> None:
    for read in (inspect, decode_rgb):
        with pytest.raises(PictureRefused) as caught:
            read(data)
        assert caught.value.reason == reason


def test_exif_orientation_is_applied() -> None:
    image = solid("RGB", "red", (40, 20))
    image.paste("blue", (0, 0, 10, 20))  # blue on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned right: the left edge becomes the top
    data = encoded(image, "JPEG", exif=exif, quality=95)
    info = inspect(data)
    assert (info.width, info.height) == (20, 40)
    upright = decode_rgb(data)
    assert upright.size == (20, 40)
    red, _, blue = upright.getpixel((10, 2))
    assert blue > 200 > 60 > red


def test_sixteen_bit_is_scaled_and_not_clipped() -> None:
    data = encoded(solid("I;16", 0x8080))
    assert decode_rgb(data).getpixel((5, 5)) == (128, 128, 128)
    assert decode_rgb(encoded(solid("I;16", 0xFFFF))).getpixel((5, 5)) == (255, 255, 255)


def test_a_palette_keeps_its_colours() -> None:
    data = encoded(solid("RGB", (200, 30, 90)).convert("P", palette=Image.Palette.ADAPTIVE))
    assert decode_rgb(data).getpixel((5, 5)) == (200, 30, 90)


def test_a_palettes_transparency_lies_over_white() -> None:
    image = solid("P", 0)
    image.putpalette([10, 20, 30] * 256)
    assert decode_rgb(encoded(image, transparency=0)).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("LA", (0, 128), (127, 127, 127)),
    ],
)
def test_alpha_lies_over_white(mode: str, color: object, expected: tuple[int, int, int]) -> None:
    assert decode_rgb(encoded(solid(mode, color))).getpixel((5, 5)) == expected


def test_cmyk_without_a_profile_comes_out_in_its_colour() -> None:
    data = encoded(solid("CMYK", (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = decode_rgb(data).getpixel((5, 5))
    assert red > 240
    assert max(green, blue) < 20


def test_an_embedded_profile_is_converted_from() -> None:
    # A display whose gamma is 1 shows 128 far brighter than sRGB does.
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    plain = decode_rgb(encoded(solid("RGB", (128, 128, 128)), icc_profile=linear.tobytes()))
    assert plain.getpixel((5, 5)) == (128, 128, 128)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    odd = decode_rgb(encoded(solid("RGB", (128, 64, 32)), icc_profile=lab.tobytes()))
    assert odd.getpixel((5, 5)) == (128, 64, 32)  # a profile that does not fit is left aside


def test_a_broken_profile_is_no_reason_to_refuse() -> None:
    data = encoded(solid("RGB", (1, 2, 3)), icc_profile=b"not a profile")
    assert decode_rgb(data).getpixel((0, 0)) == (1, 2, 3)


def test_a_thumbnail_is_small_and_keeps_the_shape(tmp_path: Path) -> None:
    data = thumbnail(encoded(solid("RGB", "teal", (800, 400))), 256)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("WEBP", (256, 128))
