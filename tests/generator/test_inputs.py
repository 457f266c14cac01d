"""Pictures that requests begin with, from wherever they are named."""

from typing import Any

import numpy as np
import pytest
from atelier.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atelier.generator.v1 import generation_pb2 as pb
from google.api import httpbody_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.generator.conftest import Studio
from tests.generator.test_beginning import begun_with, picture, png
from tests.generator.test_generate import draw, pixels, settings
from tests.pictures_made import animated


async def dataset_image(studio: Studio, data: bytes) -> int:
    dataset = (await studio.catalog.CreateDataset(catalog_pb2.CreateDatasetRequest(name="pictures"))).dataset
    request = catalog_pb2.UploadImageRequest(
        dataset_id=dataset.id, filename="it.png", content=httpbody_pb2.HttpBody(data=data)
    )
    return (await studio.catalog.UploadImage(request)).image.id


async def test_a_picture_of_a_dataset_is_begun_with(studio: Studio, generator: Any) -> None:
    data = png(picture(200, 100))
    id = await dataset_image(studio, data)
    begun = pb.ImageToImage(image=pb.InputImage(dataset_image_id=id), strength=0.5)
    mine = await draw(generator, settings(studio.base_id, image_to_image=begun))
    sent = await draw(generator, settings(studio.base_id, image_to_image=begun_with(data, strength=0.5)))
    assert np.array_equal(pixels(mine.images[0].data), pixels(sent.images[0].data))
    assert mine.generation.settings.image_to_image.image.dataset_image_id == id
    assert (mine.generation.settings.width, mine.generation.settings.height) == (96, 48)
    await studio.catalog.DeleteImage(catalog_pb2.DeleteImageRequest(image_id=id))
    with pytest.raises(NotFound):
        await draw(generator, settings(studio.base_id, image_to_image=begun))


@pytest.mark.parametrize("id", [4242, 2**40])
async def test_a_dataset_without_such_a_picture_has_none(studio: Studio, generator: Any, id: int) -> None:
    begun = pb.ImageToImage(image=pb.InputImage(dataset_image_id=id))
    with pytest.raises(NotFound):
        await draw(generator, settings(studio.base_id, image_to_image=begun))


async def test_what_other_services_store_is_not_named_by_its_digest(studio: Studio, generator: Any) -> None:
    digest = studio.blobs.put(png(picture()))
    begun = pb.ImageToImage(image=pb.InputImage(sha256=digest))
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, settings(studio.base_id, image_to_image=begun))
    assert list(caught.value.violations) == ["settings.image_to_image.image"]


async def test_an_animation_is_not_begun_with(studio: Studio, generator: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await draw(generator, settings(studio.base_id, image_to_image=begun_with(animated("WEBP"))))
    assert list(caught.value.violations) == ["settings.image_to_image.image"]
    assert "animated" in caught.value.message


async def test_a_model_that_is_inactive_is_refused_before_pictures_are_kept(studio: Studio, generator: Any) -> None:
    request = catalog_pb2.UpdateModelRequest(model_id=studio.base_id, update_mask=FieldMask(paths=["is_active"]))
    request.model.is_active = False
    await studio.catalog.UpdateModel(request)
    with pytest.raises(FailedPrecondition):
        await draw(generator, settings(studio.base_id, image_to_image=begun_with(png(picture()))))
    assert not [path for path in (studio.blobs.root / "gallery").rglob("*") if path.is_file()]
