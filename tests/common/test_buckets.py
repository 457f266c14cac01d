"""The sizes that pictures of any shape are trained at."""

from hypothesis import given
from hypothesis import strategies as st

from services.common.buckets import MOST_RATIO, bucket_for, bucket_sizes


def test_the_buckets_of_512_pixels() -> None:
    wide = [(576, 448), (640, 384), (704, 320), (768, 320)]
    assert bucket_sizes(512, 64) == tuple(sorted([(512, 512), *wide, *((high, long) for long, high in wide)]))


@given(st.integers(64, 4000), st.integers(64, 4000), st.sampled_from([256, 512, 768, 1024]), st.sampled_from([8, 64]))
def test_a_bucket_fits_inside_the_picture_and_the_resolution(
    width: int, height: int, resolution: int, multiple: int
) -> None:
    wide, high = bucket_for(width, height, resolution=resolution, multiple=multiple)
    assert wide % multiple == high % multiple == 0
    assert wide * high <= resolution**2
    assert max(wide, high) <= MOST_RATIO * min(wide, high)
    assert wide <= width, "nothing is enlarged"
    assert high <= height, "nothing is enlarged"


def test_a_picture_goes_where_least_is_cropped() -> None:
    assert bucket_for(1024, 1024, resolution=512) == (512, 512)
    assert bucket_for(1000, 600, resolution=512) == (640, 384)
    assert bucket_for(3000, 900, resolution=512) == (768, 320), "the longest there is"
    assert bucket_for(300, 500, resolution=512) == (256, 384), "too small for (384, 640)"
    assert bucket_for(40, 40, resolution=512) == (64, 64), "the smallest there is, and enlarged to it"
