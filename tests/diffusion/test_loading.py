"""Components out of folders: nearest first, safetensors only, and a name for whatever is missing."""

import shutil
from pathlib import Path

import pytest
import torch

from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition
from services.diffusion.load import Components, load_components, read_size
from services.diffusion.weights import WeightsUnavailable, fetch_hub, find_hub, materialise
from tests.tiny import SIDE, SIZE_MULTIPLE, VAE_FACTOR, make_tiny_pipeline


def load(*folders: Path, family: str = "stable_diffusion") -> Components:
    return load_components(folders, family=family, device="cpu", dtype=torch.float32)


def test_sizes_are_known_with_and_without_loading(tiny_folder: Path, components: Components) -> None:
    assert (components.size.multiple, components.size.native, components.size.vae_factor) == (
        SIZE_MULTIPLE,
        SIDE,
        VAE_FACTOR,
    )
    size = read_size([tiny_folder], family="stable_diffusion")
    assert (size.multiple, size.native, size.vae_factor) == (SIZE_MULTIPLE, SIDE, VAE_FACTOR)
    parameters = sum(each.numel() for each in components.denoiser.parameters())
    assert components.memory_bytes > 4 * parameters


def test_a_fine_tuned_folder_is_completed_by_its_base(tiny_folder: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    other = make_tiny_pipeline(tmp_path / "other", seed=5)
    shutil.copytree(other / "unet", tuned / "unet")
    mixed, base, whole = load(tuned, tiny_folder), load(tiny_folder), load(other)
    assert torch.equal(mixed.denoiser.conv_in.weight, whole.denoiser.conv_in.weight)
    assert torch.equal(mixed.vae.encoder.conv_in.weight, base.vae.encoder.conv_in.weight)
    with pytest.raises(WeightsUnavailable, match=r"tokenizer/vocab\.json"):
        load(tuned)


@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(tiny_folder: Path, tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / file).unlink()
    with pytest.raises(WeightsUnavailable, match=file) as caught:
        load(folder)
    assert caught.value.reason == "WEIGHTS_UNAVAILABLE"
    with pytest.raises(WeightsUnavailable, match=file):
        read_size([folder], family="stable_diffusion")


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_a_damaged_file_is_named(tiny_folder: Path, tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsUnavailable, match=file):
        load(folder)


def test_weights_that_lack_tensors_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("conv_in.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsUnavailable, match=r"conv_in\.weight"):
        load(folder)


def test_pickles_are_never_read(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.unlink()
    torch.save(load(tiny_folder).denoiser.state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsUnavailable, match=r"diffusion_pytorch_model\.safetensors"):
        load(folder)


def test_half_precision_files_load(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    unet = load(tiny_folder).denoiser
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.half().save_pretrained(folder / "unet", variant="fp16")
    assert load(folder).denoiser.conv_in.weight.dtype == torch.float32


def test_a_pipeline_as_diffusers_saves_it_today_loads(
    tiny_folder: Path, tmp_path: Path, components: Components
) -> None:
    from diffusers import StableDiffusionPipeline

    StableDiffusionPipeline.from_pretrained(tiny_folder).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "tokenizer" / "vocab.json").exists()
    words = ["a red apple, xyz"]
    assert load(tmp_path / "saved").tokenizers[0](words).input_ids == components.tokenizers[0](words).input_ids


def test_a_family_that_is_not_there_says_what_is(tiny_folder: Path) -> None:
    with pytest.raises(FailedPrecondition, match="it loads: stable_diffusion") as caught:
        load(tiny_folder, family="flux")
    assert caught.value.reason == "FAMILY_UNSUPPORTED"


def test_blobs_become_a_folder_that_loads(tiny_folder: Path, tmp_path: Path, blobs: BlobStore) -> None:
    paths = [path for path in sorted(tiny_folder.rglob("*")) if path.is_file()]
    files = [(path.relative_to(tiny_folder).as_posix(), blobs.put_file(path)[0]) for path in paths]
    folder = materialise(files, blobs, tmp_path / "cache")
    assert materialise(list(reversed(files)), blobs, tmp_path / "cache") == folder
    assert load(folder).size.native == SIDE
    blobs.delete(files[0][1])
    with pytest.raises(WeightsUnavailable, match=files[0][0]):
        materialise(files, blobs, tmp_path / "cache")


@pytest.mark.parametrize("path", ["../evil.json", "/etc/evil.json", "unet/../../evil.json", "a\\..\\b", ""])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, blobs: BlobStore, path: str) -> None:
    with pytest.raises(WeightsUnavailable, match="leaves its folder"):
        materialise([(path, blobs.put(b"x"))], blobs, tmp_path / "cache")
    assert not list(tmp_path.rglob("evil*"))


def test_a_hub_model_is_taken_from_the_operators_folder(tmp_path: Path) -> None:
    own = tmp_path / "weights" / "somebody" / "model"
    own.mkdir(parents=True)
    place = {"cache_dir": tmp_path / "hub", "weights_dir": tmp_path / "weights"}
    assert find_hub("somebody/model", "0" * 40, **place) == own
    assert fetch_hub("somebody/model", "0" * 40, family="stable_diffusion", **place) == own
    assert find_hub("somebody/else", "0" * 40, **place) is None


def test_a_hub_out_of_reach_says_where_to_put_the_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="ATELIER_WEIGHTS_DIR/somebody/model") as caught:
        fetch_hub("somebody/model", "0" * 40, tmp_path / "hub", family="stable_diffusion")
    assert "0" * 40 in caught.value.message
