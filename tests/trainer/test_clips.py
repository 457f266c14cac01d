"""What is trained on clips, and what on pictures."""

from dataclasses import replace

import pytest

from services.common.errors import FailedPrecondition, InvalidArgument
from services.trainer.domain import BaseModel, Dataset, Method, SampleConfig, TrainingConfig, VideoConfig
from services.trainer.jobs import check_base, check_dataset, check_family, filled

STILLS = Dataset(1, "stills", holds_images=True, num_items=3)
FILMS = Dataset(2, "films", holds_images=False, num_items=3)
PAINTER = BaseModel(1, "painter", "stable_diffusion", True, True, True, None, 512)
FILMER = BaseModel(3, "filmer", "stable_video_diffusion", True, False, True, None, 512)


def test_a_model_learns_from_what_it_draws() -> None:
    check_dataset(STILLS, PAINTER)
    check_dataset(FILMS, FILMER)
    for dataset, base, wanted in ((FILMS, PAINTER, "image"), (STILLS, FILMER, "video")):
        with pytest.raises(
            FailedPrecondition, match=f"{dataset.name}.*not of the type {wanted}.*{base.name}"
        ) as caught:
            check_dataset(dataset, base)
        assert caught.value.reason == "UNSUPPORTED_DATASET_TYPE"


def test_an_empty_dataset_is_named_with_what_it_lacks() -> None:
    with pytest.raises(FailedPrecondition, match="upload clips"):
        check_dataset(replace(FILMS, num_items=0), FILMER)
    with pytest.raises(FailedPrecondition, match="upload images"):
        check_dataset(replace(STILLS, num_items=0), PAINTER)


def test_a_model_whose_category_is_not_its_familys_is_refused() -> None:
    check_base(PAINTER)
    with pytest.raises(FailedPrecondition, match="painter") as caught:
        check_base(replace(PAINTER, draws_images=False))
    assert caught.value.reason == "UNSUPPORTED_FAMILY"


def test_samples_are_clips_of_models_that_draw_clips_and_prompts_of_the_others() -> None:
    check_family(FILMER, Method.LORA, TrainingConfig(samples=SampleConfig(clips=2)))
    check_family(PAINTER, Method.LORA, TrainingConfig(samples=SampleConfig(("a cat",))))
    for samples, base, field in (
        (SampleConfig(clips=2), PAINTER, "config.samples.clips"),
        (SampleConfig(("a cat",)), FILMER, "config.samples.prompts"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            check_family(base, Method.LORA, TrainingConfig(samples=samples))
        assert field in caught.value.violations


def test_settings_of_clips_are_filled_in_for_who_reads_them_alone() -> None:
    given = TrainingConfig(video=VideoConfig(num_frames=8))
    assert filled(Method.LORA, TrainingConfig(), FILMER).video == VideoConfig(14, 7, 127, 0.02)
    assert filled(Method.LORA, given, FILMER).video == VideoConfig(num_frames=8)
    assert filled(Method.LORA, given, PAINTER).video is None


def test_settings_that_mean_nothing_to_a_family_are_named() -> None:
    flow = replace(PAINTER, family="stable_diffusion_3")
    for base, method, config, field in (
        (flow, Method.LORA, TrainingConfig(snr_gamma=5.0), "config.snr_gamma"),
        (flow, Method.FULL, TrainingConfig(zero_terminal_snr=True), "config.zero_terminal_snr"),
        (FILMER, Method.DREAMBOOTH, TrainingConfig(), "method"),
        (FILMER, Method.LORA, TrainingConfig(train_text_encoder=True), "config.train_text_encoder"),
        (FILMER, Method.LORA, TrainingConfig(random_flip=True), "config.random_flip"),
        (FILMER, Method.LORA, TrainingConfig(masked_loss=True), "config.masked_loss"),
    ):
        check_family(base, Method.LORA, TrainingConfig())
        with pytest.raises(InvalidArgument) as caught:
            check_family(base, method, config)
        assert list(caught.value.violations) == [field]
