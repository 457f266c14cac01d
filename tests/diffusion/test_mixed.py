"""LoRAs that act row by row: as peft's layers, whoever shares the batch."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.common.errors import FailedPrecondition
from services.diffusion import mixed
from services.diffusion.adapters import FILE_NAME, add_lora, load_loras, save_lora, set_lora_weights
from services.diffusion.encode import encode_prompts, some_of
from services.diffusion.load import Components, load_components
from services.diffusion.mixed import RowAdapters, read_adapter
from services.diffusion.sample import Sample, step_together
from services.diffusion.schedulers import make_scheduler
from services.diffusion.weights import WeightsUnavailable
from tests.tiny import make_tiny_pipeline
from tests.tiny_families import make_tiny_sd3, make_tiny_sdxl

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
KINDS: dict[str, Mapping[str, Any]] = {
    "plain": {"rank": 4, "alpha": 8.0},
    "wide": {"rank": 16, "alpha": 16.0, "target_modules": [*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in"]},
    "stabilised": {"rank": 2, "alpha": 3.0, "rslora": True, "target_modules": ["to_q"]},
    "convolutions": {"rank": 3, "target_modules": ["conv1", "conv2", "to_v", "conv_shortcut"]},
    "words too": {"rank": 5, "alpha": 2.0, "text_encoders": True},
}


def make_lora(folder: Path, pipeline: Path, seed: int, *, text_encoders: bool = False, **about: Any) -> Path:
    """A LoRA of random numbers that acts strongly."""
    components = load(pipeline)
    encoders = components.text_encoders if text_encoders else []
    parameters = add_lora(components.denoiser, text_encoders=encoders, **about)
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    adapted = {"unet": components.denoiser}
    if text_encoders:
        adapted["text_encoder"] = encoders[0]
    return save_lora(folder, **adapted)


def load(folder: Path, family: str = "stable_diffusion") -> Components:
    return load_components([folder], family=family, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_pipeline(tmp_path_factory.mktemp("mixed") / "model")


@pytest.fixture(scope="module")
def loras(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("loras")
    return {
        name: make_lora(root / name.replace(" ", "_"), pipeline, seed, **about)
        for seed, (name, about) in enumerate(KINDS.items())
    }


def noisy(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (rows, 4, 16, 16), (rows, 16, 32)
    latents, words = (torch.randn(shape, generator=generator) for shape in shapes)
    return latents, torch.arange(1, rows + 1) * 90, words


def by_peft(
    pipeline: Path, loras: Mapping[str, Path], weights: Mapping[str, float], row: int, rows: int
) -> torch.Tensor:
    components = load(pipeline)
    load_loras(components, [(name.replace(" ", "_"), loras[name]) for name in weights])
    set_lora_weights(components, {name.replace(" ", "_"): weight for name, weight in weights.items()})
    latents, times, words = noisy(rows)
    with torch.no_grad():
        return components.denoiser(latents[row : row + 1], times[row : row + 1], words[row : row + 1]).sample


def assert_as_alone(
    together: torch.Tensor, wanted: Sequence[Mapping[str, float]], pipeline: Path, loras: Mapping[str, Path]
) -> None:
    """Each row of a pass over `noisy` latents is what peft's layers make of it."""
    for place, weights in enumerate(wanted):
        alone = by_peft(pipeline, loras, weights, place, len(wanted))
        assert torch.allclose(together[place], alone[0], atol=2e-4, rtol=1e-4), weights


def rows_with(components: Components, loras: Mapping[str, Path], *names: str) -> RowAdapters:
    """That know the named ones."""
    rows = RowAdapters(components.denoiser)
    for name in names:
        adapter = read_adapter(components, loras[name])
        assert adapter is not None
        rows.add(name, adapter.layers["unet"])
    return rows


