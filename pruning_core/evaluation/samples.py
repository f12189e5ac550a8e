"""What the dense and the pruned model write after the same few prompts, for those who read words.

No number: three sentences show what kind of damage there is, never how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.generation import generate
from pruning_core.model.forward import positions
from pruning_core.planning.plan import Plan
from pruning_core.progress import Tick, silent
from pruning_core.surgery.workbench import Workbench

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS = (
    "The capital of France is",
    "Water boils when",
    "Once upon a time there was a little girl who",
)
"""A fact, a reason and a story."""

TOKENS = 48


def write_samples(
    bench: Workbench,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan | None = None,
    *,
    prompts: Sequence[str] = PROMPTS,
    tokens: int = TOKENS,
    tick: Tick = silent,
) -> list[dict[str, str]]:
    """Continue prompts greedily with the dense model, and with what a plan makes of it.

    A dense bench is left dense.

    Returns:
        For each prompt ``{"prompt", "dense", "pruned"}``; without a plan nothing is ``pruned``.

    Raises:
        PrunescopeError: if a prompt is empty, or the model has too few positions for it and what
            follows.
        Cancelled: by `tick`, between tokens.
    """
    longest = max(len(tokenizer(prompt).input_ids) for prompt in prompts) + tokens
    most = positions(bench.model)
    if most is not None and longest > most:
        raise PrunescopeError(
            f"The prompts and what follows take {longest} tokens, and this model has {most:,} "
            "positions: measure it without samples."
        )

    def written(side: str) -> list[str]:
        return [
            generate(bench.model, tokenizer, prompt, tokens=tokens, tick=tick, note=side).text
            for prompt in prompts
        ]

    found = [
        {"prompt": prompt, "dense": text}
        for prompt, text in zip(prompts, written("dense"), strict=True)
    ]
    if plan is None:
        return found
    try:
        bench.apply(plan)
        pruned = written("pruned")
    finally:
        bench.restore()
    return [{**one, "pruned": text} for one, text in zip(found, pruned, strict=True)]
