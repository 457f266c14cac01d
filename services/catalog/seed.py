"""The models that every Atelier starts with: the guide's three base models, and the starter model."""

import asyncio
from pathlib import Path

from services.catalog.domain import (
    HubWeights,
    Model,
    ModelCategory,
    ModelFamily,
    ModelFile,
    ModelType,
    NewModel,
    StoredWeights,
    WeightsLayout,
)
from services.catalog.model_store import ModelStore
from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition

STARTER_MODEL_ID = 4
STARTER_FILES = {".json", ".txt", ".safetensors"}

BASE_MODELS = {
    1: NewModel(
        name="Stable Diffusion 1.5",
        type=ModelType.BASE_MODEL,
        category=ModelCategory.IMAGE,
        family=ModelFamily.STABLE_DIFFUSION,
        layout=WeightsLayout.PIPELINE,
        weights=HubWeights("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"),
        license="CreativeML OpenRAIL-M",
        description="Text to image at 512 pixels. Fetched from the hub at first use.",
        native_resolution=512,
    ),
    2: NewModel(
        name="Stable Diffusion XL",
        type=ModelType.BASE_MODEL,
        category=ModelCategory.IMAGE,
        family=ModelFamily.STABLE_DIFFUSION_XL,
        layout=WeightsLayout.PIPELINE,
        weights=HubWeights("stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b"),
        license="CreativeML Open RAIL++-M",
        description="Text to image at 1024 pixels. Fetched from the hub at first use.",
        native_resolution=1024,
    ),
    3: NewModel(
        name="Stable Video Diffusion",
        type=ModelType.BASE_MODEL,
        category=ModelCategory.VIDEO,
        family=ModelFamily.STABLE_VIDEO_DIFFUSION,
        layout=WeightsLayout.PIPELINE,
        weights=HubWeights("stabilityai/stable-video-diffusion-img2vid-xt", "9e43909513c6714f1bc78bcb44d96e733cd242aa"),
        license="Stability AI, see the model's page on the hub",
        description="Image to video, 25 frames of 1024 x 576. Gated: its licence is accepted on the hub.",
        native_resolution=1024,
    ),
}


async def seed_models(models: ModelStore, blobs: BlobStore, starter_folder: Path) -> tuple[list[Model], list[int]]:
    """Adds what is missing. Returns all seeded models and the ids that this call added.

    The starter model follows the files in `starter_folder`; the others stay as they are. Raises FailedPrecondition when
    that folder holds no model.
    """
    weights = await asyncio.to_thread(_store_folder, blobs, starter_folder)
    starter = NewModel(
        name="Atelier Starter",
        type=ModelType.BASE_MODEL,
        category=ModelCategory.IMAGE,
        family=ModelFamily.STABLE_DIFFUSION,
        layout=WeightsLayout.PIPELINE,
        weights=weights,
        license="Apache-2.0",
        description="Small pictures of 64 pixels, drawn and trained on a CPU. It comes with Atelier.",
        native_resolution=64,
    )
    seeded = {**BASE_MODELS, STARTER_MODEL_ID: starter}
    added = [id for id, model in seeded.items() if await models.seed(id, model)]
    await models.replace_weights(STARTER_MODEL_ID, weights)
    return [await models.get(id) for id in seeded], added


def _store_folder(blobs: BlobStore, folder: Path) -> StoredWeights:
    """The pipeline's files in the blob store; what stands beside them, such as a model card, is left out."""
    if not (folder / "model_index.json").is_file():
        message = f"the starter model is not in {folder}; ATELIER_CATALOG_STARTER_MODEL_DIR says where it is"
        raise FailedPrecondition(message, reason="STARTER_MODEL_MISSING")
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix in STARTER_FILES]
    files = []
    for path in sorted(paths):
        digest, size = blobs.put_file(path)
        files.append(ModelFile(path.relative_to(folder).as_posix(), digest, size))
    return StoredWeights(tuple(files))
