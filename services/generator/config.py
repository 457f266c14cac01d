"""The Generator's settings, read once from the environment (`ATELIER_GENERATOR_...`)."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings


class GeneratorSettings(ServiceSettings):
    """See ServiceSettings for where it listens, stores and logs. One Generator works on one database."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_GENERATOR_", populate_by_name=True, extra="ignore")

    catalog_address: str = "127.0.0.1:50051"
    """host:port of the Catalog."""
    trainer_address: str = ""
    """host:port of the Trainer whose jobs may train on this machine: those that share their device stand still while
    pictures are drawn. Empty: nobody is asked."""
    weights_dir: Path | None = Field(None, validation_alias="ATELIER_WEIGHTS_DIR")
    """Folder of diffusers folders by hub id (`owner/name`), used instead of a download."""
    device: str = Field("", pattern="^(cpu|cuda(:[0-9]+)?|mps)?$")
    """cpu, cuda or mps; empty means the best that is there."""
    threads: int = Field(0, ge=0)
    """CPU threads that torch uses; 0 means one a core. The same bytes again want the same number again."""
    max_batch: int = Field(8, ge=1)
    """Pictures, of whomever, that share a pass of the denoiser."""
    max_active: int = Field(0, ge=0)
    """Pictures under way, between which passes are shared out; 0 means four times `max_batch`. The rest wait."""
    compile: bool = False
    """Denoisers are compiled when they are loaded, which takes a minute or more; passes with LoRAs are not. Where that
    fails, they draw as they are."""
    tile_above: int = Field(2_400_000, ge=0)
    """Pictures of more pixels are decoded in tiles, which bounds memory; colours then differ a little. 0: never."""
    max_queue: int = Field(100, ge=1)
    """Requests of one caller that may wait; more are refused."""
    max_queue_total: int = Field(1000, ge=1)
    """Requests of all callers that may wait."""
    memory_bytes: int = Field(0, ge=0)
    """What loaded models may take; 0 means two thirds of the device's memory."""
    max_loras: int = Field(16, ge=9)
    """LoRAs kept on one loaded base; those unused for longest leave first. A request names at most nine."""
    safety_checker: Path | None = None
    """Folder with `safety_checker/` and `feature_extractor/`, as in Stable Diffusion 1.5's repository: every picture is
    checked, and the answer says what was found. Empty: none is."""
    safety_action: Literal["tell", "blank"] = "tell"
    """What is done with flagged pictures: nothing, or black ones are kept in their places."""
    max_age_days: int = Field(0, ge=0)
    """Finished generations that are older and that nobody keeps are removed; 0: never."""
    max_gallery_bytes: int = Field(0, ge=0)
    """Where pictures take more, the oldest finished generations that nobody keeps are removed; 0: never."""
    tidy_seconds: float = Field(60.0, gt=0)
    """How often the gallery is looked over for that."""
    heartbeat_seconds: float = Field(10.0, gt=0)
    """Idle streams hear something this often."""
