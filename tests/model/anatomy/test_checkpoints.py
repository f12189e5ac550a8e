"""Saved checkpoints load as the models they were saved from; Baichuan's would bring code along."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning_core.model import load
from pruning_core.model.anatomy import read_anatomy
from tests import tiny
from tests.model import tiny_checkpoints


@pytest.mark.parametrize("name", ["bloom", "opt", "gpt2", "gpt_neox", "falcon", "falcon, alibi"])
def test_a_checkpoint_loads(name: str, tmp_path: Path) -> None:
    vocabulary = tiny_checkpoints.VOCABULARY
    model = tiny.tiny_model(name, vocab_size=vocabulary).to(torch.float32)
    model.save_pretrained(tmp_path)
    tiny_checkpoints.tokenizer().save_pretrained(tmp_path)
    loaded = load(str(tmp_path), dtype="float32", device="cpu")
    assert torch.equal(loaded.model(tiny.tokens()).logits, model(tiny.tokens()).logits)
    assert read_anatomy(loaded.model) == read_anatomy(model)
    assert loaded.preflight.parameters == model.num_parameters()
