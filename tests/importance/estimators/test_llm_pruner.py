"""LLM-Pruner against what its authors' code makes of the same models and text."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from pruning_core.calibration.batch_taylor import Salience, SliceScores
from pruning_core.errors import PrunescopeError
from pruning_core.importance.estimators.llm_pruner import raw_scores, site_members, to_units
from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import ImportanceMap
from pruning_core.importance.registry import estimator
from pruning_core.importance.scoring import score
from pruning_core.model import memory
from pruning_core.model.anatomy import Anatomy, Coupling, Part, Segment, Site, read_anatomy
from pruning_core.planning.plan import UnitPlan, make_plan
from pruning_core.recipe import Recipe, Scoring, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests.golden import vectors

CASES = {"llm_pruner": "mha", "llm_pruner_gqa": "gqa"}
KINDS = {
    "vectorize": Salience.VECTOR,
    "param_first": Salience.FIRST,
    "param_second": Salience.SECOND,
    "param_mix": Salience.MIX,
}
TOLERANCES: dict[str, tuple[float, float]] = {
    "rtol 1e-3, atol 1e-5*max": (1e-3, 1e-5),
    "rtol 1e-4": (1e-4, 0.0),
}
"""What the index says, as a relative one and one in parts of the largest value."""


def tensors(*endings: str) -> list[object]:
    """Return every golden tensor with one of these endings, those that are derived said to be."""
    return [
        pytest.param(case, name, id=f"{case}.{name}" + _derived(entry["status"]))
        for case in CASES
        for name, entry in vectors.index(case).items()
        if name.rpartition(".")[2] in endings
    ]


def _derived(status: str) -> str:
    return "" if status == "reference" else f" ({status})"


@cache
def evidence(case: str) -> Evidence:
    model = vectors.model(CASES[case])
    return Evidence(model, read_anatomy(model), lambda _count, _tick: vectors.tokens())


@cache
def slices(case: str) -> dict[Salience, SliceScores]:
    """Return all four kinds from one pass over the golden text."""
    return dict(evidence(case).batch_taylor(Salience))


def parsed(name: str) -> tuple[Salience, int, str]:
    """Return the kind, the layer and what a tensor named ``param_first.layer0.…`` is."""
    taylor, layer, what = name.split(".")
    return KINDS[taylor], int(layer.removeprefix("layer")), what


def site_of(case: str, layer: int, kind: SiteKind) -> Site:
    return evidence(case).anatomy.by_key[SiteKey(layer, kind)]


def golden_map(case: str, kind: Salience, **given: object) -> ImportanceMap:
    method = estimator("llm-pruner")
    params = method.canonical({"taylor": kind.value, **given})
    return score(Scoring("llm-pruner", params), evidence(case), "abc")


def plan(anatomy: Anatomy, scores: ImportanceMap) -> UnitPlan:
    """Return the plan of the authors' run: a quarter of the units of every site."""
    recipe = Recipe("golden", "abc").with_sparsity({site.key: 0.25 for site in anatomy.sites})
    return make_plan(recipe, scores, anatomy)


def compare(case: str, name: str, found: torch.Tensor) -> None:
    """Compare with a golden tensor at the tolerance that the index states."""
    expected = vectors.case(case)[name]
    rtol, share = TOLERANCES[vectors.index(case)[name]["tolerance"]]
    atol = share * float(expected.max())
    torch.testing.assert_close(found.float(), expected, rtol=rtol, atol=atol)


def units_of(case: str, name: str) -> tuple[Site, str, torch.Tensor]:
    """Return the site, the fold and the scores of a golden tensor of scores."""
    kind, layer, what = parsed(name)
    fold = "consecutive" if what.endswith("consecutive_fold") else "authors"
    site = site_of(case, layer, SiteKind.MLP if what == "mlp_score" else SiteKind.ATTENTION)
    return site, fold, raw_scores(site, slices(case)[kind], "sum", fold)[0]


def members_of(case: str, name: str) -> torch.Tensor:
    """Return the scores of a group's members in the order of the golden tensor, one a row."""
    kind, layer, _ = parsed(name)
    site = site_of(case, layer, SiteKind.ATTENTION)
    members = {m.tensor: m for m in site_members(site, slices(case)[kind])}
    order = [entry.partition(":")[0] for entry in vectors.index(case)[name]["group_members"]]
    return torch.stack(
        [to_units(site, members[f"{module}.weight"], "authors").flatten() for module in order]
    )


