"""The figures of memory hold against real models, and refuse what can't be loaded or scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.model import memory
from pruning_core.model.configuration import skeleton
from pruning_core.model.memory import (
    Preflight,
    demand,
    demand_scoring,
    of_skeleton,
    preflight,
)
from tests.model import tiny_checkpoints as tiny

CPU = torch.device("cpu")
GB = 10**9


def a_check(**changes: object) -> Preflight:
    fits = Preflight(
        load_peak_bytes=3 * GB,
        scoring_peak_bytes=4 * GB,
        available_bytes=5 * GB,
        device=CPU,
        dtype=torch.bfloat16,
        parameters=GB,
        window=256,
    )
    return replace(fits, **changes)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_are_counted_exactly(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    folder = tiny.save(tmp_path / "m", tie_word_embeddings=tied)
    check = preflight(str(folder), CPU, dtype)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    assert check.parameters == sum(p.numel() for p in model.parameters())
    largest = max(p.numel() for p in model.parameters())
    assert check.load_peak_bytes == sum(p.nbytes for p in model.parameters()) + 4 * largest


def test_a_gguf_has_the_parameters_of_its_model(tmp_path: Path) -> None:
    model = tiny.model()
    check = preflight(str(tiny.save_gguf(tmp_path / "m.gguf", model)), CPU, torch.bfloat16)
    assert check.parameters == model.num_parameters()


def test_what_can_not_be_pruned_is_said_before_memory_is(tmp_path: Path) -> None:
    AutoConfig.for_model("ctrl", architectures=["CTRLLMHeadModel"]).save_pretrained(tmp_path)
    with pytest.raises(PrunescopeError, match="'ctrl' are not supported"):
        preflight(str(tmp_path), CPU, torch.bfloat16)


@pytest.mark.parametrize(
    ("device", "copies", "unpacking"), [("cpu", 1, 12), ("mps", 2, 12), ("cuda", 1, 4)]
)
def test_a_gguf_is_unpacked_on_the_cpu_whose_memory_metal_shares(
    monkeypatch: pytest.MonkeyPatch, device: str, copies: int, unpacking: int
) -> None:
    monkeypatch.setattr(memory, "available", lambda device: GB)
    model = tiny.model()
    check = of_skeleton(model, torch.device(device), torch.bfloat16, unpacks=True)
    sizes = [p.numel() for p in model.parameters()]
    assert check.load_peak_bytes == copies * 2 * sum(sizes) + unpacking * max(sizes)


def test_a_skeleton_needs_what_its_model_needs() -> None:
    model = tiny.model()
    shapes = skeleton(model.config, torch.bfloat16)
    first, second = (of_skeleton(m, CPU, torch.bfloat16, 99) for m in (model, shapes))
    assert replace(first, available_bytes=0) == replace(second, available_bytes=0)


def test_the_weights_are_not_opened(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "m")
    before = preflight(str(folder), CPU, torch.bfloat16)
    (folder / "model.safetensors").unlink()
    after = preflight(str(folder), CPU, torch.bfloat16)
    assert replace(after, available_bytes=0) == replace(before, available_bytes=0)


def bytes_kept_for_backward(model: PreTrainedModel, window: int) -> int:
    """Measure what one forward pass keeps for its backward, weights excluded, logits included."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (pointer := tensor.untyped_storage().data_ptr()) not in weights:
            kept[pointer] = tensor
        return tensor

    ids = torch.arange(window)[None] % 100
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(ids, use_cache=False).logits
        F.cross_entropy(logits[0, :-1].float(), ids[0, 1:])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "phi3"])
