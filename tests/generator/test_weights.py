"""Where a plan's weights are found: ControlNets beside the pipeline, in order, stored or in the operator's folder."""

import shutil
from pathlib import Path

import pytest
import torch

from services.common.blobs import BlobStore
from services.diffusion.control import load_control
from services.diffusion.weights import WeightsUnavailable
from services.generator.domain import Plan, Source
from services.generator.weights import WeightsFinder
from tests.tiny import make_tiny_control, make_tiny_pipeline


def stored(blobs: BlobStore, folder: Path, model_id: int) -> Source:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = tuple((path.relative_to(folder).as_posix(), blobs.put_file(path)[0]) for path in paths)
    return Source(model_id, folder.name, "stable_diffusion", str(model_id), files)


def test_controlnets_are_found_in_order_and_load(tmp_path: Path, blobs: BlobStore) -> None:
    pipeline = make_tiny_pipeline(tmp_path / "pipeline")
    canny, depth = (make_tiny_control(tmp_path / name, pipeline, seed=seed) for name, seed in (("c", 1), ("d", 2)))
    own = tmp_path / "weights" / "somebody" / "depth"
    shutil.copytree(depth, own)
    finder = WeightsFinder(blobs, tmp_path / "cache", tmp_path / "weights")
    base = stored(blobs, pipeline, 1)
    on_hub = Source(3, "depth", "stable_diffusion", "a" * 40, hub=("somebody/depth", "a" * 40))
    plan = Plan("tiny", (base,), controls=(on_hub, stored(blobs, canny, 2)))
    folders = finder.find(plan)
    assert folders is not None
    assert folders == finder.fetch(plan)
    assert folders.controls[0] == own
    ours, theirs = (
        load_control(folder, family="stable_diffusion", device="cpu", dtype=torch.float32).state_dict()
        for folder in (folders.controls[1], canny)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert finder.find(Plan("tiny", (base,))) is not None


def test_a_controlnet_out_of_reach_is_waited_for_and_then_told(tmp_path: Path, blobs: BlobStore) -> None:
    finder = WeightsFinder(blobs, tmp_path / "cache", None)
    base = stored(blobs, make_tiny_pipeline(tmp_path / "pipeline"), 1)
    plan = Plan("tiny", (base,), controls=(Source(2, "far", "stable_diffusion", "", hub=("somebody/far", "a" * 40)),))
    assert finder.find(plan) is None
    with pytest.raises(WeightsUnavailable, match="somebody/far"):
        finder.fetch(plan)
