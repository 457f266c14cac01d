"""Pictures that requests begin with: read, kept by their digest, and cut to the drawing's size."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from services.common.blobs import BlobMissing, BlobStore
from services.common.errors import InvalidArgument, NotFound
from services.common.pictures import PictureRefused, decode_rgb
from services.diffusion.families.family import Size
from services.diffusion.geometry import scaled_to_cover
from services.generator.domain import GivenPicture, ImageToImage, InputPicture, Settings, Shown, Wish
from services.generator.store import Store

if TYPE_CHECKING:
    from PIL import Image

BEGINNING = "settings.image_to_image"


class Inputs:
    """Of one store and one blob store. Calls that read blobs block."""

    def __init__(self, store: Store, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs

    async def resolve(self, wish: Wish) -> Wish:
        """`wish` with its pictures in the blob store, under their digests.

        Raises InvalidArgument naming the field of what is no picture, and NotFound.
        """
        if wish.image_to_image is None:
            return wish
        asked = wish.image_to_image
        image = await self._keep(asked.image, f"{BEGINNING}.image")
        mask = None if asked.mask is None else await self._keep(asked.mask, f"{BEGINNING}.mask")
        return replace(wish, image_to_image=replace(asked, image=image, mask=mask))

    async def _keep(self, given: GivenPicture | InputPicture, field: str) -> InputPicture:
        if isinstance(given, InputPicture):
            return given
        if given.data:
            read_picture(given.data, field)
            return InputPicture(self._blobs.put(given.data))
        if given.generated is not None:
            generation_id, index = given.generated
            pictures = (await self._store.get(generation_id)).pictures
            found = next((picture for picture in pictures if picture.index == index), None)
            if found is None:
                raise NotFound("picture", f"{index} of generation {generation_id}")
            return InputPicture(found.sha256, generated=given.generated)
        read_picture(self._get(given.sha256, field), field)
        return InputPicture(given.sha256)

    def shape(self, asked: ImageToImage) -> tuple[int, int]:
        """Width and height of the picture that is begun with; the mask has the same."""
        image = self._read(asked.image, f"{BEGINNING}.image")
        if asked.mask is not None:
            mask = self._read(asked.mask, f"{BEGINNING}.mask")
            if mask.size != image.size:
                (width, height), (wide, high) = mask.size, image.size
                message = f"is {width}x{height}, and the picture {wide}x{high}: they must have one shape"
                raise InvalidArgument(message, field=f"{BEGINNING}.mask")
        return image.size

    def shown(self, settings: Settings) -> Shown:
        """What is begun with, cut in its middle to the drawing's width and height."""
        asked = settings.image_to_image
        if asked is None:
            return Shown()
        size = (settings.width, settings.height)
        image = np.asarray(fitted(self._read(asked.image, f"{BEGINNING}.image"), size))
        if asked.mask is None:
            return Shown(image)
        mask = fitted(self._read(asked.mask, f"{BEGINNING}.mask"), size).convert("L")
        return Shown(image, (np.asarray(mask) > 127).astype(np.uint8) * 255)

    def _read(self, picture: InputPicture | GivenPicture, field: str) -> "Image.Image":
        return read_picture(self._get(picture.sha256, field), field)

    def _get(self, sha256: str, field: str) -> bytes:
        try:
            return self._blobs.get(sha256)
        except BlobMissing as error:
            raise InvalidArgument(f"no picture {sha256} is kept here", field=field) from error


def read_picture(data: bytes, field: str) -> "Image.Image":
    """Upright, RGB. Raises InvalidArgument naming `field`."""
    try:
        return decode_rgb(data)
    except PictureRefused as error:
        raise InvalidArgument(error.rule, field=field, reason=error.reason) from error


def fitted(picture: "Image.Image", size: tuple[int, int]) -> "Image.Image":
    """Scaled until it just covers `size` (width, height), and cut in its middle."""
    from PIL import Image

    if picture.size == size:
        return picture
    wide, high = scaled_to_cover(*picture.size, size)
    left, top = (wide - size[0]) // 2, (high - size[1]) // 2
    return picture.resize((wide, high), Image.Resampling.LANCZOS).crop((left, top, left + size[0], top + size[1]))


def native_shape(width: int, height: int, size: Size | None, native: int) -> tuple[int, int]:
    """Sides like width : height with about native * native pixels, as multiples of what the model draws."""
    multiple = size.multiple if size else 8
    scale = native / (width * height) ** 0.5
    wide, high = (max(multiple, round(side * scale / multiple) * multiple) for side in (width, height))
    return wide, high


def put_back(drawn: "np.ndarray", shown: Shown, blur: int) -> "np.ndarray":
    """What the mask keeps is the picture's own again, to the pixel; the edge fades over `blur` pixels."""
    if shown.mask is None or shown.image is None:
        return drawn
    from PIL import Image, ImageFilter

    mask = Image.fromarray(shown.mask)
    if blur:
        mask = mask.filter(ImageFilter.GaussianBlur(blur / 2))
    share = np.asarray(mask, dtype=np.float32)[..., None] / 255
    kept = np.asarray(shown.image, dtype=np.float32)
    mixed: np.ndarray = np.rint(drawn * share + kept * (1 - share)).astype(np.uint8)
    return mixed
