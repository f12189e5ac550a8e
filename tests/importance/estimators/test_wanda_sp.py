"""Wanda-sp against means over its weights, and against the same score in the code of FLAP."""

from __future__ import annotations

import pytest
import torch

from pruning_core.importance.estimators.wanda_sp import column_scores, score
from pruning_core.importance.evidence import Evidence
from pruning_core.model.anatomy import read_anatomy
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny
from tests.golden import vectors


@pytest.mark.parametrize("kind", list(SiteKind))
def test_it_is_the_weighted_norm_of_flap_before_heads_are_squared(kind: SiteKind) -> None:
    model = vectors.model("mha")
    asked = Evidence(model, read_anatomy(model), lambda _count, _tick: vectors.tokens())
    found = torch.stack([column_scores(asked, site) for site in asked.anatomy.of_kind(kind)])
    golden = vectors.case("flap")
    expected = (
        golden["WIFN.mlp_metric"] if kind is SiteKind.MLP else golden["WIFN.attn_metric"].sqrt()
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_a_unit_is_the_mean_over_its_weights() -> None:
    model, tokens = tiny.tiny_model(), tiny.tokens(windows=3)
    entered: dict[str, torch.Tensor] = {}
    layer = model.model.layers[1]
    projections = {"o": layer.self_attn.o_proj, "down": layer.mlp.down_proj}
    hooks = [
        module.register_forward_pre_hook(
            lambda _module, inputs, name=name: entered.__setitem__(name, inputs[0])
        )
        for name, module in projections.items()
    ]
    model(tokens)
    for hook in hooks:
        hook.remove()
    wanda = {
        name: module.weight.abs() * (entered[name].square().sum((0, 1)) / 3).sqrt()
        for name, module in projections.items()
    }
    sites = score(Evidence(model, read_anatomy(model), lambda _count, _tick: tokens), {}).sites
    channels = wanda["down"].mean(0)
    found = sites[SiteKey(1, SiteKind.MLP)]
    torch.testing.assert_close(found.units, (channels / channels.mean()).float())
    heads = wanda["o"].reshape(36, 9, 8).mean((0, 2))
    groups = wanda["o"].reshape(36, 3, 24).mean((0, 2))
    found = sites[SiteKey(1, SiteKind.ATTENTION)]
    torch.testing.assert_close(found.heads, (heads / heads.mean()).float())
    torch.testing.assert_close(found.units, (groups / groups.mean()).float())
