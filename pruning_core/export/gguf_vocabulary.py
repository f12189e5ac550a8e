"""A tokenizer as GGUF files hold it: byte-level BPE, as GPT-2, Llama 3 and SmolLM have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from pruning_core.export.format import Impossible

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def pre_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the name that llama.cpp has for the way a tokenizer cuts text before merging.

    Raises:
        Impossible: if it is not one that is known here; under a wrong name the model would read
            other tokens than it learnt.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise Impossible("its tokenizer is not a fast one, and only those are written to GGUF")
    values: dict[str, Any] = json.loads(backend.to_str())
    model = values["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise Impossible(
            f"its tokenizer ({model['type']}, by characters) is not a byte-level BPE, and only "
            "those are written to GGUF"
        )
    steps = values["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    regex = steps[-1].get("use_regex", True)
    if not values["normalizer"]:
        if kinds == ["ByteLevel"] and regex:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and regex:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and steps[0]["pattern"].get("Regex") == _LLAMA_3:
            return "llama-bpe"
    raise Impossible("llama.cpp's name for the way its tokenizer cuts text is not known here")


def add_vocabulary(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, folder: Path, size: int
) -> None:
    """Write a tokenizer into a GGUF.

    Args:
        folder: where its files lie as transformers saves them.
        size: tokens that the model knows.
    """
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for number in range(size):
        tokens.append(by_id.get(number, f"[PAD{number}]"))
        if number not in by_id:
            kinds.append(gguf.TokenType.UNUSED)
        elif number in added:
            special = added[number].special
            kinds.append(gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    gguf.SpecialVocab(folder, load_merges=True, n_vocab=size).add_to_gguf(writer, quiet=True)
