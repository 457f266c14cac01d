"""Workers as processes: their output, their end, and finding them again."""

import asyncio
import sys
from pathlib import Path

import pytest

from services.trainer.executors.local import READ_BYTES, LocalExecutor, WorkerProcess

TOKEN = "secret-token-of-the-attempt"


async def ended(worker: WorkerProcess) -> int:
    async with asyncio.timeout(10):
        while (code := worker.poll()) is None:  # noqa: ASYNC110  # a process can only be asked
            await asyncio.sleep(0.02)
    return code


def executor(folder: Path, program: str) -> LocalExecutor:
    return LocalExecutor([sys.executable, "-c", program], root=folder)


async def test_a_worker_finds_its_job_in_its_environment_and_its_output_is_read(tmp_path: Path) -> None:
    program = "import os, sys; print(os.environ['ATELIER_WORKER_JOB_ID'], os.environ['ADDED']); sys.exit('no luck')"
    local = executor(tmp_path, program)
    local.tell({"ADDED": "too"})
    worker = await local.start("job", TOKEN)
    assert await ended(worker) == 1
    assert worker.read_output(0, ended=True)[0] == ["job too", "no luck"]
    await local.clean("job", TOKEN)
    assert list(tmp_path.iterdir()) == []


async def test_a_line_is_read_when_it_is_whole_and_progress_bars_by_their_returns(tmp_path: Path) -> None:
    worker = await executor(tmp_path, "pass").start("job", TOKEN)
    await ended(worker)
    (output,) = tmp_path.rglob("worker.log")
    output.write_bytes(b"one\ntwo\r50 %\rthr")
    lines, offset = worker.read_output(0, ended=False)
    assert lines == ["one", "two", "50 %"]
    assert worker.read_output(offset, ended=False) == ([], offset)
    assert worker.read_output(offset, ended=True)[0] == ["thr"]
    output.write_bytes(b"x" * (READ_BYTES + 10))
    first, offset = worker.read_output(0, ended=False)
    assert (len(first), offset) == (1, READ_BYTES), "an endless line does not stop the reading"


async def test_killing_a_worker_ends_what_it_started(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(60)"
    program = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {sleep!r}]).pid); {sleep}"
    worker = await executor(tmp_path, program).start("job", TOKEN)
    async with asyncio.timeout(10):
        while not (lines := worker.read_output(0, ended=False)[0]):  # noqa: ASYNC110  # it is another process
            await asyncio.sleep(0.02)
    worker.kill()
    assert await ended(worker) == -9
    grandchild = int(lines[0])
    status = Path(f"/proc/{grandchild}/stat")
    if Path("/proc").is_dir():
        async with asyncio.timeout(20):
            while status.exists() and status.read_text().split()[2] != "Z":  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_a_living_worker_is_found_again_and_a_dead_one_known_as_dead(tmp_path: Path) -> None:
    local = executor(tmp_path, "import time; time.sleep(60)")
    worker = await local.start("job", TOKEN)
    found = await executor(tmp_path, "").adopt("job", TOKEN)
    assert found is not None
    assert found.poll() is None
    found.kill()
    assert await ended(worker) == -9
    assert await ended(found) == -1
    again = await local.adopt("job", TOKEN)
    assert again is not None
    assert again.poll() == -1
    again.kill()


async def test_a_worker_of_another_attempt_is_not_adopted(tmp_path: Path) -> None:
    local = executor(tmp_path, "pass")
    await ended(await local.start("job", TOKEN))
    assert await local.adopt("job", "another-token-altogether") is None
    assert await local.adopt("job", TOKEN[:12] + "-but-not-this-one") is None
    assert await local.adopt("no-such-job", TOKEN) is None


async def test_a_command_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-program"):
        await LocalExecutor(["/no-such-program"], root=tmp_path).start("job", TOKEN)