@pytest.mark.parametrize("wide", ["hidden_size", "intermediate_size"])
def test_activations_are_neither_under_nor_far_overestimated(
    family: str, wide: str, dtype: torch.dtype
) -> None:
    shape = {"hidden_size": 288, "intermediate_size": 512, "head_dim": 32, "pad_token_id": 0}
    config = AutoConfig.for_model(
        family,
        **{**shape, wide: 2 * shape[wide]},
        vocab_size=500,
        num_hidden_layers=3,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    check = of_skeleton(model, CPU, dtype, window=128)
    weights = sum(p.nbytes for p in model.parameters())
    measured = weights + bytes_kept_for_backward(model, 128)
    assert measured <= check.scoring_peak_bytes
    gradient = (dtype.itemsize + 8) * max(p.numel() for p in model.model.layers.parameters())
    assert check.scoring_peak_bytes - gradient <= 1.4 * measured


def test_the_sentence_says_the_figures_and_the_verdict() -> None:
    said = a_check().sentence()
    for part in ("1.0 billion parameters in bfloat16", "3.0 GB", "4.0 GB", "5.0 GB", "cpu"):
        assert part in said
    assert said.endswith("Both fit.")
    assert "scoring will not fit" in a_check(available_bytes=int(3.5 * GB)).sentence()
    assert a_check(available_bytes=GB).sentence().endswith("It does not fit.")


@pytest.mark.parametrize(
    ("free", "loading", "scoring"), [(5, True, True), (3, True, False), (2, False, False)]
)
def test_what_fits(free: int, loading: bool, scoring: bool) -> None:
    check = a_check(available_bytes=free * GB)
    assert (check.fits_loading, check.fits_scoring) == (loading, scoring)


def test_what_can_not_be_loaded_is_refused_with_the_figures() -> None:
    demand(a_check(available_bytes=3 * GB))
    with pytest.raises(PrunescopeError, match=r"3\.0 GB, and 2\.0 GB are free") as refused:
        demand(a_check(available_bytes=2 * GB))
    assert "bfloat16" not in str(refused.value)
    with pytest.raises(PrunescopeError, match="two bytes such as bfloat16"):
        demand(a_check(available_bytes=2 * GB, dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scoring_that_does_not_fit_is_refused_with_the_figures(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    model, window = tiny.model().to(dtype), 1_000_000
    weights = sum(p.nbytes for p in model.parameters())
    needed = of_skeleton(model, CPU, dtype, window).scoring_peak_bytes - weights
    monkeypatch.setattr(memory, "available", lambda device: needed)
    demand_scoring(model, window)
    monkeypatch.setattr(memory, "available", lambda device: needed - 1)
    demand_scoring(model, window // 2)
    with pytest.raises(PrunescopeError, match="windows of 1000000 tokens does not fit") as refused:
        demand_scoring(model, window)
    said = str(refused.value)
    assert f"needs {needed / 1e9:.1f} GB, and {needed / 1e9:.1f} GB are free" in said
    assert "shorter calibration windows" in said
    assert "a smaller model" in said
    assert ("bfloat16" in said) == (dtype is torch.float32)


def test_experts_are_not_scored_and_need_no_gradient() -> None:
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    few, many = (
        AutoModelForCausalLM.from_config(
            AutoConfig.for_model(
                "mixtral", **shape, vocab_size=100, intermediate_size=128, num_local_experts=count
            )
        )
        for count in (2, 8)
    )
    needs = []
    for model in (few, many):
        weights = sum(p.nbytes for p in model.parameters())
        check = of_skeleton(model, CPU, torch.float32, window=1)
        needs.append(check.scoring_peak_bytes - weights)
    routers = 4 * (8 - 2)
    assert needs[1] - needs[0] == routers


def test_scoring_is_held_against_all_devices_that_the_model_is_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(memory, "available", lambda device: asked.append(device) or GB)
    one, spread = tiny.model().to("meta"), tiny.model()
    spread.model.layers[1].to("meta")
    demand_scoring(one, 8)
    demand_scoring(spread, 8)
    assert asked == [torch.device("meta"), torch.device("cuda")]


def test_what_gpus_have_free_is_added_up_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda n: ((10, 20)[n], 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda n: 7)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda n: 3)
    assert memory.available(torch.device("cuda")) == 14 + 24
    assert memory.available(torch.device("cuda:1")) == 24
