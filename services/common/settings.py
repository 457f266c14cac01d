"""The settings every service has. Each service subclasses this with its own `env_prefix`; `__main__` reads it once."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Where to listen, where to keep things, how to log."""

    model_config = SettingsConfigDict(populate_by_name=True, extra="ignore")

    listen: str = "127.0.0.1:0"
    """host:port; port 0 lets the system choose."""
    announce_file: Path | None = None
    """Gets the bound `host:port`, written whole, once the service answers."""
    data_dir: Path = Field(Path("data"), validation_alias="ATELIER_DATA_DIR")
    """The folder of the default database and blob store."""
    database_url: str = ""
    """SQLAlchemy URL; empty means a SQLite file in `data_dir`. Postgres: postgresql+psycopg://..."""
    blob_url: str = Field("", validation_alias="ATELIER_BLOB_URL")
    """file:///folder; empty means `data_dir`/blobs. All services and workers share one store."""
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", validation_alias="ATELIER_LOG_LEVEL")
    log_format: Literal["console", "json"] = Field("console", validation_alias="ATELIER_LOG_FORMAT")
    stop_grace_seconds: float = 5.0
    """How long running calls may take to end when the service stops."""

    def blob_store_url(self) -> str:
        return self.blob_url or (self.data_dir / "blobs").resolve().as_uri()

    def sqlite_or(self, name: str) -> str:
        """The database URL: the configured one, or the SQLite file `name`.sqlite in the data folder."""
        if self.database_url:
            return self.database_url
        self.data_dir.mkdir(parents=True, exist_ok=True)
        return f"sqlite+aiosqlite:///{(self.data_dir / name).resolve()}.sqlite"
