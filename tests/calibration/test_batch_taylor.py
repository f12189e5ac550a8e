"""Sums that were streamed against the formulas on gradients that were all kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

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
from pruning_core.progress import Cancelled
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


@contextmanager
def left_as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """Check that a model comes out with its weights, without gradients and hooks."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [p.requires_grad for p in model.parameters()]
    yield
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


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


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_stays_behind(family: str) -> None:
    model = tiny.tiny_model(family)
    with left_as_it_was(model):
        gather(model, tiny.tokens())


def test_what_required_gradients_before_does_so_again() -> None:
    model = tiny.tiny_model()
    model.get_parameter("model.layers.1.mlp.up_proj.weight").requires_grad_(True)
    with left_as_it_was(model):
        gather(model, tiny.tokens())


def test_gradients_are_asked_for_where_they_are_switched_off() -> None:
    model, windows = tiny.tiny_model(), tiny.tokens()
    with torch.no_grad():
        inside = gather(model, windows)
    again = gather(model, windows)
    for kind, slices in inside.items():
        assert all(torch.equal(value, again[kind][name]) for name, value in slices.items())


def test_cancelling_leaves_the_model_clean() -> None:
    model, windows = tiny.tiny_model(), tiny.tokens(windows=3)

    def stop(_stage: str, done: int, _total: int, note: str = "") -> None:
        if done == 2:
            raise Cancelled

    with left_as_it_was(model), pytest.raises(Cancelled):
        gather_batch_taylor(model, read_anatomy(model), windows, list(Salience), stop)


def test_every_window_is_reported() -> None:
    model, heard = tiny.tiny_model(), []

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        heard.append((done, total))

    windows = tiny.tokens(windows=2)
    gather_batch_taylor(model, read_anatomy(model), windows, [Salience.VECTOR], listen)
    assert heard == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("kind", Salience)
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_loss_that_is_not_finite_is_told_and_leaves_the_model_clean(
    value: float, kind: Salience
) -> None:
    model, windows = tiny.tiny_model(), tiny.tokens(windows=2)
    # A token of the second window only: the first passes.
    (odd, *_) = set(windows[1].tolist()) - set(windows[0].tolist())
    model.get_input_embeddings().weight[odd] = value
    wanted = [p.requires_grad for p in model.parameters()]
    cure = r"loss of calibration window 2 of 2 .* float64.* Load the model in bfloat16 or float32"
    with pytest.raises(PrunescopeError, match=cure):
        gather(model, windows, kind)
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in model.parameters())


@pytest.mark.parametrize("kind", Salience)
def test_a_gradient_that_overflows_under_a_finite_loss_is_told(kind: Salience) -> None:
    model, windows = tiny.tiny_model().to(torch.float16), tiny.tokens(windows=2)
    layer = model.model.layers[1]
    # Forward, channels of zeros meet large weights; backward, large weights meet large channels.
    layer.mlp.up_proj.weight.zero_()
    layer.mlp.up_proj.bias.zero_()
    layer.mlp.down_proj.weight.fill_(6e4)
    layer.post_attention_layernorm.weight.fill_(1e3)
    assert model(input_ids=windows, labels=windows).loss.isfinite()
    said = r"gradient of \S+1.mlp.up_proj.weight .* window 1 of 2 .* float16"
    with left_as_it_was(model), pytest.raises(PrunescopeError, match=said):
        gather(model, windows, kind)
