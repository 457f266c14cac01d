"""A narrow captioning model, loaded as any is."""

import json
from pathlib import Path

import pytest
from PIL import Image

from services.diffusion.captions import Captioner, find_captioner, name_of
from services.diffusion.weights import WeightsUnavailable
from tests.tiny import WORDS, make_tiny_captioner

PICTURES = [Image.new("RGB", (40, 30), color) for color in ("red", "white", "black", "green")]
COMMIT = "ab" * 20


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_captioner(tmp_path_factory.mktemp("captioner"))


def test_pictures_get_captions_of_the_models_words_one_each(folder: Path) -> None:
    captioner = Captioner(folder, "cpu")
    captions = captioner.caption(PICTURES, max_tokens=8)
    assert len(captions) == 4
    assert len(set(captions)) > 1, "they tell pictures apart"
    assert all(1 <= len(caption.split()) <= 8 and set(caption.split()) <= set(WORDS) for caption in captions), captions
    assert captioner.caption(PICTURES, max_tokens=8) == captions
    assert max(len(caption.split()) for caption in captioner.caption(PICTURES, max_tokens=3)) <= 3


def test_a_model_without_safetensors_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_captioner(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsUnavailable, match="'pickled' does not load"):
        Captioner(folder, "cpu")


def test_a_model_of_another_kind_is_refused_by_its_kind(tmp_path: Path) -> None:
    folder = make_tiny_captioner(tmp_path / "bert")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(WeightsUnavailable, match="is a bert; known are blip, git"):
        Captioner(folder, "cpu")


def test_a_folder_is_itself_and_a_hubs_model_is_found_where_the_operator_put_it(folder: Path, tmp_path: Path) -> None:
    assert find_captioner(str(folder), tmp_path) == folder
    own = tmp_path / "own" / "someone" / "captions"
    own.mkdir(parents=True)
    assert find_captioner(f"someone/captions@{COMMIT}", tmp_path / "cache", weights_dir=tmp_path / "own") == own
    with pytest.raises(WeightsUnavailable, match="could not be fetched"):
        find_captioner(f"someone/captions@{COMMIT}", tmp_path / "cache")
    for wrong in ("/no/such/folder", "someone/captions", "someone/captions@main"):
        with pytest.raises(WeightsUnavailable, match="neither a folder nor"):
            find_captioner(wrong, tmp_path)


def test_clients_hear_a_name_and_no_path() -> None:
    assert name_of("/srv/models/blip-base") == "blip-base"
    assert name_of(f"someone/captions@{COMMIT}") == f"someone/captions@{COMMIT}"
