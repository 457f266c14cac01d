"""Aspect-ratio buckets: the few sizes that pictures are cropped to, so that they keep their shape and share batches.

As NovelAI described them (blog.novelai.net, "NovelAI Improvements on Stable Diffusion", 2022) and SDXL used them
(Podell et al. 2023, appendix I), but for one thing: a picture that is too small for its bucket takes a smaller one
instead of being enlarged, for what is enlarged teaches blur.
"""

from functools import cache

MOST_RATIO = 3.0
"""The long side over the short one."""


@cache
def bucket_sizes(resolution: int, multiple: int = 64) -> tuple[tuple[int, int], ...]:
    """(width, height) of every bucket: sides are multiples of `multiple`, each width with the largest height that keeps
    the area within `resolution` squared, ratios up to MOST_RATIO."""
    sizes = set()
    for width in range(multiple, int(resolution * MOST_RATIO) + 1, multiple):
        height = resolution * resolution // width // multiple * multiple
        if height and max(width, height) <= MOST_RATIO * min(width, height):
            sizes |= {(width, height), (height, width)}
    side = resolution // multiple * multiple
    return tuple(sorted(sizes | {(side, side)} if side else sizes))


def bucket_for(width: int, height: int, *, resolution: int, multiple: int = 64) -> tuple[int, int]:
    """(width, height) that a picture is scaled down and cropped to: the bucket of the nearest aspect ratio, as a ratio
    of ratios, and of several the largest. Where the picture is smaller, the nearest of the buckets that it covers, of
    lower resolutions too; the smallest square where it covers none."""
    ratio = width / height
    for limit in range(resolution, multiple - 1, -multiple):
        fitting = [size for size in bucket_sizes(limit, multiple) if size[0] <= width and size[1] <= height]
        if fitting:
            return min(fitting, key=lambda size: (_apart(size[0] / size[1], ratio), -size[0] * size[1]))
    return multiple, multiple


def _apart(one: float, other: float) -> float:
    return max(one / other, other / one)
