"""What a job would take, measured before there is a job: a process of its own makes a few of its steps."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from atelier.catalog.v1 import model_pb2
from atelier.trainer.v1 import worker_service_pb2

from services.common.errors import FailedPrecondition, InvalidArgument
from services.trainer.codec import dump, load
from services.trainer.convert import job_to_proto
from services.trainer.domain import Estimate, Failure, Footprint, Job

COMMAND = (sys.executable, "-m", "services.trainer.worker.dry_run")
KEPT_ANSWERS = 64


class Preflight:
    """Measures one job at a time: two together would measure one another. `root` is where processes may scratch."""

    def __init__(self, *, root: Path, data_dir: Path, timeout_seconds: float) -> None:
        self._root = root
        self._data_dir = data_dir
        self._timeout_seconds = timeout_seconds
        self._environment: dict[str, str] = {}
        self._turn = asyncio.Lock()
        self._known: dict[str, Footprint] = {}

    def tell(self, environment: Mapping[str, str]) -> None:
        """What workers find in their environment: known once the Trainer's port is."""
        self._environment = dict(environment)

    async def estimate(self, job: Job, bases: list[model_pb2.Model]) -> Estimate:
        """What `job`, which need not be stored, would take.

        Raises FailedPrecondition (DOES_NOT_FIT, or what the job would fail with), InvalidArgument naming `config`.
        """
        digests = [base.digest or base.hub.revision for base in bases]
        key = json.dumps([job.method.value, dump(job.config), job.snapshot_digest, job.class_snapshot_digest, digests])
        async with self._turn:
            footprint = self._known.get(key)
            if footprint is None:
                footprint = await self._measure(job, bases)
                self._known[key] = footprint
                while len(self._known) > KEPT_ANSWERS:
                    del self._known[next(iter(self._known))]
        config = job.config.checkpoints
        # The latest, the best where one is looked for, the model itself; and two states.
        kept = config.keep + bool(job.config.validation.share) + 1
        disk = kept * footprint.weights_bytes + 2 * footprint.state_bytes
        free = (await asyncio.to_thread(shutil.disk_usage, self._data_dir)).free
        if disk > free:
            message = f"the job's checkpoints need {disk / 1e9:.1f} GB of disk, and {free / 1e9:.1f} GB are free"
            raise FailedPrecondition(message, reason="DOES_NOT_FIT")
        return Estimate(job.config, footprint, disk, free)

    async def _measure(self, job: Job, bases: list[model_pb2.Model]) -> Footprint:
        assignment = worker_service_pb2.JobAssignment(job=job_to_proto(job), base_models=bases)
        self._root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._root, prefix="estimate-"))
        try:
            source, target = folder / "assignment", folder / "result"
            source.write_bytes(assignment.SerializeToString())
            said = await self._run([*COMMAND, str(source), str(target)], folder, job.id)
            if not target.exists():
                # Killed, for want of memory as a rule: it says nothing then.
                raise FailedPrecondition(
                    f"the job does not fit: its first steps were killed{said}", reason="DOES_NOT_FIT"
                )
            answer = json.loads(target.read_text())
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)
        if "footprint" in answer:
            return load(Footprint, json.dumps(answer["footprint"]))
        failure = load(Failure, json.dumps(answer["failure"]))
        if failure.reason == "INVALID_CONFIG":
            raise InvalidArgument(failure.message, field="config")
        if failure.reason == "INTERNAL":
            raise RuntimeError(f"the first steps failed: {failure.message}")
        raise FailedPrecondition(failure.message, reason=failure.reason)

    async def _run(self, command: list[str], folder: Path, job_id: str) -> str:
        """Runs it to its end; what it printed last. The process ends with a caller who leaves."""
        environment = {
            **os.environ,
            **self._environment,
            "ATELIER_WORKER_JOB_ID": job_id,
            "ATELIER_WORKER_DIR": str(folder),
        }
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(self._timeout_seconds):
                _, errors = await process.communicate()
        except TimeoutError:
            message = f"the first steps took longer than {self._timeout_seconds:g} s"
            raise FailedPrecondition(message, reason="ESTIMATE_TIMED_OUT") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        lines = errors.decode(errors="replace").strip().splitlines()
        return f" (exit code {process.returncode}): {lines[-1]}" if lines else f" (exit code {process.returncode})"
