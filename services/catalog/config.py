"""The Catalog's settings, from the environment: ATELIER_CATALOG_*."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.catalog.hub import ENDPOINT
from services.common import clips
from services.common.clients import MAX_MESSAGE_BYTES
from services.common.settings import ServiceSettings

LARGEST_CLIP_BYTES = MAX_MESSAGE_BYTES - 1024 * 1024
"""A clip is downloaded in one message."""


class CatalogSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="ATELIER_CATALOG_", populate_by_name=True, extra="ignore")

    trainer_address: str = ""
    """host:port of the Trainer, asked before a dataset is deleted; empty means nobody is asked."""
    hub_endpoint: str = Field(ENDPOINT, pattern="^https?://")
    """The hub that models are pushed to and pulled from."""
    hub_token: SecretStr = SecretStr("")
    """This deployment's own token of the hub, for requests that bring none; empty means they must."""
    max_clip_bytes: int = Field(clips.MAX_BYTES, gt=0, le=LARGEST_CLIP_BYTES)
    """Of a clip of a video dataset."""
    max_clip_frames: int = Field(clips.MAX_FRAMES, ge=2)
    """Of a clip: all are decoded when it is uploaded."""
    starter_model_dir: Path = Path(__file__).resolve().parents[2] / "assets" / "starter-model"
    """The diffusers folder that is seeded as the starter model."""
