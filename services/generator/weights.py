"""The folders that a plan's weights lie in. Calls block: they read the disk and may download."""

import json
from collections.abc import Sequence
from pathlib import Path

from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition
from services.diffusion.adapters import FILE_NAME
from services.diffusion.control import FILES as CONTROL_FILES
from services.diffusion.families import get_family
from services.diffusion.single_file import unfolded
from services.diffusion.weights import WeightsUnavailable, fetch_files, fetch_hub, find_hub, materialise
from services.generator.domain import DEFAULT_FRAMES, Folders, Plan, Source


class WeightsFinder:
    """Knows where weights are kept."""

    def __init__(self, blobs: BlobStore, cache_dir: Path, weights_dir: Path | None) -> None:
        self._blobs = blobs
        self._cache_dir = cache_dir
        self._hub_dir = cache_dir / "hub"
        self._weights_dir = weights_dir

    def find(self, plan: Plan, *, make: bool = False) -> Folders | None:
        """The folders, without a network; None when some must be downloaded first, or unfolded and not `make`.

        Raises WeightsUnavailable naming a file that is gone, and FailedPrecondition for a family that cannot be loaded.
        """
        get_family(plan.family)
        folders = [self._find(source) for source in plan.pipeline]
        loras = tuple(self._lora(each.source) for each in plan.loras)
        found = [self._find(source) for source in plan.controls]
        controls = tuple(folder for folder in found if folder is not None)
        whole = [folder for folder in folders if folder is not None]
        all_here = len(whole) == len(folders) and len(controls) == len(found)
        ready = unfolded(whole, make=make) if all_here else None
        return Folders(tuple(ready), loras, controls) if ready is not None else None

    def fetch(self, plan: Plan) -> Folders:
        """The folders, downloaded and unfolded where needed.

        Raises as `find`, and WeightsUnavailable when a hub is out of reach or a checkpoint cannot be taken apart.
        """
        for source in plan.pipeline:
            if source.hub is not None:
                fetch_hub(*source.hub, self._hub_dir, family=source.family, weights_dir=self._weights_dir)
        for source in plan.controls:
            if source.hub is not None:
                fetch_files(*source.hub, self._hub_dir, patterns=CONTROL_FILES, weights_dir=self._weights_dir)
        folders = self.find(plan, make=True)
        if folders is None:
            raise FailedPrecondition("the weights left while they were being read", reason="WEIGHTS_UNAVAILABLE")
        return folders

    def _find(self, source: Source) -> Path | None:
        if source.hub is not None:
            return find_hub(*source.hub, self._hub_dir, weights_dir=self._weights_dir)
        return self._stored(source)

    def _stored(self, source: Source) -> Path:
        try:
            return materialise(source.files, self._blobs, self._cache_dir / "stored")
        except WeightsUnavailable as error:
            name = f"model {source.model_id} '{source.name}'"
            raise WeightsUnavailable(f"the weights of {name} are gone: {error.message}") from error

    def _lora(self, source: Source) -> Path:
        if source.hub is not None:
            message = f"model {source.model_id} '{source.name}': LoRAs on a hub cannot be loaded by this version"
            raise FailedPrecondition(message, reason="FAMILY_UNSUPPORTED")
        if FILE_NAME not in [path for path, _ in source.files]:
            raise WeightsUnavailable(f"model {source.model_id} '{source.name}' has no file {FILE_NAME}")
        return self._stored(source) / FILE_NAME


def read_num_frames(folders: Sequence[Path]) -> int:
    """How many frames a model that draws clips draws by itself, as the nearest UNet's config.json says."""
    for folder in folders:
        try:
            config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
            return int(config.get("num_frames") or DEFAULT_FRAMES)
        except (OSError, ValueError):
            continue
    return DEFAULT_FRAMES
