"""Reads the golden vectors beside this file: what the authors' own code makes of fixed inputs.

README.md in this folder says what each tensor is; index.json where it came from, whether it is
`reference` or `derived`, and how near a correct float32 implementation should come.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

HERE = Path(__file__).parent


@cache
def case(name: str) -> dict[str, torch.Tensor]:
    """Return every tensor of a case, such as ``wanda``; they are shared, so never written to."""
    return load_file(HERE / f"{name}.safetensors")


@cache
def index(name: str) -> dict[str, dict[str, Any]]:
    """Return what the index says of the tensors of a case, by tensor."""
    entries = json.loads((HERE / "index.json").read_text())["tensors"]
    return {e["tensor"]: e for e in entries if e["file"] == f"{name}.safetensors"}


def model(name: str) -> PreTrainedModel:
    """Return a fresh ``gqa`` or ``mha`` model: fp32, eager attention, frozen."""
    loaded = AutoModelForCausalLM.from_pretrained(
        HERE / f"model_{name}", dtype=torch.float32, attn_implementation="eager"
    )
    return loaded.eval().requires_grad_(False)


def tokens() -> torch.Tensor:
    """Return the six token sequences, int64 [6, 48]."""
    return case("tokens")["input_ids"]
