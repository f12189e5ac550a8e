"""What holds for every pass over the calibration windows, whatever it gathers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.calibration.activations import gather_activations
from pruning_core.calibration.batch_taylor import Salience, gather_batch_taylor
from pruning_core.calibration.block_influence import gather_block_influence
from pruning_core.calibration.closeup import weight_scores
from pruning_core.calibration.gradients import gradient_sizes
from pruning_core.calibration.samples import gather_samples
from pruning_core.calibration.taylor import gather_taylor
from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import read_anatomy
from pruning_core.progress import Cancelled, Tick, silent
from tests import tiny
from tests.calibration.witness import FAMILIES, left_as_it_was


def taylor(model: PreTrainedModel, windows: torch.Tensor, tick: Tick) -> list[torch.Tensor]:
    found = gather_taylor(model, read_anatomy(model), windows, tick)
    sums = [sums for parts in found.parts.values() for sums in parts.values()]
    tiles = [tiles for t in found.tiles.values() for tiles in (t.fine, t.peak, t.coarse)]
    return [*(s.signed for s in sums), *(s.fine for s in sums), *tiles]


def batch_taylor(*kinds: Salience) -> Gather:
    def gather(model: PreTrainedModel, windows: torch.Tensor, tick: Tick) -> list[torch.Tensor]:
        found = gather_batch_taylor(model, read_anatomy(model), windows, kinds, tick)
        return [slices for by_name in found.values() for slices in by_name.values()]

    return gather


def gradients(model: PreTrainedModel, windows: torch.Tensor, tick: Tick) -> list[torch.Tensor]:
    names = [c.tensor for site in read_anatomy(model).sites for c in site.matrices]
    return list(gradient_sizes(model, names, windows, tick).values())


def closeup(model: PreTrainedModel, windows: torch.Tensor, tick: Tick) -> list[torch.Tensor]:
    above = [site for site in read_anatomy(model).sites if site.key.layer == 1]
    # The last that is not the output projection: ``up_proj`` where there is one.
    return [weight_scores(model, above[-1].matrices[-2].tensor, windows, tick)]


def activations(model: PreTrainedModel, windows: torch.Tensor, tick: Tick) -> list[torch.Tensor]:
    found = gather_activations(model, read_anatomy(model), windows, tick)
    return [value for site in found.sites.values() for value in vars(site).values()]


def samples(model: PreTrainedModel, windows: torch.Tensor, tick: Tick) -> list[torch.Tensor]:
    return list(gather_samples(model, read_anatomy(model), windows, 100, 0, tick).values())


def influence(model: PreTrainedModel, windows: torch.Tensor, tick: Tick) -> list[torch.Tensor]:
    return [*vars(gather_block_influence(model, read_anatomy(model), windows, tick)).values()]


Gather = Callable[[PreTrainedModel, torch.Tensor, Tick], list[torch.Tensor]]


class Pass(NamedTuple):
    """A pass, the stage that it reports, and what it finds first where nothing is finite."""

    gather: Gather
    stage: str
    refuses: str


BACKWARD = {
    "taylor": Pass(taylor, "scoring", "The loss of"),
    "batch taylor": Pass(batch_taylor(*Salience), "scoring", "The loss of"),
    "batch taylor, vector": Pass(batch_taylor(Salience.VECTOR), "scoring", "The loss of"),
    "gradients": Pass(gradients, "gathering gradients", "The loss of"),
    "closeup": Pass(closeup, "looking closer", "The loss of"),
}
ENTERS = "What enters model.layers.0.self_attn.o_proj in"
FORWARD = {
    "activations": Pass(activations, "listening", ENTERS),
    "samples": Pass(samples, "sampling", ENTERS),
    "influence": Pass(influence, "following layers", "The residual stream around layer 0 in"),
}


def passes(*tables: dict[str, Pass]) -> pytest.MarkDecorator:
    every = {name: one for table in tables for name, one in table.items()}
    return pytest.mark.parametrize("one", every.values(), ids=every)


@pytest.mark.parametrize("family", FAMILIES)
@passes(BACKWARD, FORWARD)
def test_nothing_stays_behind(one: Pass, family: str) -> None:
    model = tiny.tiny_model(family)
    with left_as_it_was(model):
        assert one.gather(model, tiny.tokens(), silent)


@passes(BACKWARD, FORWARD)
def test_what_required_gradients_before_does_so_again(one: Pass) -> None:
    model = tiny.tiny_model()
    model.get_parameter("model.layers.1.mlp.up_proj.weight").requires_grad_(True)
    with left_as_it_was(model):
        one.gather(model, tiny.tokens(), silent)


@passes(BACKWARD, FORWARD)
def test_it_is_the_same_where_gradients_are_switched_off(one: Pass) -> None:
    model, windows = tiny.tiny_model(), tiny.tokens()
    with torch.no_grad():
        off = one.gather(model, windows, silent)
    with torch.enable_grad():
        on = one.gather(model, windows, silent)
    assert all(torch.equal(*pair) for pair in zip(off, on, strict=True))


@passes(FORWARD)
def test_no_graph_is_built_where_gradients_are_switched_on(one: Pass) -> None:
    model = tiny.tiny_model().requires_grad_(True)
    with torch.enable_grad():
        assert not any(value.requires_grad for value in one.gather(model, tiny.tokens(), silent))


@passes(BACKWARD, FORWARD)
def test_every_window_is_reported(one: Pass) -> None:
    heard = []

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        heard.append((stage, done, total))

    one.gather(tiny.tiny_model(), tiny.tokens(windows=2), listen)
    assert heard == [(one.stage, done, 2) for done in (0, 1, 2)]


@passes(BACKWARD, FORWARD)
def test_cancelling_leaves_the_model_clean(one: Pass) -> None:
    model = tiny.tiny_model()

    def stop(_stage: str, done: int, _total: int, note: str = "") -> None:
        if done == 2:
            raise Cancelled

    with left_as_it_was(model), pytest.raises(Cancelled):
        one.gather(model, tiny.tokens(windows=3), stop)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@passes(BACKWARD, FORWARD)
def test_what_is_not_finite_is_told_and_leaves_the_model_clean(one: Pass, value: float) -> None:
    model, windows = tiny.tiny_model(), tiny.tokens(windows=2)
    # A token of the second window only: the first passes.
    (odd, *_) = set(windows[1].tolist()) - set(windows[0].tolist())
    model.get_input_embeddings().weight[odd] = value
    model.get_parameter("model.layers.1.mlp.up_proj.weight").requires_grad_(True)
    said = (
        f"{one.refuses} calibration window 2 of 2 is not finite in the model's float64, so nothing "
        "can be ranked by it. Load the model in bfloat16 or float32"
    )
    with left_as_it_was(model), pytest.raises(PrunescopeError, match=said):
        one.gather(model, windows, silent)


@passes(BACKWARD)
def test_a_gradient_that_overflows_under_a_finite_loss_is_told(one: Pass) -> None:
    model, windows = tiny.tiny_model().to(torch.float16), tiny.tokens(windows=2)
    layer = model.model.layers[1]
    # Forward, channels of zeros meet large weights; backward, large weights meet large channels.
    layer.mlp.up_proj.weight.zero_()
    layer.mlp.up_proj.bias.zero_()
    layer.mlp.down_proj.weight.fill_(6e4)
    layer.post_attention_layernorm.weight.fill_(1e3)
    assert model(input_ids=windows, labels=windows).loss.isfinite()
    said = r"The gradient of \S+1.mlp.up_proj.weight in calibration window 1 of 2 .* float16"
    with left_as_it_was(model), pytest.raises(PrunescopeError, match=said):
        one.gather(model, windows, silent)
