"""Opens an export as a stranger would and says what it computes. Knows nothing of Prunescope.

Run as a script, by path, in an interpreter of its own that cannot import Prunescope: the proof of
an export is worth nothing if our code helps it along. The parent looks at the model in memory with
the same `look`, and hands its findings over in a file.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

STEPS = 12
"""Tokens that are generated after each prompt."""

ROUNDING = 1e-3
"""The largest difference of logits that rounding to fp32 explains, as a share of the largest logit.

Tensors of another shape are multiplied in another order, which layers then magnify; a wrong or
missing tensor moves the logits by about as much as they are.
"""

_HALVES = (torch.float16, torch.bfloat16)


class InFloat32(TorchFunctionMode):
    """Lets a model of half precision compute in fp32, each weight widened when it is used.

    In half precision two right answers can be as far apart as a wrong one: what a badly pruned
    model computes depends on the last bit of everything. No weight is changed or kept twice.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch with wider numbers."""
        options = kwargs or {}
        if getattr(func, "__name__", "") == "__get__":
            value = func(*args, **options)
            return torch.float32 if isinstance(value, torch.dtype) and value in _HALVES else value
        return func(
            *(_wide(value) for value in args),
            **{name: _wide(value) for name, value in options.items()},
        )


def _wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in _HALVES else value
    if type(value) in (list, tuple):
        return type(value)(_wide(item) for item in value)
    return value


def look(
    model: PreTrainedModel, windows: torch.Tensor, prompts: torch.Tensor, seen: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return what a model computes.

    Args:
        windows: int64 [windows, tokens].
        prompts: int64 [prompts, tokens], shorter ones padded on the left.
        seen: int64 [prompts, tokens], 1 where a prompt has a token.

    Returns:
        ``logits`` fp32 [windows, tokens, vocabulary]; ``tokens`` int64 [prompts, steps], what it
        generates greedily, token by token with the cache; ``scores`` fp32 [prompts, steps,
        vocabulary], the logits they were chosen by.
    """
    device = model.device
    plain = GenerationConfig(
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
        use_cache=True,
    )
    with torch.no_grad(), InFloat32():
        logits = model(input_ids=windows.to(device)).logits.float().cpu()
        made = model.generate(
            prompts.to(device), attention_mask=seen.to(device), generation_config=plain
        )
    return {
        "logits": logits,
        "tokens": made.sequences[:, prompts.shape[1] :].cpu(),
        "scores": torch.stack([step.float().cpu() for step in made.logits], dim=1),
    }


def compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return how far two models are apart, and whether rounding explains it."""
    size = expected["logits"].abs().max().item()
    largest = (found["logits"] - expected["logits"]).abs().max().item()
    unequal = found["tokens"] != expected["tokens"]
    # Where two tokens are as likely as each other, rounding may choose; nowhere else.
    margin = 0.0
    for row in range(len(unequal)):
        if unequal[row].any():
            step = int(unequal[row].int().argmax())
            scores = expected["scores"][row, step]
            lost = scores[expected["tokens"][row, step]] - scores[found["tokens"][row, step]]
            margin = max(margin, lost.item())
    whole = bool(torch.isfinite(found["logits"]).all())
    return {
        "max_logit_difference": largest,
        "largest_logit": size,
        "tokens_equal": not bool(unequal.any()),
        "tokens_compared": unequal.numel(),
        "margin_where_tokens_differ": margin,
        "passed": whole and largest <= ROUNDING * size and margin <= 2 * largest,
    }


def main(folder: str, reference: str, result: str) -> None:
    """Load an export, compare it with the reference, and write the result as JSON.

    Args:
        folder: of the export.
        reference: safetensors with the questions and what the model in memory answers; its
            neighbour with the suffix .json says how to load.
        result: the file to write.
    """
    if importlib.util.find_spec("pruning_core") is not None:
        raise SystemExit("Prunescope can be imported here: this would prove nothing.")
    from transformers import __version__ as version

    how = json.loads(Path(reference).with_suffix(".json").read_text())
    expected = load_file(reference)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, how["dtype"]),
        device_map={"": how["device"]},
        local_files_only=True,
        output_loading_info=True,
        **how["options"],
    )
    made_up = sorted(report["missing_keys"])
    found = look(model.eval(), expected["windows"], expected["prompts"], expected["seen"])
    values = compare(found, expected)
    values["passed"] = values["passed"] and not made_up
    values |= {
        "missing_tensors": made_up,
        "unexpected_tensors": sorted(report["unexpected_keys"]),
        "class": type(model).__name__,
        "dtype": how["dtype"],
        "arithmetic": "float64" if how["dtype"] == "float64" else "float32",
        "device": how["device"],
        "remote_code": bool(how["options"].get("trust_remote_code")),
        "versions": {
            "python": sys.version.split()[0],
            "torch": str(torch.__version__),
            "transformers": version,
        },
    }
    Path(result).write_text(json.dumps(values, indent=2))


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    main(*sys.argv[1:4])
