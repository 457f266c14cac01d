"""Where the services are: told, from the environment, or from the file that a running `atelier up` writes."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

SERVICES = ("catalog", "trainer", "generator")
GATEWAY = "gateway"  # serves nothing of its own: browsers and REST reach the three through it
DEFAULT_PORTS = {"catalog": 50051, "trainer": 50052, "generator": 50053, GATEWAY: 8080}  # of `atelier up`
FILE_NAME = "addresses.json"


@dataclass(frozen=True)
class Addresses:
    """host:port of each service; the gateway's is empty where none runs."""

    catalog: str
    trainer: str
    generator: str
    gateway: str = ""


def data_dir() -> Path:
    """The folder that services and clients on this machine share: ATELIER_DATA_DIR, else ./data."""
    return Path(os.environ.get("ATELIER_DATA_DIR") or "data")


def find_addresses(
    *, catalog: str = "", trainer: str = "", generator: str = "", folder: Path | None = None
) -> Addresses:
    """Each service's address.

    As given, else ATELIER_<SERVICE>_ADDRESS, else what a running `atelier up` wrote in `folder`
    (`data_dir()` where none is named), else `atelier up`'s default port.
    """
    given = {"catalog": catalog, "trainer": trainer, "generator": generator}
    written = read_addresses(folder or data_dir())
    found = {
        name: given[name]
        or os.environ.get(f"ATELIER_{name.upper()}_ADDRESS")
        or written.get(name)
        or f"127.0.0.1:{DEFAULT_PORTS[name]}"
        for name in SERVICES
    }
    return Addresses(**found)


def read_addresses(folder: Path) -> dict[str, str]:
    """What a running `atelier up` wrote under `folder`; empty when none runs there."""
    try:
        written = json.loads((folder / FILE_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return {name: written[name] for name in SERVICES if written.get(name)}


def write_addresses(folder: Path, addresses: Addresses) -> Path:
    """Writes the file whole, so that a reader sees all of it or nothing."""
    file = folder / FILE_NAME
    aside = folder / f".{FILE_NAME}.{os.getpid()}"
    aside.write_text(json.dumps(asdict(addresses), indent=2) + "\n")
    aside.replace(file)
    return file
