"""The activation norm: of columns, of heads, of groups, and of nothing else."""

from __future__ import annotations

import torch

from pruning_core.importance.estimators.activation import score
from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import SiteScores
from pruning_core.model.anatomy import read_anatomy
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny
from tests.golden import vectors


def unit_mean(values: torch.Tensor) -> torch.Tensor:
    return values / values.mean()


def test_it_is_the_root_of_the_squares_that_the_authors_code_of_flap_adds_up() -> None:
    model, golden = vectors.model("mha"), vectors.case("flap")
    asked = Evidence(model, read_anatomy(model), lambda _count, _tick: vectors.tokens())
    sites = score(asked, {}).sites
    for layer in range(3):
        channels = unit_mean(golden["WIFN.mlp_scaler"][layer].sqrt())
        found = sites[SiteKey(layer, SiteKind.MLP)].units
        torch.testing.assert_close(found, channels, rtol=1e-4, atol=0)
        heads = unit_mean(golden["WIFN.attn_scaler"][layer].view(8, 8).sum(1).sqrt())
        found = sites[SiteKey(layer, SiteKind.ATTENTION)].units
        torch.testing.assert_close(found, heads, rtol=1e-4, atol=0)


def test_heads_and_groups_are_norms_of_their_columns() -> None:
    model = tiny.tiny_model()
    entered: list[torch.Tensor] = []
    hook = model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(
        lambda _module, inputs: entered.append(inputs[0])
    )
    model(tiny.tokens(windows=3))
    hook.remove()
    (x,) = entered
    found = scores(model)[SiteKey(1, SiteKind.ATTENTION)]
    heads = torch.stack([part.norm() for part in x.split(8, dim=-1)])
    groups = torch.stack([part.norm() for part in x.split(24, dim=-1)])
    torch.testing.assert_close(found.heads, unit_mean(heads).float())
    torch.testing.assert_close(found.units, unit_mean(groups).float())


def test_weights_after_the_activation_do_not_count() -> None:
    model = tiny.tiny_model()
    key = SiteKey(2, SiteKind.MLP)
    before = scores(model)[key].units
    model.model.layers[2].mlp.down_proj.weight.mul_(torch.rand(40))
    assert torch.equal(scores(model)[key].units, before)


def scores(model: torch.nn.Module) -> dict[SiteKey, SiteScores]:
    asked = Evidence(model, read_anatomy(model), lambda _count, _tick: tiny.tokens(windows=3))
    return dict(score(asked, {}).sites)
