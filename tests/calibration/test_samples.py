"""Sampled rows against activations that were all kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.calibration.samples import gather_samples
from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import read_anatomy
from pruning_core.progress import Cancelled
from pruning_core.recipe import SiteKey
from tests import tiny

FAMILIES = ["llama", "phi3", "qwen3", "gemma2", "gemma3", "olmo2", "mixtral"]

Samples = Mapping[SiteKey, torch.Tensor]


def gather(
    model: PreTrainedModel, windows: torch.Tensor, tokens: int = 1000, seed: int = 0
) -> Samples:
    return gather_samples(model, read_anatomy(model), windows, tokens, seed)


def kept(model: PreTrainedModel, windows: torch.Tensor) -> Samples:
    """Return what enters the output projections, all of it: [all tokens, columns]."""
    found: dict[SiteKey, torch.Tensor] = {}
    hooks = [
        model.get_submodule(site.output).register_forward_pre_hook(
            lambda _module, inputs, key=site.key: found.__setitem__(key, inputs[0].flatten(0, -2))
        )
        for site in read_anatomy(model).sites
    ]
    model(input_ids=windows)
    for hook in hooks:
        hook.remove()
    return found


@contextmanager
def left_as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """Check that a model comes out with its weights and without hooks."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    yield
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_all_positions_are_all_activations(family: str) -> None:
    model, windows = tiny.tiny_model(family), tiny.tokens(windows=3)
    with left_as_it_was(model):
        samples = gather(model, windows)
    expected = kept(model, windows)
    assert set(samples) == set(read_anatomy(model).by_key)
    for key, rows in samples.items():
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows, expected[key].float())


def test_few_positions_are_some_of_them_and_the_same_at_every_site() -> None:
    model, windows = tiny.tiny_model(), tiny.tokens(windows=3)
    samples, every = gather(model, windows, tokens=20), gather(model, windows)
    chosen = []
    for key, rows in samples.items():
        assert len(rows) == 20
        near = torch.cdist(rows, every[key], compute_mode="donot_use_mm_for_euclid_dist")
        assert (near.amin(1) < 1e-5).all()
        chosen.append(near.argmin(1).tolist())
    assert all(positions == chosen[0] for positions in chosen)
    assert len(set(chosen[0])) == 20, "none is drawn twice"
    assert chosen[0] == sorted(chosen[0])


def test_the_seed_alone_draws_the_positions() -> None:
    model, windows = tiny.tiny_model(), tiny.tokens(windows=3)
    state = torch.get_rng_state()
    one, same, other = (gather(model, windows, tokens=9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for key, rows in one.items():
        assert torch.equal(rows, same[key])
        assert not torch.equal(rows, other[key])


def test_windows_without_a_position_do_not_run() -> None:
    model, passes = tiny.tiny_model(), []
    model.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    with torch.enable_grad():
        gather(model, tiny.tokens(windows=6), tokens=1)
    assert passes == [False]


def test_every_window_is_reported_and_cancelling_leaves_the_model_clean() -> None:
    model, heard = tiny.tiny_model(), []

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        heard.append((stage, done, total))
        if len(heard) == 5:
            raise Cancelled

    windows = tiny.tokens(windows=2)
    gather_samples(model, read_anatomy(model), windows, 100, 0, listen)
    assert heard == [("sampling", n, 2) for n in range(3)]
    with left_as_it_was(model), pytest.raises(Cancelled):
        gather_samples(model, read_anatomy(model), windows, 100, 0, listen)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_is_told_and_leaves_the_model_clean(value: float) -> None:
    model, windows = tiny.tiny_model(), tiny.tokens(windows=2)
    # A token of the second window only: the first passes.
    (odd, *_) = set(windows[1].tolist()) - set(windows[0].tolist())
    model.get_input_embeddings().weight[odd] = value
    cure = r"enters \S+ in calibration window 2 of 2 .* float64.* Load the model in bfloat16"
    with pytest.raises(PrunescopeError, match=cure):
        gather(model, windows)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
