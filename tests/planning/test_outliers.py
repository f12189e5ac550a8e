from __future__ import annotations

import torch

from pruning_core.importance.registry import estimator
from pruning_core.model.anatomy import read_anatomy
from pruning_core.planning.allocation import owl, owl_kept
from pruning_core.planning.outliers import outlier_shares
from pruning_core.planning.thinning import thin, weight_places
from pruning_core.recipe import Pattern, Recipe, Scoring
from tests.golden import vectors

HALF = Pattern.parse("unstructured")


def test_golden_outliers_and_what_each_layer_keeps() -> None:
    model, golden = vectors.model("gqa"), vectors.case("owl")
    shares = outlier_shares(model, read_anatomy(model), vectors.tokens(), 5.0)
    torch.testing.assert_close(shares, golden["outlier_percent"].float(), rtol=0, atol=0.01)
    kept = owl_kept(shares, 0.5, 0.08)
    torch.testing.assert_close(kept, golden["layer_keep_ratio"].float(), rtol=0, atol=1e-4)


def test_golden_zeros_of_wanda_under_owl() -> None:
    model, golden = vectors.model("gqa"), vectors.case("owl")
    anatomy = read_anatomy(model)
    shares = outlier_shares(model, anatomy, vectors.tokens(), 5.0)
    places = weight_places(anatomy, estimator("wanda"), HALF)
    recipe = Recipe("golden", "abc", Scoring("wanda"), pattern=HALF).with_sparsity(
        owl(places, 0.5, shares, 0.08)
    )
    made = thin(recipe, "abc", model, anatomy, vectors.tokens)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for key, mask in made.sites.items():
        for tensor, thinned in mask.weights.items():
            column = names.index(tensor.split(".")[-2])
            assert int((thinned == 0).sum()) == int(golden["pruned_count"][key.layer, column])
