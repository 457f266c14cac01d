"""The Trainer's settings, read once from the environment (`ATELIER_TRAINER_...`)."""

import socket

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings


class TrainerSettings(ServiceSettings):
    """See ServiceSettings for where it listens, stores and logs."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_TRAINER_", populate_by_name=True, extra="ignore")

    catalog_address: str = "127.0.0.1:50051"
    """host:port of the Catalog; workers are told the same."""
    advertise_address: str = ""
    """host:port at which workers reach this Trainer; empty means where it listens. Workers of a Trainer that died find
    the next one only if this stays the same."""
    replica: str = Field(default_factory=socket.gethostname)
    """This replica's name, which no other may have. Its own running jobs are found again under it after a restart."""
    max_running_jobs: int | None = Field(None, ge=1)
    """Workers that this replica runs at once; unset: one a GPU, and one where there is none."""
    gpus: tuple[str, ...] | None = None
    """The GPUs of this replica, as CUDA_VISIBLE_DEVICES names them, each for one worker at a time while they suffice;
    unset: all that torch finds."""
    tensorboard: bool = True
    """Whether workers write TensorBoard events, to `data_dir`/tensorboard/JOB."""
    caption_model: str = ""
    """What captions datasets: a folder of transformers' files (BLIP or GIT, safetensors), or `repository/name@commit`
    of a hub; empty: nothing does."""
    poll_seconds: float = Field(1.0, gt=0)
    """How often the store is asked for what other replicas did."""
    heartbeat_seconds: float = Field(15.0, gt=0)
    """Idle watch streams hear something this often."""
    lease_seconds: float = Field(60.0, gt=0)
    """A worker that says nothing for so long is lost."""
    cancel_grace_seconds: float = Field(30.0, gt=0)
    """A worker that was told to stop has so long before it is killed."""
    estimate_seconds: float = Field(300.0, gt=0)
    """How long the first steps that an estimate makes may take."""
    registration_seconds: float = Field(600.0, gt=0)
    """How long a Catalog that does not answer is waited for when a trained model is to be registered."""
