"""The record of a training that its weights carry in their header."""

from services.catalog.domain import StoredWeights
from services.catalog.tensor_files import read_header
from services.common.blobs import BlobMissing, BlobStore
from services.common.errors import InvalidArgument

KEY = "atelier_training"
"""As the Trainer's workers write it."""


def training_record(weights: StoredWeights, blobs: BlobStore) -> str:
    """JSON of how the weights came to be: method, whole configuration, snapshots, bases, versions, seed; empty where
    they say nothing, as weights from elsewhere do. Reads headers alone; blocks."""
    for file in weights.files:
        if not file.path.endswith(".safetensors"):
            continue
        try:
            _, metadata = read_header(blobs.path(file.sha256), field=file.path)
        except (BlobMissing, InvalidArgument):
            continue  # whoever reads the weights themselves says so
        if record := metadata.get(KEY, ""):
            return record
    return ""
