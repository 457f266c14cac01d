"""What the executor tells a worker through the environment (`ATELIER_WORKER_...`)."""

from pathlib import Path

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WorkerSettings(BaseSettings):
    """Where the Trainer, the Catalog and the bytes are, and for which job the worker is."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_WORKER_", populate_by_name=True, extra="ignore")

    trainer_address: str
    """host:port of the Trainer's WorkerService."""
    catalog_address: str
    """host:port of the Catalog."""
    blob_url: str
    job_id: str
    token: str = ""
    """Proves that this worker is the job's present attempt."""
    dir: Path
    """Scratch of this job's own."""
    cache_dir: Path | None = None
    """The folder of unfolded base models and of hub models; unset means `dir`/cache."""
    weights_dir: Path | None = Field(None, validation_alias="ATELIER_WEIGHTS_DIR")
    """The operator's own diffusers folders of hub models, by repository id."""
    tensorboard_dir: Path | None = None
    """Where the job's TensorBoard events go; unset: nowhere."""
    mlflow_uri: str = Field("", validation_alias=AliasChoices("ATELIER_TRAINER_MLFLOW_URI", "MLFLOW_TRACKING_URI"))
    """The tracking server at which the job is a run; empty: none."""
    patience_seconds: float = Field(600.0, gt=0)
    """How long a Trainer that does not answer is tried again before the job is given up."""
