"""llama.cpp itself opens what the GGUF format writes, and computes what the pruned model does."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import pytest
import torch

from pruning_core.export.exporting import export
from pruning_core.export.formats.gguf_file import FILE
from pruning_core.recipe import SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests.export.subjects import plan_of, ragged, uniform, with_plan, without
from tests.model import tiny_checkpoints

if sys.platform != "linux":
    pytest.skip("requirements-dev.txt has llama.cpp for Linux only", allow_module_level=True)

from cyllama.llama import llama_cpp  # noqa: E402 - where there is one

LAYERS, TOKENS = 6, 8
PLANS = {
    "even": (lambda bench: uniform(bench.anatomy, 0.5), "llama"),
    "whole layers": (lambda _bench: without(1), "llama"),
    "a width for every layer": (
        lambda bench: {
            **ragged(bench.anatomy),
            SiteKey(2, SiteKind.ATTENTION): 1.0,
            SiteKey(3, SiteKind.MLP): 1.0,
        },
        "deci",
    ),
}


def greedy(path: Path, prompt: list[int]) -> list[int]:
    """Return the next tokens by llama.cpp, always the likeliest."""
    settings = llama_cpp.LlamaModelParams()
    settings.n_gpu_layers = 0
    model = llama_cpp.LlamaModel(str(path), settings, verbose=False)
    context = llama_cpp.LlamaContext(model, llama_cpp.LlamaContextParams(), verbose=False)
    sampler = llama_cpp.LlamaSampler(llama_cpp.LlamaSamplerChainParams())
    sampler.add_greedy()
    found: list[int] = []
    fresh = list(prompt)
    for _ in range(TOKENS):
        seen = len(prompt) + len(found) - len(fresh)
        context.decode(llama_cpp.llama_batch_get_one(fresh, seen))
        fresh = [sampler.sample(context, -1)]
        found += fresh
    context.close()
    return found


@pytest.mark.parametrize("name", PLANS)
def test_it_generates_what_the_pruned_model_does(name: str, tmp_path: Path) -> None:
    shape, architecture = PLANS[name]
    bench = Workbench(tiny_checkpoints.model(num_hidden_layers=LAYERS).float())
    subject = with_plan(bench, plan_of(bench.anatomy, shape(bench)))
    export(subject, "gguf", tmp_path / "out")
    file = tmp_path / "out" / FILE
    fields = gguf.GGUFReader(file).fields
    assert fields["general.architecture"].contents() == architecture
    prompt = [3, 7, 11, 5]
    found = greedy(file, prompt)
    with subject.shelf.carrying(), torch.no_grad():
        ids = torch.tensor([prompt + found])
        expected = subject.shelf.model(ids).logits[0, len(prompt) - 1 : -1]
    # llama.cpp keeps keys and values in fp16: of two that are as likely either may come first.
    lost = expected.max(-1).values - expected[range(TOKENS), found]
    assert float(lost.max()) < 1e-3 * float(expected.std())
