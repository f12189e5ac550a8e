"""Turning a GGUF file into a plain dense model.

transformers reads GGUF, but the model it returns remembers that it was quantized and can be neither
saved nor changed freely. Here it is rebuilt from the same tensors and a config that does not
mention the file. Assumes an architecture that transformers can read from GGUF. Does not judge the
file: `pruning_core.model.headers` finds out whether it is whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)


def read_config(path: Path) -> PreTrainedConfig:
    """Return the config that the GGUF's metadata describe.

    Slow, some seconds, because the vocabulary is read along. Raises whatever transformers raises.
    """
    return AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in the GGUF. Raises whatever transformers raises."""
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)


def unpack(
    path: Path, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the model in `dtype` on `device`, and transformers' report on what it found.

    Every block is dequantized to float32 and rounded once to `dtype`, on the CPU, one tensor after
    the other. Peak on the CPU: the weights in `dtype` once, for the plain model takes over the very
    tensors, and up to three times the largest in float32. Any other `device` gets a copy of its own
    while the CPU still holds the first. Raises whatever transformers raises.
    """
    packed, report = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        config=config,
        dtype=dtype,
        # Without it transformers would look for kernels that multiply packed blocks, on the hub.
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
        ignore_mismatched_sizes=True,  # they are in the report
        output_loading_info=True,
    )
    plain = packed.config.to_dict()
    plain.pop("quantization_config", None)
    model = type(packed).from_pretrained(
        None,
        config=type(config).from_dict(plain),
        state_dict=packed.state_dict(),
        generation_config=packed.generation_config,
        dtype=dtype,
        device_map={"": device},
    )
    return model, report
