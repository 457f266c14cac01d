"""Which pictures look alike: a perceptual hash, and groups of near-duplicates.

The hash is pHash (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1):
the signs of the 64 lowest frequencies of a picture's cosine transform about their median. Scaling, another encoding or
a little more light hardly change them. The Catalog warns of near-duplicates by it, and training keeps them on one side
of its validation split.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

NEAR = 10
"""Bits of 64 in which near-duplicates differ at most. What was measured on the demo's forty line icons is in the
tests: re-encoded as JPEG at quality 70, halved, brightened by 15 % or in grey, each is near itself and no other. One
with hardly any content, as a smooth symmetric gradient, may be missed: its frequencies are mostly noise."""
_SIDE, _KEPT = 32, 8
_BLOCK = 512


def perceptual_hash(picture: "Image") -> int:
    """64 bits; pictures that look alike differ in few of them."""
    import numpy
    from PIL.Image import Resampling

    small = picture.convert("L").resize((_SIDE, _SIDE), Resampling.LANCZOS)
    cosines = _cosines()
    low = (cosines @ numpy.asarray(small, dtype=numpy.float64) @ cosines.T)[:_KEPT, :_KEPT].ravel()
    # The first is the mean brightness, far larger than the others: it says nothing, and must not move the median.
    bits = low > numpy.median(low[1:])
    bits[0] = False
    return int.from_bytes(numpy.packbits(bits).tobytes(), "big")


def groups(hashes: Sequence[int], distance: int = NEAR) -> list[int]:
    """For each hash the number of its group, 0, 1, ... in order of appearance. Two that differ in at most `distance`
    bits share a group, and so do all that are linked by others in between."""
    import numpy

    parent = list(range(len(hashes)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    known = numpy.array(hashes, dtype=numpy.uint64)
    for start in range(0, len(known), _BLOCK):  # all pairs, a block of rows at a time: 10,000 take a second
        apart = numpy.bitwise_count(known[start : start + _BLOCK, None] ^ known[None, :])
        for one, other in zip(*numpy.nonzero(apart <= distance), strict=True):
            first, second = sorted((root(start + int(one)), root(int(other))))
            parent[second] = first
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(place), len(numbers)) for place in range(len(hashes))]


@cache
def _cosines() -> "numpy.ndarray[tuple[int, int], numpy.dtype[numpy.float64]]":
    """The matrix of the discrete cosine transform (DCT-II) of `_SIDE` values."""
    import numpy

    places = numpy.arange(_SIDE)
    matrix: numpy.ndarray[tuple[int, int], numpy.dtype[numpy.float64]]
    matrix = numpy.cos(numpy.pi / _SIDE * (places[None, :] + 0.5) * places[:, None])
    return matrix
