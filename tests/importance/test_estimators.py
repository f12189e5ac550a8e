"""One battery for every estimator there is, and what each promises beyond it."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import ImportanceMap, SiteScores
from pruning_core.importance.registry import (
    Estimator,
    Grain,
    Needs,
    Parameter,
    Scored,
    estimator,
    estimators,
    register,
)
from pruning_core.importance.scoring import score
from pruning_core.model.anatomy import Part, Site, read_anatomy
from pruning_core.progress import LEARNING_FUSION, Cancelled, Enough, Tick
from pruning_core.recipe import PatternKind, Scoring, SiteKey, SiteKind
from tests import tiny

NAMES = [method.name for method in estimators(PatternKind.STRUCTURED)]
MODELS = ["llama", "phi3"]
QUICK = {"steps": 3, "batch": 1, "windows": 4}
"""What keeps those that learn quick; estimators that have no such parameter ignore it."""


def evidence(model: PreTrainedModel, seed: int = 0, **options: object) -> Evidence:
    return Evidence(
        model,
        read_anatomy(model),
        lambda count, _tick: tiny.tokens(windows=count or 3, seed=seed),
        seed=seed,
        **options,  # type: ignore[arg-type]
    )


def scoring(name: str, **params: object) -> Scoring:
    known = {parameter.name for parameter in estimator(name).parameters}
    quick = {key: value for key, value in QUICK.items() if key in known}
    return Scoring(name, estimator(name).canonical({**quick, **params}))


def run(name: str, model: PreTrainedModel, seed: int = 0, **params: object) -> ImportanceMap:
    return score(scoring(name, **params), evidence(model, seed), "abc")


def tensors(scores: SiteScores) -> list[torch.Tensor]:
    return [scores.units] if scores.heads is None else [scores.units, scores.heads]


def sensible(scores: SiteScores, site: Site) -> None:
    """Check the shapes of a site's scores, and that they can rank."""
    assert scores.units.shape == (site.units,)
    if site.key.kind is SiteKind.ATTENTION:
        assert scores.heads is not None
        assert scores.heads.shape == (site.counts[Part.QUERY_HEAD],)
    else:
        assert scores.heads is None
    for values in tensors(scores):
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert (values >= 0).all()
        assert not values.requires_grad


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("name", NAMES)
class TestEvery:
    """What holds for every estimator that is ever registered."""

    def test_scores_every_site_and_leaves_the_model_alone(self, name: str, model_type: str) -> None:
        model = tiny.tiny_model(model_type)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        state = torch.get_rng_state()
        scores = run(name, model)
        anatomy = read_anatomy(model)
        assert set(scores.sites) == set(anatomy.by_key)
        for key, site in scores.sites.items():
            sensible(site, anatomy.by_key[key])
            if estimator(name).grain is not Grain.LAYER:
                assert len(set(site.units.tolist())) > 1, "it ranks something"
        assert (scores.fingerprint, scores.scoring.estimator) == ("abc", name)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in model.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_seed_repeats(self, name: str, model_type: str) -> None:
        one, two = (run(name, tiny.tiny_model(model_type), seed=5) for _ in range(2))
        for key, site in one.sites.items():
            pairs = zip(tensors(site), tensors(two.sites[key]), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)

    def test_tiles_lie_on_the_matrices(self, name: str, model_type: str) -> None:
        model = tiny.tiny_model(model_type)
        matrices = {c.tensor for site in read_anatomy(model).sites for c in site.matrices}
        tiles = run(name, model).tiles
        assert set(tiles) in (set(), matrices)
        for tensor, grid in tiles.items():
            assert grid.shape == tuple(model.get_parameter(tensor).shape)
            assert grid.mean.shape == grid.peak.shape
            for size, count in zip(grid.shape, grid.mean.shape, strict=True):
                assert size % count == 0
            assert grid.mean.isfinite().all()
            assert (grid.mean >= 0).all()
            # A mean of equal numbers may round above them.
            assert (grid.mean <= grid.peak * (1 + 1e-6)).all()

    def test_fusion_is_recorded_where_there_is_one(self, name: str, model_type: str) -> None:
        scores = run(name, tiny.tiny_model(model_type))
        assert (scores.fusion is not None) == (estimator(name).grain is Grain.HYBRID)
        if scores.fusion is None:
            return
        trains = estimator(name).needs is Needs.TRAINING
        assert len(scores.fusion.curve) == (QUICK["steps"] if trains else 0)
        assert all(math.isfinite(loss) and loss > 0 for loss in scores.fusion.curve)
        assert set(scores.fusion.sites) == set(scores.sites)
        for key, site in scores.fusion.sites.items():
            units = site.attention.units
            mixed = units * site.fine.units + (1 - units) * site.coarse.units
            assert torch.equal(scores.sites[key].units, mixed)

    def test_a_dead_layer_ranks_nothing_but_stays_finite(self, name: str, model_type: str) -> None:
        model = tiny.tiny_model(model_type)
        for parameter in model.model.layers[1].parameters():
            parameter.zero_()
        scores = run(name, model)
        anatomy = read_anatomy(model)
        for kind in SiteKind:
            key = SiteKey(1, kind)
            sensible(scores.sites[key], anatomy.by_key[key])

    def test_what_it_needs_is_what_it_asks_for(self, name: str, model_type: str) -> None:
        model = tiny.tiny_model(model_type)
        passes: list[bool] = []
        model.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
        drawn: list[int | None] = []

        def draw(count: int | None, _tick: Tick) -> torch.Tensor:
            drawn.append(count)
            return tiny.tokens(windows=count or 3)

        score(scoring(name), Evidence(model, read_anatomy(model), draw), "abc")
        looks_at_text = estimator(name).needs.text
        assert bool(passes) == bool(drawn) == looks_at_text
        if estimator(name).needs is Needs.GRADIENTS:
            assert drawn == [None]
            assert passes == [True] * 3, "one pass a window"


