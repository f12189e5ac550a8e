"""What the witness of a proof takes for the same, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning_core.export import witness
from pruning_core.export.witness import InFloat32, compare
from tests import tiny

Found = dict[str, torch.Tensor]


@pytest.fixture
def answers() -> Found:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 4, 11, generator=draw)
    return {
        "logits": 10 * torch.randn(2, 5, 11, generator=draw),
        "scores": scores,
        "tokens": scores.argmax(-1),
    }


def changed(found: Found, **tensors: torch.Tensor) -> Found:
    return {**found, **tensors}


def test_the_same_passes(answers: Found) -> None:
    found = compare(answers, answers)
    assert found["passed"]
    assert found["tokens_equal"]
    assert found["max_logit_difference"] == 0
    assert found["tokens_compared"] == 8


def test_rounding_passes_and_more_than_that_does_not(answers: Found) -> None:
    largest = answers["logits"].abs().max()
    for share, passes in ((5e-4, True), (2e-3, False)):
        logits = answers["logits"].clone()
        logits[1, 2, 3] += share * largest
        assert compare(changed(answers, logits=logits), answers)["passed"] is passes


def test_a_number_that_is_none_fails(answers: Found) -> None:
    logits = answers["logits"].clone()
    logits[0, 0, 0] = torch.nan
    assert not compare(changed(answers, logits=logits), answers)["passed"]


def test_another_token_fails_unless_both_were_as_likely(answers: Found) -> None:
    second = answers["scores"].topk(2).indices[1, 2, 1]
    tokens = answers["tokens"].clone()
    tokens[1, 2] = second
    found = compare(changed(answers, tokens=tokens), answers)
    assert not found["tokens_equal"]
    assert not found["passed"]
    scores = answers["scores"].clone()
    scores[1, 2, second] = scores[1, 2].max()
    tie = changed(answers, scores=scores)
    found = compare(changed(tie, tokens=tokens), tie)
    assert not found["tokens_equal"]
    assert found["passed"]


def test_half_precision_computes_in_fp32_and_keeps_its_weights() -> None:
    model = tiny.tiny_model("llama").to(torch.bfloat16)
    wide = tiny.tiny_model("llama").to(torch.bfloat16).float()
    windows = tiny.tokens()
    with torch.no_grad(), InFloat32():
        found = model(windows).logits
    assert found.dtype == torch.float32
    assert torch.equal(found, wide(windows).logits)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_it_does_not_testify_where_our_code_can_help(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="would prove nothing"):
        witness.main(str(tmp_path), str(tmp_path / "x"), str(tmp_path / "y"))
