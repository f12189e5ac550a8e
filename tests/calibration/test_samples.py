"""Sampled rows against activations that were all kept."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.calibration.samples import gather_samples
from pruning_core.model.anatomy import read_anatomy
from pruning_core.recipe import SiteKey
from tests import tiny
from tests.calibration.witness import FAMILIES, entered

Samples = Mapping[SiteKey, torch.Tensor]


def gather(
    model: PreTrainedModel, windows: torch.Tensor, tokens: int = 1000, seed: int = 0
) -> Samples:
    return gather_samples(model, read_anatomy(model), windows, tokens, seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_positions_are_all_activations(family: str) -> None:
    model, windows = tiny.tiny_model(family), tiny.tokens(windows=3)
    samples = gather(model, windows)
    expected = entered(model, windows)
    assert set(samples) == set(read_anatomy(model).by_key)
    for key, rows in samples.items():
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows, expected[key].flatten(0, 1).float())


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
