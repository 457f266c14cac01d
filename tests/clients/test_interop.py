"""The programs in clients/, each against the whole system: from a folder of pictures to one by the trained model."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from atelier_client.stack import Stack, gateway_problem
from PIL import Image

from tests.tiny import make_tiny_pipeline

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"
STEPS = 3
Command = list[str]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if problem := gateway_problem():
        pytest.skip(problem)
    environment = {
        "ATELIER_CATALOG_STARTER_MODEL_DIR": str(make_tiny_pipeline(tmp_path_factory.mktemp("starter"))),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with Stack(tmp_path_factory.mktemp("stack"), environment=environment) as running:
        with running.client() as client:
            client.models.seed()
        yield running


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, most with a caption beside them, a damaged one, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(12):
        Image.new("RGB", (64, 64), (20 * index, 200, 90)).save(folder / f"picture {index}.png")
        (folder / f"picture {index}.txt").write_text(f"red apple & {index}\n")
    (folder / "picture 11.txt").unlink()
    (folder / "broken.png").write_bytes((folder / "picture 0.png").read_bytes()[:-30])
    (folder / "notes.md").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def imports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The schemas that the contracts import, where the clients look for them."""
    subprocess.run([sys.executable, ROOT / "protos/gather.py", ROOT / ".imports"], check=True)
    return ROOT / ".imports"


def need(*programs: str, package: str) -> None:
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(missing)} not found: install {package}")


def curl(folder: Path) -> Command:
    need("bash", "curl", "jq", package="curl and jq")
    return [str(CLIENTS / "curl/atelier.sh")]


def node(folder: Path) -> Command:
    need("node", "npm", package="Node 20 or newer")
    installed = CLIENTS / "node/node_modules/.package-lock.json"
    lock = CLIENTS / "node/package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=CLIENTS / "node", check=True)
    return ["node", str(CLIENTS / "node/atelier.mjs")]


def ruby(folder: Path) -> Command:
    need("ruby", "grpc_tools_ruby_protoc", package="ruby-grpc and ruby-grpc-tools")
    subprocess.run([CLIENTS / "ruby/generate.sh", folder], cwd=ROOT, check=True)
    return ["env", f"ATELIER_RUBY_GEN={folder}", "ruby", str(CLIENTS / "ruby/atelier.rb")]


def cpp(folder: Path) -> Command:
    need("cmake", "protoc", "grpc_cpp_plugin", package="cmake, libgrpc++-dev and protobuf-compiler-grpc")
    subprocess.run(["cmake", "-S", CLIENTS / "cpp", "-B", folder], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "-j2"], check=True, stdout=subprocess.DEVNULL)
    return [str(folder / "atelier")]


# C++ takes a minute to compile.
BUILDERS = [curl, node, ruby, pytest.param(cpp, marks=[pytest.mark.slow, pytest.mark.timeout(400)])]


@pytest.fixture(scope="module", params=BUILDERS, ids=lambda build: build.__name__)
def program(request: pytest.FixtureRequest, imports: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    build: Callable[[Path], Command] = request.param
    return build(tmp_path_factory.mktemp(build.__name__))


def run(program: Command, stack: Stack, *arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    told = {f"ATELIER_{name.upper()}": str(value) for name, value in settings.items()}
    environment = {**os.environ, "ATELIER_ADDRESS": str(stack.addresses.gateway), "ATELIER_STEPS": str(STEPS), **told}
    command = [*program, *(str(each) for each in arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_pictures_in_a_model_out_a_picture_from_it(
    program: Command, stack: Stack, pictures: Path, tmp_path: Path
) -> None:
    ran = run(program, stack, pictures, tmp_path / "drawn.png", "a red apple")
    assert ran.returncode == 0, ran.stderr
    assert f"step {STEPS}/{STEPS}, loss " in ran.stdout
    assert "refused: broken.png" in ran.stdout
    with stack.client() as client:
        (drawing,) = client.generations.recent(limit=1)
        model = client.models.get(drawing.settings.model_id)
        job = client.training.get(model.job_id)
        captions = {image.filename: image.caption for image in client.datasets.images(job.dataset_id)}
    assert (drawing.settings.prompt, job.config.max_steps, job.num_items) == ("a red apple", STEPS, 12)
    assert captions["picture 3.png"] == "red apple & 3"
    assert captions["picture 11.png"] == ""
    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.size == (64, 64)
        picture.load()


def test_a_refusal_names_the_field_and_ends_with_status_1(
    program: Command, stack: Stack, pictures: Path, tmp_path: Path
) -> None:
    ran = run(program, stack, pictures, tmp_path / "drawn.png", rank=100_000)
    assert ran.returncode == 1
    refusal = ran.stderr.splitlines()[-1]  # the shell's says before what is wrong with the damaged picture
    assert refusal.startswith("error: config.lora.rank must be greater than or equal to 1 and less than")
    assert not (tmp_path / "drawn.png").exists()


def test_an_unknown_base_model_is_named(program: Command, stack: Stack, pictures: Path, tmp_path: Path) -> None:
    ran = run(program, stack, pictures, tmp_path / "drawn.png", base_model="Nobody's")
    assert ran.returncode != 0
    assert "there is no model Nobody's" in ran.stderr


def test_a_studio_that_does_not_answer_is_an_error(program: Command, pictures: Path, tmp_path: Path) -> None:
    command = [*program, str(pictures), str(tmp_path / "drawn.png")]
    environment = {**os.environ, "ATELIER_ADDRESS": "127.0.0.1:1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode != 0
    assert ran.stderr


@pytest.mark.parametrize("protocol", ["grpc", "grpcweb"])
def test_buf_curl_trains_and_draws(stack: Stack, pictures: Path, protocol: str) -> None:
    """Without a proto file: by reflection, in gRPC and in gRPC-Web."""

    def call(method: str, **request: object) -> list[dict[str, object]]:
        url = f"http://{stack.addresses.gateway}/atelier.{method}"
        buf = [str(Path(sys.executable).parent / "buf"), "curl", "--protocol", protocol, "--http2-prior-knowledge"]
        ran = subprocess.run(
            [*buf, "--data", json.dumps(request), url], capture_output=True, text=True, timeout=120, check=False
        )
        assert ran.returncode == 0, ran.stderr
        answers, decoder, text = [], json.JSONDecoder(), ran.stdout.strip()
        while text:
            value, end = decoder.raw_decode(text)
            answers, text = [*answers, value], text[end:].strip()
        return answers

    with stack.client() as client:
        dataset = client.datasets.create(f"for buf curl {protocol}")
        client.datasets.upload(dataset, pictures)
        (base,) = [model.id for model in client.models.list() if model.name == "Atelier Starter"]
    (made,) = call(
        "trainer.v1.TrainerService/CreateTrainingJob",
        dataset_id=dataset.id, base_model_id=base, config={"max_steps": 2}, start=True,
    )  # fmt: skip
    job: dict[str, str] = made["job"]  # type: ignore[assignment]  # JSON
    *_, last = call("trainer.v1.TrainerService/WatchTrainingJob", job_id=job["id"])
    done: dict[str, dict[str, int]] = last["event"]  # type: ignore[assignment]  # JSON
    settings = {"model_id": done["done"]["modelId"], "prompt": "red apple", "steps": 2}
    *_, drawn = call("generator.v1.GeneratorService/Generate", settings=settings)
    assert "done" in drawn
