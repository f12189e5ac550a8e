"""Where units leave while a fusion learns."""

from __future__ import annotations

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.importance.fused import masked_sites
from pruning_core.model.anatomy import Anatomy, read_anatomy
from pruning_core.recipe import SiteKind
from tests import tiny

LAYERS = 5


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return read_anatomy(tiny.tiny_model(num_hidden_layers=LAYERS))


@pytest.mark.parametrize(("ends", "layers"), [(0, {0, 1, 2, 3, 4}), (1, {1, 2, 3}), (2, {2})])
@pytest.mark.parametrize("kinds", ["both", *SiteKind])
def test_the_ends_and_the_other_kind_stay_dense(
    anatomy: Anatomy, kinds: str, ends: int, layers: set[int]
) -> None:
    here = {SiteKind.ATTENTION, SiteKind.MLP} if kinds == "both" else {SiteKind(kinds)}
    found = masked_sites(anatomy, kinds, ends)
    assert found == {(layer, kind) for layer in layers for kind in here}


def test_a_layer_must_be_left_between_the_ends(anatomy: Anatomy) -> None:
    with pytest.raises(PrunescopeError, match="'ends' is 3: a model of 5 layers allows 0 to 2"):
        masked_sites(anatomy, "both", 3)
