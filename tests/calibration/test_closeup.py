from __future__ import annotations

import pytest
import torch

from pruning_core.calibration.closeup import weight_scores
from pruning_core.calibration.taylor import gather_taylor
from pruning_core.model.anatomy import read_anatomy
from tests import tiny


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gemma2"])
def test_its_tiles_are_those_of_the_map(model_type: str) -> None:
    model = tiny.tiny_model(model_type)
    windows = tiny.tokens(windows=3)
    taylor = gather_taylor(model, read_anatomy(model), windows)
    for name, tiles in list(taylor.tiles.items())[:7]:
        scores = weight_scores(model, name, windows)
        assert tuple(scores.shape) == tiles.shape
        rows, columns = tiles.fine.shape
        folded = scores.view(rows, scores.shape[0] // rows, columns, scores.shape[1] // columns)
        torch.testing.assert_close(folded.mean((1, 3)), tiles.fine, rtol=1e-4, atol=1e-9)
