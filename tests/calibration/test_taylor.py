"""Streamed sums against full gradients that were all kept, folded by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.calibration import taylor
from pruning_core.calibration.taylor import TaylorStatistics, gather_taylor
from pruning_core.model.anatomy import Part, read_anatomy
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny
from tests.calibration.witness import FAMILIES, left_as_it_was

HEAD, HEADS, GROUPS, CHANNELS = 8, 9, 3, 40

Pair = tuple[torch.Tensor, torch.Tensor]


def terms(model: PreTrainedModel, window: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return ``e = w * dL/dw`` of every matrix for one window, all at once."""
    full = copy.deepcopy(model).requires_grad_(True)
    full(input_ids=window[None], labels=window[None]).loss.backward()
    return {
        name.replace("language_model.", ""): p.detach() * p.grad
        for name, p in full.named_parameters()
        if p.ndim == 2 and p.grad is not None
    }


def both(e: torch.Tensor) -> Pair:
    """Return the sum and the sum of ``|e - e^2/2|`` over all but the first axis."""
    e = e.reshape(len(e), -1)
    return e.sum(1), (e - e * e / 2).abs().sum(1)


def add(*pairs: Pair) -> Pair:
    return sum(p[0] for p in pairs), sum(p[1] for p in pairs)  # type: ignore[return-value]


def fold(model_type: str, e: dict[str, torch.Tensor], key: SiteKey) -> dict[Part, Pair]:
    """Return the sums over every part of a site, knowing nothing of couplings."""
    layer = f"model.layers.{key.layer}"
    if key.kind is SiteKind.MLP:
        if model_type == "phi3":
            gate, up = e[f"{layer}.mlp.gate_up_proj.weight"].split(CHANNELS)
        else:
            gate, up = (e[f"{layer}.mlp.{name}_proj.weight"] for name in ("gate", "up"))
        down = e[f"{layer}.mlp.down_proj.weight"].T
        return {Part.CHANNEL: add(both(gate), both(up), both(down))}
    if model_type == "phi3":
        q, k, v = e[f"{layer}.self_attn.qkv_proj.weight"].split(
            [HEADS * HEAD, GROUPS * HEAD, GROUPS * HEAD]
        )
    else:
        q, k, v = (e[f"{layer}.self_attn.{name}_proj.weight"] for name in "qkv")
    o = e[f"{layer}.self_attn.o_proj.weight"].T
    return {
        Part.QUERY_HEAD: add(both(q.reshape(HEADS, HEAD, -1)), both(o.reshape(HEADS, HEAD, -1))),
        Part.KV_HEAD: add(both(k.reshape(GROUPS, HEAD, -1)), both(v.reshape(GROUPS, HEAD, -1))),
    }


def gather(model: PreTrainedModel, windows: torch.Tensor) -> TaylorStatistics:
    return gather_taylor(model, read_anatomy(model), windows)


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_equal_those_of_kept_gradients(family: str) -> None:
    model, windows = tiny.tiny_model(family), tiny.tokens(windows=3)
    statistics = gather(model, windows)
    kinds = [SiteKind.ATTENTION] if family == "mixtral" else list(SiteKind)
    assert set(statistics.parts) == {SiteKey(n, kind) for n in range(3) for kind in kinds}
    for sample, window in enumerate(windows):
        e = terms(model, window)
        for key, parts in statistics.parts.items():
            expected = fold(family, e, key)
            assert set(parts) == set(expected)
            for part, (signed, fine) in expected.items():
                assert parts[part].fine.shape == (3, len(fine))
                assert parts[part].fine.dtype == parts[part].signed.dtype == torch.float32
                torch.testing.assert_close(
                    parts[part].fine[sample].double(), fine, rtol=1e-5, atol=0
                )
                # Signed sums cancel: their error is that of the terms.
                assert ((parts[part].signed[sample] - signed).abs() <= 1e-5 * fine).all()


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_tiles_equal_those_of_kept_gradients(family: str) -> None:
    model, windows = tiny.tiny_model(family), tiny.tokens(windows=3)
    statistics = gather(model, windows)
    samples = [terms(model, window) for window in windows]
    matrices = {c.tensor for site in read_anatomy(model).sites for c in site.matrices}
    assert set(statistics.tiles) == matrices
    several = 0
    for name, tiles in statistics.tiles.items():
        (rows, columns), (up, across) = tiles.shape, tiles.fine.shape
        assert tiles.shape == tuple(model.get_parameter(name).shape)
        several += rows * columns > up * across
        e = torch.stack([sample[name] for sample in samples])
        e = e.view(-1, up, rows // up, across, columns // across).transpose(2, 3).flatten(3)
        curved, whole = (e - e * e / 2).abs(), e.sum(-1)
        for found, expected in (
            (tiles.fine, curved.mean((0, -1))),
            (tiles.peak, curved.amax((0, -1))),
            (tiles.coarse, (whole - whole**2 / 2).abs().mean(0) / e.shape[-1]),
        ):
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-12)
    assert several or family != "phi3", "the fused matrices are larger than their maps"


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_one_gradient_lives_at_a_time(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.tiny_model(family)
    alive: list[int] = []
    reduce = taylor.reduce_gradient

    def counting(*arguments: object) -> object:
        alive.append(sum(p.grad is not None for p in model.parameters()))
        return reduce(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(taylor, "reduce_gradient", counting)
    gather(model, tiny.tokens(windows=2))
    matrices = 3 * (4 if family == "phi3" else 7)
    assert alive == [1] * (2 * matrices)


def test_failing_in_the_middle_of_a_backward_pass_leaves_the_model_clean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.tiny_model()
    calls = iter(range(100))
    reduce = taylor.reduce_gradient

    def out_of_memory(*arguments: object) -> object:
        if next(calls) == 9:
            raise torch.OutOfMemoryError("full")
        return reduce(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(taylor, "reduce_gradient", out_of_memory)
    with left_as_it_was(model), pytest.raises(torch.OutOfMemoryError):
        gather(model, tiny.tokens())
