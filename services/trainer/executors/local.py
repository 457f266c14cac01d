"""Workers as processes of this machine, one a job, each in a process group of its own and on a GPU of its own.

A worker outlives a Trainer that dies: it prints to a file and not to a pipe, and what is needed to find it again lies
beside that file. The next Trainer adopts it.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

READ_BYTES = 64 * 1024
MAX_LINE = 2000
NOTE, OUTPUT = "worker.json", "worker.log"


class WorkerProcess:
    """A worker that was started, or found again (psutil's), or is known to have ended (None)."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes] | psutil.Process | None) -> None:
        self._output = folder / OUTPUT
        self._process = process

    def poll(self) -> int | None:
        """None while it lives, then its exit code; -1 where that cannot be known."""
        if self._process is None:
            return -1
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        try:
            alive = self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            alive = False
        return None if alive else -1

    def terminate(self) -> None:
        """Asks the worker to stop."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the worker and all that it started."""
        self._signal(signal.SIGKILL)

    def read_output(self, offset: int, *, ended: bool) -> tuple[list[str], int]:
        """The lines printed after byte `offset`, and where the next ones begin. A line that is still being written is
        left for the next time unless the worker has ended. Carriage returns end a line too: progress bars use them."""
        try:
            with self._output.open("rb") as file:
                file.seek(offset)
                data = file.read(READ_BYTES)
        except FileNotFoundError:
            return [], offset
        whole = data[: max(data.rfind(b"\n"), data.rfind(b"\r")) + 1]
        if len(data) == READ_BYTES:
            data = whole or data
        elif not ended:
            data = whole
        text = data.decode(errors="replace").replace("\r", "\n")
        return [line[:MAX_LINE] for line in text.split("\n") if line.strip()], offset + len(data)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)  # its process group: what it started goes with it


class LocalExecutor:
    """Starts `command` for each job, with the worker's environment (`ATELIER_WORKER_...`) and a scratch folder;
    the events for TensorBoard go to a folder of each job's own in `tensorboard`, if any."""

    def __init__(self, command: Sequence[str], *, root: Path, tensorboard: Path | None = None) -> None:
        self._command = list(command)
        self._root = root.resolve()
        self._tensorboard = tensorboard.resolve() if tensorboard else None
        self._environment: dict[str, str] = {}
        self._gpus: tuple[str, ...] = ()
        self._on: dict[str, str] = {}  # token -> GPU

    def use(self, gpus: Sequence[str]) -> None:
        """Workers that are started from now on have one of these each, the one that fewest have."""
        self._gpus = tuple(gpus)

    def tell(self, environment: Mapping[str, str]) -> None:
        """What workers find in their environment: known once the Trainer's port is."""
        self._environment = dict(environment)

    async def start(self, job_id: str, token: str) -> WorkerProcess:
        """Raises OSError when the process cannot be started."""
        return await asyncio.to_thread(self._start, job_id, token)

    def _start(self, job_id: str, token: str) -> WorkerProcess:
        folder = self._folder(job_id, token)
        folder.mkdir(parents=True)
        environment = {
            **os.environ,
            **self._environment,
            "ATELIER_WORKER_JOB_ID": job_id,
            "ATELIER_WORKER_TOKEN": token,
            "ATELIER_WORKER_DIR": str(folder),
            "PYTHONUNBUFFERED": "1",
        }
        if self._tensorboard is not None:
            environment["ATELIER_WORKER_TENSORBOARD_DIR"] = str(self._tensorboard / job_id)
        if gpu := self._take(token):
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with (folder / OUTPUT).open("ab") as output:
            process = subprocess.Popen(
                self._command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            since = psutil.Process(process.pid).create_time()
        except psutil.NoSuchProcess:
            since = 0.0
        (folder / NOTE).write_text(json.dumps({"pid": process.pid, "since": since, "token": token, "gpu": gpu}))
        return WorkerProcess(folder, process)

    def gpu_of(self, token: str) -> str:
        """The GPU that an attempt's worker was given, as CUDA_VISIBLE_DEVICES names it; empty: none of its own."""
        return self._on.get(token, "")

    def _take(self, token: str) -> str:
        if not self._gpus:
            return ""
        taken = list(self._on.values())
        self._on[token] = min(self._gpus, key=taken.count)
        return self._on[token]

    async def adopt(self, job_id: str, token: str) -> WorkerProcess | None:
        """The worker that an earlier Trainer started here for this attempt, dead or alive; None if none is known."""
        return await asyncio.to_thread(self._adopt, job_id, token)

    def _adopt(self, job_id: str, token: str) -> WorkerProcess | None:
        folder = self._folder(job_id, token)
        try:
            note = json.loads((folder / NOTE).read_text())
            if note["token"] != token:
                return None
            if note.get("gpu"):
                self._on[token] = note["gpu"]
            process = psutil.Process(note["pid"])
            # A process number is used again after a while; the time it was started tells them apart.
            if abs(process.create_time() - note["since"]) < 1:
                return WorkerProcess(folder, process)
        except psutil.NoSuchProcess:
            return WorkerProcess(folder, None)
        except (OSError, ValueError, KeyError):
            return None
        return WorkerProcess(folder, None)

    async def clean(self, job_id: str, token: str) -> None:
        """Removes the attempt's scratch folder, and gives its GPU back."""
        self._on.pop(token, None)
        await asyncio.to_thread(self._clean, self._folder(job_id, token))

    def _clean(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another attempt of the job is in there
            folder.parent.rmdir()

    def _folder(self, job_id: str, token: str) -> Path:
        """An attempt's own: the next one may begin before the last has ended."""
        return self._root / job_id / token[:12]