def test_each_row_is_as_its_loras_alone_would_have_it(
    pipeline: Path, loras: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[dict[str, float]] = [
        {},
        *({name: 1.0} for name in KINDS),
        {"plain": 0.7, "convolutions": -0.4, "wide": 0.2},
        {"plain": 0.0},
        {"wide": 1.3},
    ]
    latents, times, words = noisy(len(wanted))
    together = []
    for dear in (0.0, 1e9):  # merged, and not
        monkeypatch.setattr(mixed, "DEAR", dear)
        components = load(pipeline)
        rows = rows_with(components, loras, *loras)
        with torch.no_grad(), rows.rows(wanted):
            together.append(components.denoiser(latents, times, words).sample)
    with torch.no_grad():
        without = components.denoiser(latents, times, words).sample
    for each in together:
        assert_as_alone(each, wanted, pipeline, loras)
        for place, weights in enumerate(wanted):
            changed = (each[place] - without[place]).abs().max()
            assert bool(changed > 1e-2) == any(weights.values()), weights
    assert not torch.equal(*together), "merged sums are rounded otherwise"


@pytest.mark.parametrize("dear", [0.0, 1e9], ids=["merged", "not merged"])
def test_rows_that_are_alike_share_one_product(
    pipeline: Path, loras: dict[str, Path], dear: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed, "DEAR", dear)
    components = load(pipeline)
    rows = rows_with(components, loras, "wide", "convolutions")
    latents, times, words = noisy(3)
    both = []
    for _ in range(2):  # what is merged is merged in the second pass
        with torch.no_grad(), rows.rows([{"wide": 0.5, "convolutions": 1.0}] * 3):
            both.append(components.denoiser(latents, times, words).sample)
    for together in both:
        assert_as_alone(together, [{"wide": 0.5, "convolutions": 1.0}] * 3, pipeline, loras)
    assert torch.equal(*both) == (dear > 0), "merged sums are rounded otherwise"


def test_steady_rows_come_out_the_same_whatever_was_drawn_before(
    pipeline: Path, loras: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed, "DEAR", 0.0)
    components = load(pipeline)
    rows = rows_with(components, loras, "wide", "plain")
    latents, times, words = noisy(2)

    def drawn(steady: bool) -> torch.Tensor:
        with torch.no_grad(), rows.rows([{"wide": 0.5}] * 2, steady=steady):
            answer: torch.Tensor = components.denoiser(latents, times, words).sample
        return answer

    first = drawn(True)
    loose = [drawn(False) for _ in range(3)]
    assert not torch.equal(first, loose[-1]), "there is something to tell apart"
    with rows.rows([{"wide": 0.5}, {"plain": 1.0}]):
        pass
    assert all(torch.equal(drawn(True), first) for _ in range(3))


@pytest.mark.parametrize("kept", [0, 30_000, 1 << 30])
def test_rows_that_come_and_go_find_what_others_left(
    pipeline: Path, loras: dict[str, Path], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed, "MERGED_BYTES", kept)
    components = load(pipeline)
    rows = rows_with(components, loras, "plain", "wide", "convolutions")
    latents, times, words = noisy(3)
    passes: list[list[dict[str, float]]] = [
        [{"plain": 0.7}, {"wide": 1.0}, {}],
        [{"wide": 1.0}, {"plain": 0.7}, {"plain": 0.6}],
        [{"plain": 0.7}, {"plain": 0.7}, {"plain": 0.7}],
        [{"convolutions": 1.0, "plain": 0.7}, {"plain": 0.7}, {"wide": 1.0}],
        [{}, {}, {}],
    ]
    for wanted in passes * 2:
        with torch.no_grad(), rows.rows(wanted):
            mine = components.denoiser(latents, times, words).sample
        assert_as_alone(mine, wanted, pipeline, loras)


@pytest.mark.parametrize("dear", [0.0, 1e9], ids=["merged", "not merged"])
def test_only_rows_that_have_come_are_laid(
    pipeline: Path, loras: dict[str, Path], dear: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed, "DEAR", dear)
    laid: set[int] = set()
    for kind in (mixed._Merged, mixed._LowRank):
        put = kind.put

        def noted(self: Any, place: int, layers: Any, put: Any = put) -> None:
            laid.add(place)
            put(self, place, layers)

        monkeypatch.setattr(kind, "put", noted)
    components = load(pipeline)
    rows = rows_with(components, loras, "plain", "wide")
    rng = random.Random(3)
    there = [{"plain": 1.0}, {"wide": 0.1}, {"wide": 0.2}, {}, {"plain": 0.3}, {"wide": 0.4}]
    with rows.rows(there):
        pass
    latents, times, words = noisy(6)
    for number in range(12):
        kept = rng.sample(there, rng.randint(3, 5))
        wanted = [*kept, *({"wide": 1 + (10 * number + place) / 200} for place in range(6 - len(kept)))]
        rng.shuffle(wanted)
        laid.clear()
        order = rows.order(wanted)
        assert sorted(order) == list(range(6))
        there = [wanted[place] for place in order]
        with torch.no_grad(), rows.rows(there):
            mine = components.denoiser(latents, times, words).sample
        assert len(laid) == 6 - len(kept)
        place = rng.randrange(6)
        assert torch.allclose(mine[place], by_peft(pipeline, loras, there[place], place, 6)[0], atol=2e-4, rtol=1e-4)
    with rows.rows(there[:4]):  # who leaves at the end leaves the others where they are
        pass
    assert rows.order(there[:4]) == [0, 1, 2, 3]


@pytest.mark.parametrize("dear", [0.0, 1e9], ids=["merged", "not merged"])
def test_what_is_laid_out_stays_bounded_whatever_comes(
    pipeline: Path, loras: dict[str, Path], dear: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed, "DEAR", dear)
    rows = rows_with(load(pipeline), loras, "plain", "wide")
    most = 0
    for number in range(60):
        weight = 1 + number / 100
        narrow, wide = {"plain": weight}, {"wide": weight}
        for wanted in ([narrow, {}, {}, {}], [wide, {}, {}, {}], [narrow, narrow], [{}, {}, wide, narrow, narrow]):
            with rows.rows(wanted):
                pass
        if number == 19:
            most = rows.memory_bytes
    assert 0 < rows.memory_bytes <= most


def test_rows_that_could_not_be_laid_are_laid_anew(
    pipeline: Path, loras: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed, "DEAR", 0.0)
    components = load(pipeline)
    rows = rows_with(components, loras, "plain", "wide")
    first, then = [{"plain": 1.0}, {"wide": 0.5}, {}], [{"wide": 0.7}, {"wide": 0.5}, {}]
    with rows.rows(first):
        pass
    put, left = mixed._Merged.put, 3

    def full(self: Any, place: int, layers: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise torch.OutOfMemoryError("no memory")
        put(self, place, layers)

    monkeypatch.setattr(mixed._Merged, "put", full)
    with pytest.raises(torch.OutOfMemoryError), rows.rows(then):
        pass
    monkeypatch.setattr(mixed._Merged, "put", put)
    latents, times, words = noisy(3)
    for wanted in (first, then):
        with torch.no_grad(), rows.rows(wanted):
            mine = components.denoiser(latents, times, words).sample
        assert_as_alone(mine, wanted, pipeline, loras)


def test_words_are_read_with_their_own_loras(pipeline: Path, loras: dict[str, Path]) -> None:
    components = load(pipeline)
    adapter = read_adapter(components, loras["words too"])
    assert adapter is not None
    rows = RowAdapters(components.text_encoders[0])
    rows.add("words too", adapter.layers["text_encoder"])
    prompts = ["a red apple", "a red apple"]
    with torch.no_grad(), rows.rows([{}, {"words too": 0.8}]):
        together = encode_prompts(components, prompts)["words"]
    plain = load(pipeline)
    with torch.no_grad():
        assert torch.allclose(together[0], encode_prompts(plain, prompts)["words"][0], atol=1e-5)
        load_loras(plain, [("lora", loras["words too"])])
        set_lora_weights(plain, {"lora": 0.8})
        assert torch.allclose(together[1], encode_prompts(plain, prompts)["words"][1], atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_a_lora_that_is_removed_acts_no_more(pipeline: Path, loras: dict[str, Path]) -> None:
    components = load(pipeline)
    rows = RowAdapters(components.denoiser)
    adapter = read_adapter(components, loras["plain"])
    assert adapter is not None
    latents, times, words = noisy(2)
    with torch.no_grad():
        before = components.denoiser(latents, times, words).sample
        rows.add("plain", adapter.layers["unet"])
        with rows.rows([{"plain": 1.0}, {}]):
            assert not torch.equal(components.denoiser(latents, times, words).sample, before)
        rows.remove("plain")
        rows.remove("plain")
        with rows.rows([{"plain": 1.0}, {}]):
            assert torch.equal(components.denoiser(latents, times, words).sample, before)


@pytest.mark.parametrize("alpha", [None, 2.0])
def test_kohyas_layout_acts_as_diffusers_reads_it(
    pipeline: Path, loras: dict[str, Path], tmp_path: Path, alpha: float | None
) -> None:
    kohya: dict[str, torch.Tensor] = {}
    for key, value in load_file(loras["words too"]).items():
        part, _, name = key.partition(".")
        name, side, _ = name.rsplit(".", 2)
        stem = ("lora_unet_" if part == "unet" else "lora_te_") + name.replace(".", "_")
        kohya[f"{stem}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = value
        if alpha is not None:
            kohya[f"{stem}.alpha"] = torch.tensor(alpha)
    path = tmp_path / FILE_NAME
    save_file(kohya, path)
    components, plain = load(pipeline), load(pipeline)
    adapter = read_adapter(components, path)
    assert adapter is not None
    load_loras(plain, [("lora", path)])
    set_lora_weights(plain, {"lora": 1.0})
    rows, words_rows = RowAdapters(components.denoiser), RowAdapters(components.text_encoders[0])
    rows.add("lora", adapter.layers["unet"])
    words_rows.add("lora", adapter.layers["text_encoder"])
    latents, times, words = noisy(1)
    with torch.no_grad(), rows.rows([{"lora": 1.0}]), words_rows.rows([{"lora": 1.0}]):
        mine = components.denoiser(latents, times, words).sample, encode_prompts(components, ["a cat"])["words"]
    with torch.no_grad():
        theirs = plain.denoiser(latents, times, words).sample, encode_prompts(plain, ["a cat"])["words"]
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_other_kinds_are_left_to_peft(pipeline: Path, tmp_path: Path) -> None:
    path = make_lora(tmp_path, pipeline, 1, rank=2, dora=True)
    assert read_adapter(load(pipeline), path) is None


def test_a_lora_of_another_model_is_refused(pipeline: Path, tmp_path: Path) -> None:
    wrong = {
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 7),
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.zeros(7, 2),
    }
    save_file(wrong, tmp_path / FILE_NAME)
    with pytest.raises(FailedPrecondition):
        read_adapter(load(pipeline), tmp_path / FILE_NAME)
    with pytest.raises(WeightsUnavailable):
        read_adapter(load(pipeline), tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("family", "make"), [("stable_diffusion_xl", make_tiny_sdxl), ("stable_diffusion_3", make_tiny_sd3)]
)
def test_other_families_mix_loras_too(family: str, make: Any, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    components = load(folder, family)
    path = tmp_path / "lora"
    other = load(folder, family)
    for parameter in add_lora(other.denoiser, rank=3, family=family):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.3
    path = save_lora(path, **{components.family.denoiser: other.denoiser})
    adapter = read_adapter(components, path)
    assert adapter is not None
    rows = RowAdapters(components.denoiser)
    rows.add("lora", adapter.layers[components.family.denoiser])

    def sample(of: Components, **about: Any) -> Sample:
        with torch.no_grad():
            words = encode_prompts(of, ["a red apple", ""])
        said, unsaid = some_of(words, slice(0, 1)), some_of(words, slice(1, 2))
        return Sample(of, make_scheduler(of), said=said, unsaid=unsaid, seed=3, width=64, height=64, steps=3, **about)

    both = [sample(components), sample(components, adapters={"lora": 0.9})]
    plain = load(folder, family)
    load_loras(plain, [("lora", path)])
    alone = []
    for weights in ({}, {"lora": 0.9}):
        set_lora_weights(plain, weights)
        alone.append(sample(plain))
        while not alone[-1].is_done:
            step_together(alone[-1:])
    for _ in range(3):
        step_together(both, rows)
    for one, other_one in zip(both, alone, strict=True):
        assert torch.allclose(one.latents, other_one.latents, atol=1e-3)
    assert (both[0].latents - both[1].latents).abs().max() > 1e-2
