from __future__ import annotations

import torch
from transformers import PreTrainedModel

from pruning_core.importance.registry import estimator
from pruning_core.model.anatomy import read_anatomy
from pruning_core.planning.allocation import owl, owl_kept
from pruning_core.planning.outliers import outlier_shares
from pruning_core.planning.thinning import thin, weight_places
from pruning_core.recipe import Pattern, Recipe, Scoring
from tests.golden import vectors

HALF = Pattern.parse("unstructured")
COLUMNS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The matrices of a layer, in the order of the golden counts."""


def golden_shares(model: PreTrainedModel) -> torch.Tensor:
    return outlier_shares(model, read_anatomy(model), vectors.tokens(), 5.0)


def golden_zeros() -> torch.Tensor:
    """Return how many weights of each matrix leave, [layers, matrices]."""
    model = vectors.model("gqa")
    anatomy = read_anatomy(model)
    places = weight_places(anatomy, estimator("wanda"), HALF)
    recipe = Recipe("golden", "abc", Scoring("wanda"), pattern=HALF).with_sparsity(
        owl(places, 0.5, golden_shares(model), 0.08)
    )
    found = torch.zeros(anatomy.layers, len(COLUMNS), dtype=torch.int64)
    for key, mask in thin(recipe, "abc", model, anatomy, vectors.tokens).sites.items():
        for tensor, thinned in mask.weights.items():
            found[key.layer, COLUMNS.index(tensor.split(".")[-2])] = (thinned == 0).sum()
    return found


def test_golden_outliers_and_what_each_layer_keeps() -> None:
    golden, shares = vectors.case("owl"), golden_shares(vectors.model("gqa"))
    torch.testing.assert_close(shares, golden["outlier_percent"].float(), rtol=0, atol=0.01)
    kept = owl_kept(shares, 0.5, 0.08)
    torch.testing.assert_close(kept, golden["layer_keep_ratio"].float(), rtol=0, atol=1e-4)


def test_golden_zeros_of_wanda_under_owl() -> None:
    assert golden_zeros().tolist() == vectors.case("owl")["pruned_count"].tolist()
