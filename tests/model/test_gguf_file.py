"""What unpacking a GGUF costs in memory: the weights once, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from pruning_core.model import gguf_file
from tests.model import tiny_checkpoints as tiny


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_plain_model_takes_over_the_tensors_that_were_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    unpacked: dict[str, torch.Tensor] = {}
    build = LlamaForCausalLM.from_pretrained

    def listen(*args: Any, **options: Any) -> Any:
        unpacked.update(options.get("state_dict") or {})
        return build(*args, **options)

    path = tiny.save_gguf(tmp_path / "m.gguf", tiny.model())
    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", listen)
    model, _ = gguf_file.unpack(path, gguf_file.read_config(path), dtype, torch.device("cpu"))
    assert unpacked
    for name, weight in model.named_parameters():
        assert weight.dtype is dtype
        assert weight.data_ptr() == unpacked[name].data_ptr(), name