def gone_of(case: str, name: str) -> list[int]:
    """Return the units that leave a site, ascending."""
    kind, layer, what = parsed(name)
    site = site_of(case, layer, SiteKind.MLP if what == "mlp_pruned" else SiteKind.ATTENTION)
    chosen = plan(evidence(case).anatomy, golden_map(case, kind, fold="authors")).sites[site.key]
    part = Part.CHANNEL if what == "mlp_pruned" else Part.KV_HEAD
    return sorted(set(range(site.units)) - set(chosen.kept[part].tolist()))


def logits_after(case: str, name: str) -> tuple[int, torch.Tensor]:
    """Return the parameters and the last logits of the model after its units have left."""
    bench = Workbench(vectors.model(CASES[case]))
    kind = KINDS[name.partition(".")[0]]
    chosen = plan(bench.anatomy, golden_map(case, kind, fold="authors"))
    bench.apply(chosen)
    return chosen.parameters, bench.model(vectors.tokens()).logits[:, -1]


@pytest.mark.parametrize(
    ("case", "name"), tensors("attn_score", "attn_score_consecutive_fold", "mlp_score")
)
def test_golden_scores(case: str, name: str) -> None:
    site, fold, units = units_of(case, name)
    compare(case, name, units)
    # What ranks is the same but for its scale.
    ranking = golden_map(case, parsed(name)[0], fold=fold).sites[site.key].units
    torch.testing.assert_close(ranking, (units / units.mean()).float())


@pytest.mark.parametrize(("case", "name"), tensors("attn_member_channel_scores"))
def test_golden_scores_of_members(case: str, name: str) -> None:
    compare(case, name, members_of(case, name))


@pytest.mark.parametrize(("case", "name"), tensors("attn_pruned", "mlp_pruned"))
def test_golden_choice(case: str, name: str) -> None:
    assert vectors.index(case)[name]["tolerance"] == "exact"
    assert gone_of(case, name) == vectors.case(case)[name].tolist()


@pytest.mark.parametrize(("case", "name"), tensors("pruned_logits_last_token"))
def test_golden_logits_after_removal(case: str, name: str) -> None:
    entry = vectors.index(case)[name]
    assert entry["tolerance"] == "atol 1e-3"
    parameters, logits = logits_after(case, name)
    assert parameters == entry["parameters_after"]
    torch.testing.assert_close(logits, vectors.case(case)[name], rtol=0, atol=1e-3)


def test_every_golden_tensor_is_looked_at() -> None:
    seen = ("attn_score", "attn_score_consecutive_fold", "mlp_score", "attn_member_channel_scores")
    seen += ("attn_pruned", "mlp_pruned", "pruned_logits_last_token")
    for case in CASES:
        assert set(vectors.case(case)) == set(vectors.index(case))
        assert {name.rpartition(".")[2] for name in vectors.index(case)} <= set(seen)


def test_the_authors_fold_chooses_another_group_in_five_of_six_sites() -> None:
    anatomy = evidence("llm_pruner_gqa").anatomy
    differing = 0
    for kind in (Salience.VECTOR, Salience.FIRST):
        ours, theirs = (
            plan(anatomy, golden_map("llm_pruner_gqa", kind, fold=fold)).sites
            for fold in ("consecutive", "authors")
        )
        for site in anatomy.of_kind(SiteKind.ATTENTION):
            kept = [one[site.key].kept[Part.KV_HEAD].tolist() for one in (ours, theirs)]
            differing += kept[0] != kept[1]
    assert differing == 5


# Worked by hand: four query heads of width 2 over two groups.

QUERY, SHARED = Segment(Part.QUERY_HEAD, 4, 2), Segment(Part.KV_HEAD, 2, 2)
APART = Site(
    SiteKey(0, SiteKind.ATTENTION),
    "attn",
    "attn.o",
    (
        Coupling("q", 0, 9, (QUERY,)),
        Coupling("k", 0, 9, (SHARED,)),
        Coupling("v", 0, 9, (SHARED,)),
        Coupling("o", 1, 9, (QUERY,)),
    ),
)
Q = [1.0, 2, 3, 4, 5, 6, 7, 8]
K, V = [10.0, 20, 30, 40], [100.0, 200, 300, 400]
O = [2.0, 2, 2, 2, 0, 0, 1, 1]  # noqa: E741 - as the projection is called
SLICES = {name: torch.tensor(values) for name, values in zip("qkvo", (Q, K, V, O), strict=True)}
# Per unit and channel: q 4 6, 12 14; k 10 20, 30 40; v 100 200, 300 400; o 4 4, 1 1.
REDUCED = {
    "sum": [118 + 230, 343 + 455],
    "mean": [348 / 4, 798 / 4],
    "max": [300, 700],
    "prod": [4 * 10 * 100 * 4 + 6 * 20 * 200 * 4, 12 * 30 * 300 + 14 * 40 * 400],
}
HEADS = {
    "sum": [7, 11, 11, 17],
    "mean": [3.5, 5.5, 5.5, 8.5],
    "max": [4, 7, 11, 15],
    "prod": [6, 14, 0, 15],
}


