"""What can be told to the edge, from the environment: ATELIER_GATEWAY_*."""

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[2]
MEBIBYTE = 1024 * 1024
LOOPBACK_HOSTS = ["localhost", "127.0.0.1", "[::1]"]


class EdgeSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ATELIER_GATEWAY_", populate_by_name=True, extra="ignore")

    listen: str = "127.0.0.1:8080"
    """host:port."""
    catalog_address: str = "127.0.0.1:50051"
    trainer_address: str = "127.0.0.1:50052"
    generator_address: str = "127.0.0.1:50053"
    web_dir: Path = ROOT / "gateway" / "web" / "dist"
    """The built web app as Envoy sees it."""
    serve_web: bool | None = None
    """Whether to serve it. Unset: if it is there now."""
    cors_origins: list[str] = Field(default_factory=list)
    """Origins beside our own whose pages may call, as JSON: ["https://studio.example"]."""
    hosts: list[str] | None = None
    """The Host names that are answered. Unset: the loopback's where we listen there, else every one."""
    max_rest_bytes: int = Field(64 * MEBIBYTE, gt=0, lt=2**32)
    """The largest REST request and answer; what is larger is streamed over gRPC."""
    max_connections: int = Field(4096, gt=0)
    workers: int = Field(2, gt=0)
    """Envoy's threads."""
    admin: str = ""
    """Envoy's admin interface: host:port on loopback, or the path of a unix socket. Empty: none."""
    data_dir: Path = Field(Path("data"), validation_alias="ATELIER_DATA_DIR")
    log_level: str = Field("info", validation_alias="ATELIER_LOG_LEVEL")

    @model_validator(mode="after")
    def _admin_stays_here(self) -> Self:
        if self.admin and not self.admin.startswith("/") and not is_loopback(split_address(self.admin)[0]):
            raise ValueError(f"admin listens on loopback or a unix socket, not on {self.admin}")
        return self

    def upstreams(self) -> dict[str, str]:
        """host:port of each service."""
        return {
            "catalog": self.catalog_address,
            "trainer": self.trainer_address,
            "generator": self.generator_address,
        }

    def answered_hosts(self) -> list[str]:
        if self.hosts is not None:
            return self.hosts
        return LOOPBACK_HOSTS if is_loopback(split_address(self.listen)[0]) else ["*"]

    def has_web(self) -> bool:
        return (self.web_dir / "index.html").is_file() if self.serve_web is None else self.serve_web


def split_address(address: str) -> tuple[str, int]:
    """("::1", 80) of "[::1]:80". Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
