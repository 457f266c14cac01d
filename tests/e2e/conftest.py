"""The whole system as a user has it: three processes, a starter model (here the tiny one), the command and the SDK."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from atelier_client import Atelier
from atelier_client.stack import Stack
from PIL import Image

from tests.tiny import make_tiny_captioner, make_tiny_pipeline

WORDS = ("red apple", "blue heart", "cat", "dog", "red star", "blue star")


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Result]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the services get beside the usual: the tiny pipeline instead of the shipped starter model."""
    folder = make_tiny_pipeline(tmp_path_factory.mktemp("starter"))
    captioner = make_tiny_captioner(tmp_path_factory.mktemp("captioner") / "tiny-blip")
    return {
        "ATELIER_CATALOG_STARTER_MODEL_DIR": str(folder),
        "ATELIER_TRAINER_CAPTION_MODEL": str(captioner),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack"), environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
def client(stack: Stack) -> Iterator[Atelier]:
    with stack.client() as connected:
        connected.models.seed()
        yield connected


@pytest.fixture(scope="session")
def starter(client: Atelier) -> int:
    """The id of the model whose weights are here."""
    (model,) = [each for each in client.models.list() if each.id <= 100 and each.WhichOneof("weights") == "stored"]
    return model.id


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of six small captioned images."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, word in enumerate(WORDS):
        Image.new("RGB", (64, 64), (40 * index, 255 - 40 * index, 90)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(word)
    return folder


def run_atelier(*arguments: object, env: dict[str, str], cwd: Path, timeout: float = 90) -> Result:
    """Runs the command as a user does, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "atelier_client.cli", *map(str, arguments)],
        env={**os.environ, **import_path(), "COLUMNS": "200", **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def import_path() -> dict[str, str]:
    """PYTHONPATH with this process's import path: children find what we find, wherever they run."""
    return {"PYTHONPATH": os.pathsep.join(str(Path(each).resolve()) for each in sys.path if each)}


@pytest.fixture
def atelier(stack: Stack, client: Atelier, tmp_path: Path) -> Command:
    """The `atelier` command against the running stack, found by its address file."""

    def run(*arguments: object, timeout: float = 90) -> Result:
        return run_atelier("--data", stack.data_dir, *arguments, env={}, cwd=tmp_path, timeout=timeout)

    return run