@pytest.mark.parametrize(
    "name", [m.name for m in estimators(PatternKind.STRUCTURED) if m.needs.text]
)
def test_long_work_can_be_cancelled(name: str) -> None:
    model = tiny.tiny_model()
    tokens = tiny.tokens()
    logits = model(tokens).logits
    stages: list[str] = []

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        stages.append(stage)

    score(scoring(name), evidence(model, tick=listen), "abc")
    for stage in set(stages):

        def stop(now: str, done: int, total: int, note: str = "", stage: str = stage) -> None:
            if now == stage and done == 1:
                raise Cancelled

        with pytest.raises(Cancelled):
            score(scoring(name), evidence(model, tick=stop), "abc")
        assert torch.equal(model(tokens).logits, logits)
        assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_fine_and_coarse_share_one_pass() -> None:
    model = tiny.tiny_model()
    shared = evidence(model)
    passes: list[int] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    for name in ("fine", "coarse"):
        score(scoring(name), shared, "abc")
    assert len(passes) == 3


def test_hybrid_chooses_between_the_scores_of_fine_and_coarse() -> None:
    model = tiny.tiny_model()
    shared = evidence(model)
    fused, fine, coarse = (score(scoring(n), shared, "abc") for n in ("hybrid", "fine", "coarse"))
    assert fused.fusion is not None
    for key, site in fused.fusion.sites.items():
        assert torch.equal(site.fine.units, fine.sites[key].units)
        assert torch.equal(site.coarse.units, coarse.sites[key].units)


