"""Sums that were streamed against the formulas on gradients that were all kept."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from pruning_core.calibration.batch_taylor import (
    Salience,
    SliceScores,
    demand_batch_taylor,
    gather_batch_taylor,
)
from pruning_core.errors import PrunescopeError
from pruning_core.model import memory
from pruning_core.model.anatomy import read_anatomy
from pruning_core.model.configuration import skeleton
from tests import tiny

FAMILIES = ["llama", "phi3", "qwen3", "gemma2", "mixtral"]


def gather(
    model: PreTrainedModel, windows: torch.Tensor, *kinds: Salience
) -> dict[Salience, SliceScores]:
    return gather_batch_taylor(model, read_anatomy(model), windows, kinds or list(Salience))


def gradients(model: PreTrainedModel, windows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradient of the mean loss of all windows at once, as transformers has it."""
    full = copy.deepcopy(model).requires_grad_(True)
    full(input_ids=windows, labels=windows).loss.backward()
    return {name: p.grad for name, p in full.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_slices_equal_the_formulas_on_kept_gradients(family: str) -> None:
    model, windows = tiny.tiny_model(family), tiny.tokens(windows=3)
    found = gather(model, windows)
    whole = gradients(model, windows)
    fisher = {
        name: torch.stack([gradients(model, w[None])[name].square() for w in windows]).mean(0)
        for name in found[Salience.VECTOR]
    }
    couplings = [c for site in read_anatomy(model).sites for c in site.matrices]
    assert set(found) == set(Salience)
    for kind in Salience:
        assert set(found[kind]) == {c.tensor for c in couplings}
    for coupling in couplings:
        name, across = coupling.tensor, 1 - coupling.axis
        w, g, f = model.get_parameter(name), whole[name], fisher[name]
        expected = {
            Salience.VECTOR: (w * g).sum(across).abs(),
            Salience.FIRST: (w * g).abs().sum(across),
            Salience.SECOND: (w * f * w).abs().sum(across),
            Salience.MIX: (w * g - 0.5 * w * f * w).abs().sum(across),
        }
        for kind, slices in expected.items():
            assert found[kind][name].dtype == torch.float32
            assert found[kind][name].shape == (w.shape[coupling.axis],)
            # The vector cancels: its error is that of the terms.
            scale = 1e-5 * expected[Salience.FIRST].max() if kind is Salience.VECTOR else 0
            torch.testing.assert_close(
                found[kind][name].double(), slices, rtol=1e-5, atol=float(scale)
            )


@pytest.mark.parametrize("kind", Salience)
def test_a_kind_alone_is_what_it_is_among_all(kind: Salience) -> None:
    model, windows = tiny.tiny_model(), tiny.tokens()
    alone, among = gather(model, windows, kind), gather(model, windows)
    assert set(alone) == {kind}
    for name, slices in among[kind].items():
        assert torch.equal(alone[kind][name], slices)


def test_half_precision_models_are_summed_in_single_precision() -> None:
    single, windows = tiny.tiny_model().to(torch.bfloat16).float(), tiny.tokens()
    half = copy.deepcopy(single).to(torch.bfloat16)
    ours, reference = (gather(model, windows, Salience.SECOND) for model in (half, single))
    for name, slices in reference[Salience.SECOND].items():
        found = ours[Salience.SECOND][name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.sum(), slices.sum(), rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("kinds", "bytes_each"),
    [
        ((Salience.VECTOR,), 0),
        ((Salience.FIRST,), 4),
        ((Salience.SECOND,), 4),
        ((Salience.MIX,), 8),
        (tuple(Salience), 8),
    ],
)
def test_what_is_kept_is_counted(
    monkeypatch: pytest.MonkeyPatch, kinds: tuple[Salience, ...], bytes_each: int
) -> None:
    model = tiny.tiny_model()
    anatomy = read_anatomy(model)
    check = memory.of_skeleton(model, model.device, model.dtype, 24)
    one_pass = check.scoring_peak_bytes - check.parameters * model.dtype.itemsize
    weights = sum(
        model.get_parameter(c.tensor).numel() for site in anatomy.sites for c in site.matrices
    )
    needed = one_pass + bytes_each * weights
    monkeypatch.setattr(memory, "available", lambda device: needed)
    demand_batch_taylor(model, anatomy, 24, kinds)
    monkeypatch.setattr(memory, "available", lambda device: needed - 1)
    with pytest.raises(PrunescopeError, match="does not fit on cpu"):
        demand_batch_taylor(model, anatomy, 24, kinds)


def test_the_refusal_names_the_figures_and_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seven_billion = AutoConfig.for_model("llama", hidden_size=4096, intermediate_size=11008)
    model = skeleton(seven_billion, torch.bfloat16)
    anatomy = read_anatomy(model)
    monkeypatch.setattr(memory, "available", lambda device: 40_000_000_000)
    said = (
        r"keeps 8 bytes for every prunable weight, 51\.8 GB in all, and with windows of 128 tokens "
        r"needs 53\.3 GB beside the weights; 40\.0 GB are free\. Choose 'vector'"
    )
    with pytest.raises(PrunescopeError, match=said):
        demand_batch_taylor(model, anatomy, 128, [Salience.MIX])
    for kind in (Salience.VECTOR, Salience.FIRST, Salience.SECOND):
        demand_batch_taylor(model, anatomy, 128, [kind])
