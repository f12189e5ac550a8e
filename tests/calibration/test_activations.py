"""Streamed statistics against activations that were all kept, and the authors' own numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.calibration.activations import ActivationStatistics, gather_activations
from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import read_anatomy
from pruning_core.progress import Cancelled
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny
from tests.golden import vectors

FAMILIES = ["llama", "phi3", "qwen3", "gemma2", "gemma3", "olmo2", "mixtral"]


def gather(model: PreTrainedModel, windows: torch.Tensor) -> ActivationStatistics:
    return gather_activations(model, read_anatomy(model), windows)


def kept(model: PreTrainedModel, windows: torch.Tensor) -> dict[SiteKey, torch.Tensor]:
    """Return what enters the output projections, all at once: [windows, tokens, columns]."""
    found: dict[SiteKey, torch.Tensor] = {}
    hooks = [
        model.get_submodule(site.output).register_forward_pre_hook(
            lambda _module, inputs, key=site.key: found.__setitem__(key, inputs[0])
        )
        for site in read_anatomy(model).sites
    ]
    model(input_ids=windows)
    for hook in hooks:
        hook.remove()
    return found


def published(inputs: torch.Tensor) -> torch.Tensor:
    """Return the fluctuation as FLAP's code adds it up, window by window."""
    total = torch.zeros_like(inputs[0, 0])
    for count in range(2, len(inputs) + 1):
        mean = inputs[:count].mean((0, 1))
        new = (inputs[count - 1] - mean).square().sum(0) / count
        total = total * (count - 2) / (count - 1) + new
    return total


@contextmanager
def left_as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """Check that a model comes out with its weights and without hooks."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    yield
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("windows", [1, 2, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_equal_those_of_kept_activations(family: str, windows: int) -> None:
    model, tokens = tiny.tiny_model(family), tiny.tokens(windows=windows)
    statistics = gather(model, tokens)
    inputs = kept(model, tokens)
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
    far = kept(model, tokens)[SiteKey(1, SiteKind.MLP)] + 1e4
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


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_stays_behind(family: str) -> None:
    model = tiny.tiny_model(family)
    with left_as_it_was(model):
        gather(model, tiny.tokens())


def test_no_graph_is_built_where_gradients_are_switched_on() -> None:
    model = tiny.tiny_model().requires_grad_(True)
    with torch.enable_grad():
        seen = gather(model, tiny.tokens()).sites[SiteKey(0, SiteKind.MLP)]
    assert not any(value.requires_grad for value in vars(seen).values())


def test_half_precision_is_squared_in_full() -> None:
    model, tokens = tiny.tiny_model(), tiny.tokens()
    model.model.layers[1].mlp.up_proj.weight.mul_(1e3)
    expected = gather(model, tokens).sites[SiteKey(1, SiteKind.MLP)]
    assert expected.norms.max() > torch.finfo(torch.float16).max
    found = gather(model.to(torch.float16), tokens).sites[SiteKey(1, SiteKind.MLP)]
    assert found.norms.dtype == torch.float32
    loud = expected.norms > expected.norms.median()
    torch.testing.assert_close(found.norms[loud], expected.norms[loud], rtol=0.05, atol=0)


def test_every_window_is_reported() -> None:
    model, heard = tiny.tiny_model(), []

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        heard.append((stage, done, total))

    gather_activations(model, read_anatomy(model), tiny.tokens(windows=2), listen)
    assert heard == [("listening", done, 2) for done in (0, 1, 2)]


def test_cancelling_leaves_the_model_clean() -> None:
    model, windows = tiny.tiny_model(), tiny.tokens(windows=3)

    def stop(_stage: str, done: int, _total: int, note: str = "") -> None:
        if done == 2:
            raise Cancelled

    with left_as_it_was(model), pytest.raises(Cancelled):
        gather_activations(model, read_anatomy(model), windows, stop)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_an_activation_that_is_not_finite_is_told_and_leaves_the_model_clean(value: float) -> None:
    model, windows = tiny.tiny_model(), tiny.tokens(windows=2)
    # A token of the second window only: the first passes.
    (odd, *_) = set(windows[1].tolist()) - set(windows[0].tolist())
    model.get_input_embeddings().weight[odd] = value
    said = (
        r"enters model.layers.0.self_attn.o_proj in calibration window 2 of 2 is not finite in the "
        r"model's float64.* Load the model in bfloat16 or float32"
    )
    with pytest.raises(PrunescopeError, match=said):
        gather(model, windows)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