@pytest.mark.parametrize("name", ["hybrid", "saap"])
def test_a_fusion_that_was_stopped_goes_by_the_scoring_that_makes_it_again(name: str) -> None:
    def enough(stage: str, done: int, _total: int, note: str = "") -> None:
        if stage == LEARNING_FUSION and done == 2:
            raise Enough

    asked = scoring(name, steps=5)
    kept = score(asked, evidence(tiny.tiny_model(), tick=enough), "abc")
    assert kept.fusion is not None
    assert len(kept.fusion.curve) == 2
    assert kept.scoring != asked
    assert kept.scoring == scoring(name, steps=5, stop=2)
    again = score(kept.scoring, evidence(tiny.tiny_model()), "abc")
    assert again.scoring == kept.scoring
    for key, site in kept.sites.items():
        pairs = zip(tensors(site), tensors(again.sites[key]), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_magnitude_is_the_norm_of_all_weights_of_a_unit(norm: str) -> None:
    model = tiny.tiny_model()
    scores = run("magnitude", model, norm=norm)
    attention, mlp = model.model.layers[1].self_attn, model.model.layers[1].mlp
    order = {"l1": 1, "l2": 2}[norm]

    def norms(*rows: torch.Tensor) -> torch.Tensor:
        values = torch.cat([r.flatten(1) for r in rows], dim=1).norm(order, dim=1)
        return (values / values.mean()).float()

    channels = norms(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T)
    torch.testing.assert_close(scores.sites[SiteKey(1, SiteKind.MLP)].units, channels)
    q, o = attention.q_proj.weight, attention.o_proj.weight.T
    k, v = attention.k_proj.weight, attention.v_proj.weight
    heads = norms(*(matrix.reshape(9, 8, -1) for matrix in (q, o)))
    site = scores.sites[SiteKey(1, SiteKind.ATTENTION)]
    torch.testing.assert_close(site.heads, heads)
    parts = [q.reshape(3, 24, -1), o.reshape(3, 24, -1), k.reshape(3, 8, -1), v.reshape(3, 8, -1)]
    torch.testing.assert_close(site.units, norms(*parts))


def test_magnitude_of_fused_projections_is_that_of_split_ones() -> None:
    fused = tiny.tiny_model("phi3")
    split = tiny.tiny_model("llama", attention_bias=False, mlp_bias=False)
    for source, target in zip(fused.model.layers, split.model.layers, strict=True):
        rows = source.self_attn.qkv_proj.weight.split([72, 24, 24])
        for name, part in zip("qkv", rows, strict=True):
            getattr(target.self_attn, f"{name}_proj").weight.copy_(part)
        target.self_attn.o_proj.weight.copy_(source.self_attn.o_proj.weight)
        gate, up = source.mlp.gate_up_proj.weight.split(40)
        target.mlp.gate_proj.weight.copy_(gate)
        target.mlp.up_proj.weight.copy_(up)
        target.mlp.down_proj.weight.copy_(source.mlp.down_proj.weight)
    one, two = run("magnitude", fused), run("magnitude", split)
    for key, site in one.sites.items():
        for a, b in zip(tensors(site), tensors(two.sites[key]), strict=True):
            torch.testing.assert_close(a, b)


def test_random_answers_to_the_seed_alone() -> None:
    one, same, other = (
        run("random", tiny.tiny_model(seed=weights), seed=seed)
        for weights, seed in ((0, 1), (9, 1), (0, 2))
    )
    for key, site in one.sites.items():
        assert torch.equal(site.units, same.sites[key].units)
        assert not torch.equal(site.units, other.sites[key].units)
        assert (site.units < 1).all()


# The registry: what it takes from people, and what it says when it does not.

SAMPLE = Estimator(
    name="sample",
    title="A sample",
    grain=Grain.BASELINE,
    needs=Needs.NOTHING,
    summary="",
    formula="",
    source="",
    score=lambda _evidence, _settings: Scored({}),
    parameters=(
        Parameter("share", 0.5, "", 0.0, 1.0),
        Parameter("steps", 10, "", 1, 100),
        Parameter("damp", False, ""),
        Parameter("norm", "l2", "", choices=("l1", "l2")),
    ),
)


def test_an_unknown_estimator_is_refused_with_the_nearest() -> None:
    with pytest.raises(PrunescopeError, match=r"'hybird'. Did you mean 'hybrid'\?"):
        estimator("hybird")


def test_an_unknown_parameter_is_refused_with_the_nearest() -> None:
    with pytest.raises(PrunescopeError, match=r"'step'. Did you mean 'steps'\?"):
        SAMPLE.settings({"step": 3})
    with pytest.raises(PrunescopeError, match="Random has no parameters, so no 'steps'"):
        estimator("random").settings({"steps": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("share", -0.01),
        ("share", 1.01),
        ("share", math.nan),
        ("share", math.inf),
        pytest.param("share", 10**400, id="share-huge"),
        ("share", "0.5"),
        ("share", True),
        ("share", None),
        ("share", [0.5]),
        ("steps", 0),
        ("steps", 101),
        ("steps", 10.0),
        ("steps", math.nan),
        ("steps", True),
        ("damp", 1),
        ("damp", "yes"),
        ("norm", "l3"),
        ("norm", 2),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(PrunescopeError, match=f"'{name}'"):
        SAMPLE.settings({name: value})


def test_a_wrong_choice_is_told_the_right_ones() -> None:
    with pytest.raises(PrunescopeError, match="Known: l1, l2"):
        SAMPLE.settings({"norm": "l3"})


def test_settings_are_complete_and_of_the_declared_types() -> None:
    found = SAMPLE.settings({"share": 1, "steps": 100})
    assert found == {"share": 1.0, "steps": 100, "damp": False, "norm": "l2"}
    assert {name: type(value) for name, value in found.items()} == {
        "share": float,
        "steps": int,
        "damp": bool,
        "norm": str,
    }


def test_canonical_drops_defaults_and_the_order() -> None:
    assert SAMPLE.canonical({"steps": 10, "share": 0.5, "norm": "l2"}) == ()
    one = SAMPLE.canonical({"steps": 3, "damp": True})
    assert one == SAMPLE.canonical({"damp": True, "steps": 3, "share": 0.5})
    assert one == (("damp", True), ("steps", 3))
    # Equal scorings have equal digests, however a whole number was written.
    digests = {Scoring("sample", SAMPLE.canonical({"share": v})).digest for v in (1, 1.0)}
    assert len(digests) == 1


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_allowed_values_and_everything_is_said(name: str) -> None:
    method = estimator(name)
    assert method.canonical({}) == ()
    assert all((method.title, method.summary, method.formula, method.source))
    for parameter in method.parameters:
        assert parameter.help
        if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool):
            assert parameter.low is not None
            assert parameter.high is not None


def test_two_of_one_name_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="'magnitude' is registered twice"):
        register(estimator("magnitude"))


def test_the_list_begins_with_hybrids_and_ends_with_baselines() -> None:
    grains = [method.grain for method in estimators()]
    order = [Grain.HYBRID, Grain.FINE, Grain.COARSE, Grain.LAYER, Grain.BASELINE]
    assert grains == sorted(grains, key=order.index)
    assert {"hybrid", "fine", "coarse", "magnitude", "random"} <= set(NAMES)


def test_bad_parameters_of_a_recipe_are_refused_before_any_work() -> None:
    def never(_count: int | None, _tick: Tick) -> torch.Tensor:
        raise AssertionError("windows were drawn")

    model = tiny.tiny_model()
    asked = Evidence(model, read_anatomy(model), never)
    with pytest.raises(PrunescopeError, match="'steps'"):
        score(Scoring("hybrid", (("steps", -1),)), asked, "abc")
    with pytest.raises(PrunescopeError, match="'sparsety'"):
        score(Scoring("hybrid", (("sparsety", 0.5),)), asked, "abc")
