"""`atelier up`, `atelier seed` and seed_models.py as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from atelier_client import Atelier
from atelier_client.addresses import FILE_NAME, SERVICES, read_addresses
from atelier_client.stack import Stack, StackError, is_healthy, is_ready

import services
from tests.e2e.conftest import import_path, run_atelier

ROOT = Path(services.__file__).parent.parent


@contextmanager
def up(data: Path, environment: dict[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
    """`atelier up` with its services healthy; killed on leaving when the test has not stopped it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "atelier_client.cli", "--data", str(data), "up", "--free-ports", *options],
        env={**os.environ, **import_path(), **environment, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        assert process.stdout is not None
        for line in process.stdout:
            if "Atelier is up" in line or time.monotonic() > deadline:
                break
        assert process.poll() is None
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_seeded_models_and_stops_cleanly(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    data = tmp_path / "data"
    with up(data, environment) as process:
        found = json.loads((data / FILE_NAME).read_text())
        assert set(found) == {"catalog", "trainer", "generator", "gateway"}
        assert all(is_healthy(found[name]) for name in SERVICES)
        assert is_ready(found["gateway"], "/readyz")
        with Atelier(**{name: found[name] for name in SERVICES}) as client:
            assert [model.id for model in client.models.list()][:3] == [1, 2, 3]
        children = _children(process.pid)
        assert len(children) == 4
        process.send_signal(number)
        _, err = process.communicate(timeout=40)
    assert process.returncode == 0
    assert "Stopped." in err
    assert not any(alive(child) for child in children)
    assert read_addresses(data) == {}, "the address file goes with the services"
    assert {file.stem for file in (data / "logs").iterdir()} == {"catalog", "trainer", "generator", "gateway"}


def test_a_service_that_dies_is_reported_and_ends_the_rest(tmp_path: Path, environment: dict[str, str]) -> None:
    with up(tmp_path, environment) as process:
        children = _children(process.pid)
        os.kill(children[1], signal.SIGKILL)
        _, err = process.communicate(timeout=40)
    assert process.returncode == 1
    assert "was killed by signal 9" in err
    assert not any(alive(child) for child in children)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells children that their parent is gone")
def test_services_do_not_outlive_an_up_that_was_killed(tmp_path: Path, environment: dict[str, str]) -> None:
    with up(tmp_path, environment) as process:
        children = _children(process.pid)
        process.kill()
        process.wait(10)
        deadline = time.monotonic() + 20
        while any(alive(child) for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_two_in_one_folder_are_refused(stack: Stack) -> None:
    with pytest.raises(StackError, match="runs already"):
        Stack(stack.data_dir).start()
    assert is_healthy(stack.addresses.catalog), "the first one lives on"


def test_a_service_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    environment = {"ATELIER_CATALOG_DATABASE_URL": "no-such-database://"}
    with pytest.raises(StackError, match=r"(?s)the catalog ended with exit code 1; the end of .*Could not parse"):
        Stack(tmp_path, environment=environment).start()
    assert read_addresses(tmp_path) == {}


def test_a_taken_port_is_named_before_anything_starts(stack: Stack, tmp_path: Path) -> None:
    port = int(stack.addresses.trainer.rpartition(":")[2])
    with pytest.raises(StackError, match=f"port {port} for the catalog cannot be used"):
        Stack(tmp_path, ports={"catalog": port}).start()


def test_seeding_needs_no_running_atelier_and_does_nothing_twice(tmp_path: Path, environment: dict[str, str]) -> None:
    env = {**os.environ, **import_path(), **environment, "ATELIER_DATA_DIR": str(tmp_path), "COLUMNS": "200"}
    command = [sys.executable, str(ROOT / "seed_models.py")]
    first = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90, check=False)
    assert first.returncode == 0, first.stderr
    assert "Stable Diffusion 1.5 (ID: 1): added" in first.stdout
    assert "Stable Diffusion XL (ID: 2): added" in first.stdout
    assert "Stable Video Diffusion (ID: 3): added" in first.stdout
    second = run_atelier("--data", tmp_path, "seed", "--json", env=environment, cwd=tmp_path)
    assert [model["id"] for model in second.json["models"]][:3] == [1, 2, 3]
    assert second.json["added_ids"] == []


def _children(pid: int) -> list[int]:
    """Process ids of the direct children, in the order they were started."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children()]
