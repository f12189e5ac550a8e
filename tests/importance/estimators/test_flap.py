"""FLAP against the authors' own code: metrics, z-scores, kept sets, biases and logits."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.importance.estimators.flap import column_scores
from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import SiteScores
from pruning_core.importance.registry import Scored, Settings, estimator
from pruning_core.importance.standard import standardised
from pruning_core.model.anatomy import Site, read_anatomy
from pruning_core.planning.global_ranking import global_ranking
from pruning_core.planning.selection import select
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny
from tests.golden import vectors

GOLDEN, INDEX = vectors.case("flap"), vectors.index("flap")
METRICS = ["IFV", "WIFV", "WIFN"]
SHORT = {SiteKind.ATTENTION: "attn", SiteKind.MLP: "mlp"}
RATIO = 0.3
HEAD_COST = 32 / 3
"""Of a head of width 8 whose key and value are its own, in channels; see README.md there."""

Kept = dict[SiteKey, torch.Tensor]


@cache
def evidence(name: str = "mha") -> Evidence:
    model = vectors.model(name)
    return Evidence(model, read_anatomy(model), lambda _count, _tick: vectors.tokens())


def settings(metric: str = "wifv", fluctuation: str = "code") -> Settings:
    return estimator("flap").settings({"metric": metric.lower(), "fluctuation": fluctuation})


def scored(asked: Evidence, chosen: Settings) -> Scored:
    score = estimator("flap").score
    assert score is not None
    return score(asked, chosen)


def sites(kind: SiteKind) -> tuple[Site, ...]:
    return evidence().anatomy.of_kind(kind)


def z_scores(metric: str) -> dict[SiteKey, torch.Tensor]:
    """Return the standardised score of every unit, which on this model is a head or a channel."""
    raw = {s: column_scores(evidence(), s, settings(metric)) for s in evidence().anatomy.sites}
    return {site.key: standardised(site, columns).units for site, columns in raw.items()}


def adaptive(metric: str, *, whole_costs: bool) -> Kept:
    cost = {SiteKind.ATTENTION: HEAD_COST, SiteKind.MLP: 1.0}
    scores = z_scores(metric)
    costs = {key: cost[key.kind] for key in scores}
    return global_ranking(scores, costs, RATIO, whole_costs=whole_costs)


def uniform() -> Kept:
    """Return what stays if every site loses the same share of its units, rounded down."""
    kept = {}
    for key, scores in scored(evidence(), settings()).sites.items():
        site = evidence().anatomy.by_key[key]
        left = site.units - int(site.units * RATIO)
        chosen = select(site, scores, site.width(left, site.heads_per_unit))
        stay = torch.zeros(site.units, dtype=torch.bool)
        stay[next(iter(chosen.values()))] = True
        kept[key] = stay
    return kept


def removed_columns(site: Site, kept: Kept, columns: int) -> torch.Tensor:
    """Return the mask of the columns that leave the output projection with the units."""
    return (~kept[site.key]).repeat_interleave(columns // site.units)


def biases(kept: Kept) -> dict[SiteKey, torch.Tensor]:
    """Return what the removed columns add to the output on average."""
    seen = evidence().activations.sites
    found = {}
    for site in evidence().anatomy.sites:
        weight, mean = evidence().weight(site.reads_units), seen[site.key].mean
        gone = removed_columns(site, kept, len(mean))
        found[site.key] = weight[:, gone] @ mean[gone]
    return found


def stacked(by_site: dict[SiteKey, torch.Tensor], kind: SiteKind) -> torch.Tensor:
    return torch.stack([by_site[site.key] for site in sites(kind)])


def check(found: torch.Tensor, name: str) -> None:
    """Hold a tensor against a golden one at the tolerance that its index entry states."""
    tolerance = INDEX[name]["tolerance"]
    if tolerance == "exact":
        assert torch.equal(found.to(torch.uint8), GOLDEN[name])
        return
    kind, _, value = tolerance.partition(" ")
    allowed = {"rtol": 0.0, "atol": 0.0, kind: float(value)}
    torch.testing.assert_close(found, GOLDEN[name], **allowed)


def check_kept(kept: Kept, prefix: str) -> None:
    for kind, short in SHORT.items():
        check(stacked(kept, kind), f"{prefix}.{short}_keep")


def check_biases(kept: Kept, prefix: str) -> None:
    found = biases(kept)
    check(stacked(found, SiteKind.ATTENTION), f"{prefix}.o_proj_bias")
    check(stacked(found, SiteKind.MLP), f"{prefix}.down_proj_bias")


@pytest.mark.parametrize("kind", list(SiteKind))
@pytest.mark.parametrize("metric", METRICS)
def test_the_metrics_are_those_of_the_authors_code(metric: str, kind: SiteKind) -> None:
    chosen = settings(metric)
    found = torch.stack([column_scores(evidence(), site, chosen) for site in sites(kind)])
    check(found, f"{metric}.{SHORT[kind]}_metric")


@pytest.mark.parametrize("metric", METRICS)
def test_the_z_scores_of_heads_are_those_of_the_authors_code(metric: str) -> None:
    check(stacked(z_scores(metric), SiteKind.ATTENTION), f"{metric}.attn_z")


@pytest.mark.parametrize("metric", METRICS)
def test_what_one_ranking_keeps_and_its_biases_are_those_of_the_authors_code(metric: str) -> None:
    kept = adaptive(metric, whole_costs=True)
    check_kept(kept, f"{metric}.AL-AM")
    check_biases(kept, f"{metric}.AL-AM")


def test_what_one_ranking_keeps_at_exact_costs() -> None:
    check_kept(adaptive("WIFV", whole_costs=False), "WIFV.AL-AM.float_cost")


def test_what_a_uniform_share_keeps_and_its_biases_are_those_of_the_authors_code() -> None:
    check_kept(uniform(), "WIFV.UL-UM")
    check_biases(uniform(), "WIFV.UL-UM")


def logits_without_the_units() -> torch.Tensor:
    """Return what the model says of the first sequence without the units, with the biases."""
    model, kept = vectors.model("mha"), adaptive("WIFV", whole_costs=True)
    for site in read_anatomy(model).sites:
        projection = model.get_submodule(site.output)
        projection.weight[:, removed_columns(site, kept, projection.in_features)] = 0
        bias = biases(kept)[site.key]
        projection.bias = torch.nn.Parameter(bias, requires_grad=False)
    return model(vectors.tokens()[:1]).logits


def test_a_model_without_the_units_and_with_the_biases_says_what_the_authors_says() -> None:
    check(logits_without_the_units(), "WIFV.AL-AM.logits_first_sequence")


def test_no_golden_tensor_is_left_out() -> None:
    names = {f"{short}_mean_input" for short in SHORT.values()}
    names |= {f"WIFN.{short}_scaler" for short in SHORT.values()}
    names |= {f"WIFV.{short}_fluctuation" for short in SHORT.values()}
    names |= {f"{m}.{short}_metric" for m in METRICS for short in SHORT.values()}
    names |= {f"{metric}.attn_z" for metric in METRICS}
    cases = [*(f"{metric}.AL-AM" for metric in METRICS), "WIFV.UL-UM"]
    names |= {f"{c}.{name}_bias" for c in cases for name in ("o_proj", "down_proj")}
    cases += ["WIFV.AL-AM.float_cost"]
    names |= {f"{c}.{short}_keep" for c in cases for short in SHORT.values()}
    assert {*names, "WIFV.AL-AM.logits_first_sequence"} == set(GOLDEN)


def of_tiny(windows: int, model: PreTrainedModel | None = None) -> Evidence:
    model = model or tiny.tiny_model()
    return Evidence(model, read_anatomy(model), lambda _count, _tick: tiny.tokens(windows=windows))


@pytest.mark.parametrize("metric", METRICS)
def test_the_two_ways_to_add_up_nearly_agree(metric: str) -> None:
    for site in evidence().anatomy.sites:
        paper, code = (
            column_scores(evidence(), site, settings(metric, way)) for way in ("paper", "code")
        )
        # Of six windows one more or less counts.
        assert torch.corrcoef(torch.stack((paper, code)))[0, 1] > 0.97
        # The norm knows no mean to fluctuate about.
        assert torch.equal(paper, code) == (metric == "WIFN")


def test_a_group_is_the_mean_of_its_consecutive_heads_and_a_head_of_its_columns() -> None:
    asked = of_tiny(3)
    found = scored(asked, settings(fluctuation="paper"))
    site = asked.anatomy.by_key[SiteKey(1, SiteKind.ATTENTION)]
    scores: SiteScores = found.sites[site.key]
    heads = column_scores(asked, site, settings(fluctuation="paper")).view(9, 8).mean(1)
    assert scores.heads is not None
    torch.testing.assert_close(scores.heads, heads / heads.mean())
    groups = torch.stack([heads[:3].mean(), heads[3:6].mean(), heads[6:].mean()])
    torch.testing.assert_close(scores.units, groups / groups.mean())


def test_one_window_is_enough_for_the_paper_and_too_few_for_the_code() -> None:
    assert scored(of_tiny(1), settings(fluctuation="paper")).sites
    assert scored(of_tiny(1), settings("wifn", "code")).sites
    with pytest.raises(PrunescopeError, match=r"take at least 2 windows, or fluctuation='paper'"):
        scored(of_tiny(1), settings())
