"""Streamed statistics against activations that were all kept, and the authors' own numbers."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.calibration.activations import ActivationStatistics, gather_activations
from pruning_core.model.anatomy import read_anatomy
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny
from tests.calibration.witness import FAMILIES, entered
from tests.golden import vectors


def gather(model: PreTrainedModel, windows: torch.Tensor) -> ActivationStatistics:
    return gather_activations(model, read_anatomy(model), windows)


def published(inputs: torch.Tensor) -> torch.Tensor:
    """Return the fluctuation as FLAP's code adds it up, window by window."""
    total = torch.zeros_like(inputs[0, 0])
    for count in range(2, len(inputs) + 1):
        mean = inputs[:count].mean((0, 1))
        new = (inputs[count - 1] - mean).square().sum(0) / count
        total = total * (count - 2) / (count - 1) + new
    return total


@pytest.mark.parametrize("windows", [1, 2, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_equal_those_of_kept_activations(family: str, windows: int) -> None:
    model, tokens = tiny.tiny_model(family), tiny.tokens(windows=windows)
    statistics = gather(model, tokens)
    inputs = entered(model, tokens)
    assert statistics.windows == windows
    assert set(statistics.sites) == set(inputs)
    for key, seen in statistics.sites.items():
        x = inputs[key]
        spread = (x - x.mean((0, 1))).square().sum((0, 1))
        for found, expected in (
            (seen.norms, x.square().sum((0, 1)) / windows),
            (seen.fluctuation, spread / max(windows - 1, 1)),
            (seen.published, published(x)),
        ):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-12)
        # A mean cancels: its error is that of the terms.
        assert ((seen.mean.double() - x.mean((0, 1))).abs() <= 1e-6 * x.abs().mean((0, 1))).all()


def test_a_column_that_stands_far_off_keeps_its_fluctuation() -> None:
    model, tokens = tiny.tiny_model(), tiny.tokens(windows=3)
    far = entered(model, tokens)[SiteKey(1, SiteKind.MLP)] + 1e4
    module = model.get_submodule("model.layers.1.mlp.down_proj")
    hook = module.register_forward_pre_hook(lambda _module, inputs: (inputs[0] + 1e4,))
    seen = gather(model, tokens).sites[SiteKey(1, SiteKind.MLP)]
    hook.remove()
    spread = (far - far.mean((0, 1))).square().sum((0, 1)) / 2
    # fp32 at 1e4 has steps of 1e-3; a mean of squares less a squared mean would be all noise.
    assert ((seen.fluctuation.double() - spread).abs() <= 1e-2 * spread + 1e-3).all()


@pytest.mark.parametrize("kind", list(SiteKind))
def test_the_statistics_are_those_of_the_authors_code(kind: SiteKind) -> None:
    golden, index = vectors.case("flap"), vectors.index("flap")
    statistics = gather(vectors.model("mha"), vectors.tokens())
    short = {SiteKind.ATTENTION: "attn", SiteKind.MLP: "mlp"}[kind]
    sites = [statistics.sites[SiteKey(layer, kind)] for layer in range(3)]
    for name, field in (
        (f"{short}_mean_input", "mean"),
        (f"WIFN.{short}_scaler", "norms"),
        (f"WIFV.{short}_fluctuation", "published"),
    ):
        kind_of, value = index[name]["tolerance"].split()
        allowed = {"rtol": 0.0, "atol": 0.0, kind_of: float(value)}
        found = torch.stack([getattr(site, field) for site in sites])
        torch.testing.assert_close(found, golden[name], **allowed)


def test_half_precision_is_squared_in_full() -> None:
    model, tokens = tiny.tiny_model(), tiny.tokens()
    model.model.layers[1].mlp.up_proj.weight.mul_(1e3)
    expected = gather(model, tokens).sites[SiteKey(1, SiteKind.MLP)]
    assert expected.norms.max() > torch.finfo(torch.float16).max
    found = gather(model.to(torch.float16), tokens).sites[SiteKey(1, SiteKind.MLP)]
    assert found.norms.dtype == torch.float32
    loud = expected.norms > expected.norms.median()
    torch.testing.assert_close(found.norms[loud], expected.norms[loud], rtol=0.05, atol=0)
