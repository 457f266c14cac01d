"""Near-duplicates are found, and unlike pictures are not taken for them."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from services.common.likeness import NEAR, groups, perceptual_hash

ICONS = sorted((Path(__file__).parents[2] / "assets/demo-images").glob("*.png"))


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def jpeg(picture: Image.Image) -> Image.Image:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=70)
    return Image.open(data)


VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": jpeg,
    "half": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.15),
    "grey": lambda picture: picture.convert("L"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_a_near_duplicate_of_its_picture_alone(variant: str) -> None:
    pictures = [opened(path) for path in ICONS]
    hashes = [perceptual_hash(picture) for picture in pictures]
    varied = [perceptual_hash(VARIANTS[variant](picture)) for picture in pictures]
    assert len(pictures) == 40
    assert groups(hashes + varied) == [*range(40), *range(40)]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.integers(0, 20))
def test_groups_are_the_chains_of_small_distances(hashes: list[int], distance: int) -> None:
    found = groups(hashes, distance)
    for one, first in enumerate(hashes):
        linked, grown = {one}, True
        while grown:
            near = {
                place
                for place, value in enumerate(hashes)
                for other in linked
                if (value ^ hashes[other]).bit_count() <= distance
            }
            grown = not near <= linked
            linked |= near
        assert {place for place, group in enumerate(found) if group == found[one]} == linked, first
    assert list(dict.fromkeys(found)) == list(range(len(set(found)))), "numbered in order of appearance"


def test_more_pictures_than_one_block_are_compared_with_one_another() -> None:
    hashes = [place * 0x9E3779B97F4A7C15 % 2**64 for place in range(1200)]
    found = groups([*hashes, hashes[3] ^ 0b11, hashes[1100] ^ 0b101], NEAR)
    assert found[1200] == found[3]
    assert found[1201] == found[1100]
    assert groups([]) == []
