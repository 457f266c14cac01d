"""The pictures that a request begins with: found, looked at, and cut to what is drawn."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from services.common.blobs import BlobMissing
from services.common.errors import DataLoss, InvalidArgument, NotFound
from services.common.pictures import PictureRefused, decode_rgb, decode_with_mask, inspect
from services.generator.catalog import Catalog
from services.generator.domain import Control, InputPicture, Settings, Shown, Wish
from services.generator.keeping import Keeper
from services.generator.store import Store

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

IMAGE, MASK = "settings.image_to_image.image", "settings.image_to_image.mask"
FRAME = "settings.image_to_video.image"


@dataclass(frozen=True)
class Found:
    """What a wish begins with."""

    wish: Wish  # each input with its digest
    data: dict[str, bytes] = field(default_factory=dict)  # by digest
    size: tuple[int, int] | None = None  # of the picture that is drawn over or moved, width and height


class Inputs:
    """Finds pictures wherever requests may name them."""

    def __init__(self, store: Store, catalog: Catalog, keeper: Keeper) -> None:
        self._store = store
        self._catalog = catalog
        self._keeper = keeper

    async def find(self, wish: Wish) -> Found:
        """Raises NotFound (a generation, its picture, a dataset's), DataLoss (its bytes), Unavailable; InvalidArgument
        naming the field of what is not a picture, of a digest that is not kept, and of a mask that has not the
        picture's shape."""
        data: dict[str, bytes] = {}
        found: dict[str, InputPicture] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for place, asked in wish.inputs.items():
            digest = await self._digest(asked, place)
            if digest not in data:
                data[digest] = wish.uploads.get(digest) or await self._bytes(digest, asked, place)
            found[place] = replace(asked, sha256=digest)
            sizes[place] = await asyncio.to_thread(_look_at, data[digest], place)
        if MASK in sizes and sizes[MASK] != sizes[IMAGE]:
            (width, height), (wide, high) = sizes[MASK], sizes[IMAGE]
            message = f"is {width} x {height} pixels, and its picture {wide} x {high}"
            raise InvalidArgument(message, field=MASK)
        return Found(_filled(wish, found), data, sizes.get(IMAGE) or sizes.get(FRAME))

    async def show(self, settings: Settings) -> Shown:
        """The pictures of accepted settings, cut and scaled to the drawing's size. Raises DataLoss."""
        pictures = settings.inputs
        if not pictures:
            return Shown()
        try:
            data = {each.sha256: await self._keeper.get(each.sha256) for each in pictures.values()}
        except BlobMissing as error:
            message = f"the bytes of the picture {error.digest} that this begins with are gone"
            raise DataLoss(message, reason="PICTURE_LOST") from error
        return await asyncio.to_thread(_shown, settings, data)

    async def _digest(self, asked: InputPicture, place: str) -> str:
        if asked.sha256:
            return asked.sha256
        if asked.generated is not None:
            id, index = asked.generated
            if (picture := (await self._store.get(id)).picture(index)) is not None:
                return picture.sha256
            raise NotFound("picture", f"{id}/{index}", message=f"{place}: generation {id} has no picture {index}")
        assert asked.dataset_image_id is not None
        return await self._catalog.image_digest(asked.dataset_image_id)

    async def _bytes(self, digest: str, asked: InputPicture, place: str) -> bytes:
        try:
            if asked.generated is not None:
                return await self._keeper.get(digest)
            if asked.dataset_image_id is not None:
                return await self._keeper.get_shared(digest)
        except BlobMissing as error:
            raise DataLoss(f"{place}: the bytes of this picture are gone", reason="PICTURE_LOST") from error
        if (data := await self._keeper.get_own(digest)) is None:
            raise InvalidArgument(f"no picture {digest} is kept here", field=place)
        return data


def _look_at(data: bytes, place: str) -> tuple[int, int]:
    """Width and height, upright. Raises InvalidArgument naming the field."""
    try:
        info = inspect(data)
    except PictureRefused as error:
        raise InvalidArgument(error.rule, field=place, reason=error.reason) from error
    return info.width, info.height


def _filled(wish: Wish, found: Mapping[str, InputPicture]) -> Wish:
    """The wish with what was found in the places of what was named."""
    begun, clip = wish.image_to_image, wish.image_to_video
    if begun is not None:
        begun = replace(begun, image=found[IMAGE], mask=found.get(MASK))
    if clip is not None:
        clip = replace(clip, image=found[FRAME])
    controls: list[Control] = [
        replace(each, image=found[f"settings.controls[{place}].image"]) for place, each in enumerate(wish.controls)
    ]
    return replace(wish, image_to_image=begun, image_to_video=clip, controls=tuple(controls))


def _shown(settings: Settings, data: Mapping[str, bytes]) -> Shown:
    import numpy as np

    size = (settings.width, settings.height)

    def rgb(picture: InputPicture) -> "np.ndarray":
        return np.asarray(cut(decode_rgb(data[picture.sha256]), size))

    begun, clip = settings.image_to_image, settings.image_to_video
    first = begun.image if begun else clip.image if clip else None
    mask = None
    if begun is not None and begun.mask is not None:
        # Bilinear does not ring, and half-way the picture ends.
        grey = cut(decode_with_mask(data[begun.mask.sha256])[0].convert("L"), size, smooth=False)
        mask = np.where(np.asarray(grey) >= 128, 255, 0).astype(np.uint8)
    return Shown(
        image=rgb(first) if first is not None else None,
        mask=mask,
        controls=tuple(rgb(each.image) for each in settings.controls),
    )


def cut(picture: "Image.Image", size: tuple[int, int], *, smooth: bool = True) -> "Image.Image":
    """The picture's middle in the shape of `size` (width, height), scaled to it (Lanczos, or bilinear)."""
    from PIL import Image, ImageOps

    if picture.size == size:
        return picture
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS if smooth else Image.Resampling.BILINEAR)