@pytest.mark.parametrize("reduction", REDUCED)
def test_reductions_go_over_the_members_channel_by_channel(reduction: str) -> None:
    units, heads = raw_scores(APART, SLICES, reduction, "consecutive")
    assert units.tolist() == REDUCED[reduction]
    assert heads is not None
    assert heads.tolist() == HEADS[reduction]


def test_the_authors_fold_takes_every_other_head_and_leaves_heads_alone() -> None:
    units, heads = raw_scores(APART, SLICES, "sum", "authors")
    shared = [330, 770]
    assert units.tolist() == [shared[0] + 1 + 2 + 5 + 6 + 4, shared[1] + 3 + 4 + 7 + 8 + 6]
    assert heads is not None
    assert heads.tolist() == HEADS["sum"]


@pytest.mark.parametrize("reduction", REDUCED)
@pytest.mark.parametrize("grouped", [False, True])
def test_fused_projections_score_as_split_ones(reduction: str, grouped: bool) -> None:
    q, k, v = (SLICES[name] for name in "qkv")
    if grouped:
        rows = torch.cat((q.view(2, 4), k.view(2, 2), v.view(2, 2)), dim=1).flatten()
        segments: tuple[Segment, ...] = (Segment(Part.KV_HEAD, 2, 8),)
    else:
        rows, segments = torch.cat((q, k, v)), (QUERY, SHARED, SHARED)
    couplings = (Coupling("qkv", 0, 9, segments), Coupling("o", 1, 9, (QUERY,)))
    site = Site(SiteKey(0, SiteKind.ATTENTION), "attn", "attn.o", couplings)
    for fold in ("consecutive", "authors"):
        fused = raw_scores(site, {"qkv": rows, "o": SLICES["o"]}, reduction, fold)
        split = raw_scores(APART, SLICES, reduction, fold)
        for ours, theirs in zip(fused, split, strict=True):
            assert ours is not None
            assert theirs is not None
            assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("reduction", REDUCED)
def test_channels_have_three_members(reduction: str) -> None:
    rows = (Segment(Part.CHANNEL, 2, 1),)
    couplings = tuple(Coupling(name, int(name == "d"), 9, rows) for name in "gud")
    site = Site(SiteKey(0, SiteKind.MLP), "mlp", "mlp.d", couplings)
    values = {"g": torch.tensor([1.0, 2]), "u": torch.tensor([3.0, 4]), "d": torch.tensor([5.0, 6])}
    units, heads = raw_scores(site, values, reduction, "consecutive")
    assert heads is None
    expected = {"sum": [9, 12], "mean": [3, 4], "max": [5, 6], "prod": [15, 48]}[reduction]
    assert units.tolist() == expected


def test_a_product_of_small_numbers_still_ranks() -> None:
    small = {name: values * 1e-12 for name, values in SLICES.items()}
    units, _ = raw_scores(APART, small, "prod", "consecutive")
    assert units[1] > units[0] > 0


def test_kinds_of_one_evidence_are_made_once() -> None:
    model = vectors.model("mha")
    passes: list[int] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    shared = Evidence(model, read_anatomy(model), lambda _count, _tick: vectors.tokens()[:2])
    method = estimator("llm-pruner")
    for reduction in ("sum", "max"):
        score(Scoring("llm-pruner", method.canonical({"reduction": reduction})), shared, "abc")
    assert len(passes) == 2
    score(Scoring("llm-pruner", method.canonical({"taylor": "mix"})), shared, "abc")
    assert len(passes) == 4


def test_what_does_not_fit_is_refused_before_the_model_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = vectors.model("mha")
    model.register_forward_pre_hook(lambda *_: pytest.fail("it was tried"))
    asked = Evidence(model, read_anatomy(model), lambda _count, _tick: vectors.tokens())
    # Enough for one pass, not for what is kept of every weight.
    check = memory.of_skeleton(model, model.device, model.dtype, 48)
    one_pass = check.scoring_peak_bytes - 4 * check.parameters
    monkeypatch.setattr(memory, "available", lambda device: one_pass + 1)
    with pytest.raises(PrunescopeError, match="keeps 4 bytes for every prunable weight"):
        score(Scoring("llm-pruner"), asked, "abc")
