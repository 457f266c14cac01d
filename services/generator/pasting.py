"""Inpainting's last act: what the mask keeps is put back as it was, to the pixel."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def paste(drawn: "np.ndarray", original: "np.ndarray", mask: "np.ndarray", *, blur: int) -> "np.ndarray":
    """(H', W', 3) uint8 of what is drawn where the mask (H, W) is 255, and of the original (H, W, 3) where it is 0. In
    between it fades over `blur` of the original's pixels. Where a second pass has drawn more pixels, original and mask
    are enlarged to it.

    The fade is linear (a box of that width), so that nothing farther than half of it from the mask's edge is touched.
    """
    import numpy as np
    from PIL import Image, ImageFilter

    soft, kept = Image.fromarray(mask), Image.fromarray(original)
    if blur:
        soft = soft.filter(ImageFilter.BoxBlur(blur / 2))
    size = (drawn.shape[1], drawn.shape[0])
    if kept.size != size:
        kept = kept.resize(size, Image.Resampling.LANCZOS)
        soft = soft.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(Image.composite(Image.fromarray(drawn), kept, soft))
