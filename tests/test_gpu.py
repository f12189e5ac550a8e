"""On a CUDA GPU: what the commands say on the CPU, and what surgery promises there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning_core.evaluation.latency import measure_latency
from pruning_core.evaluation.live import LiveEvaluator
from pruning_core.evaluation.speed import measure_speeds
from pruning_core.evaluation.tasks.live import LiveTask
from pruning_core.evaluation.two_four import measure_gains
from pruning_core.evaluation.workload import Phase, Workload
from pruning_core.importance.registry import Estimator, Needs, estimators
from pruning_core.recipe import STRUCTURED, Pattern
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.evaluation.tasks.test_equality import SPELLER
from tests.evaluation.tasks.test_live_tasks import MADE_UP
from tests.maps import random_plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]

CUDA = torch.device("cuda")
QUICK = ("--windows", "4", "--length", "32", "--dtype", "float32")
MEASURED = ("--protocol", "probe", "--limit", "3")
CLOSE = 2e-3
"""What rounding may move a perplexity by, relative: here and there sums run in another order."""

JsonOf = Callable[..., dict[str, Any]]


def ways() -> list[tuple[Estimator, Pattern]]:
    """Return every estimator under every pattern that it follows."""
    patterns = [STRUCTURED, Pattern.parse("unstructured"), Pattern.parse("2:4")]
    return [
        (method, pattern)
        for method in estimators()
        for pattern in patterns
        if method.follows(pattern.kind)
    ]


def both(json_of: JsonOf, folder: Path, *words: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a command on the CPU and on the GPU."""
    told = [json_of(words[0], folder, *words[1:], "--device", name) for name in ("cpu", "cuda")]
    return told[0], told[1]


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Check that two measurements are the same but for rounding."""
    assert one["cost"] == other["cost"]
    perplexity = other["quality"]["perplexity"]
    assert one["quality"]["perplexity"] == pytest.approx(perplexity, rel=CLOSE)


@pytest.mark.parametrize(
    ("method", "pattern"), ways(), ids=lambda value: getattr(value, "name", str(value))
)
def test_every_estimator_prunes_as_on_the_cpu(
    folder: Path, json_of: JsonOf, method: Estimator, pattern: Pattern
) -> None:
    known = {parameter.name for parameter in method.parameters}
    quick = {"steps": 3, "batch": 1, "windows": 4} if method.needs is Needs.TRAINING else {}
    words: list[object] = ["--estimator", method.name, "--pattern", pattern]
    for name in quick.keys() & known:
        words += ["--set", f"{name}={quick[name]}"]
    if pattern.kind is not Pattern.parse("2:4").kind:
        words += ["--sparsity", "0.4"]
    here, there = both(json_of, folder, "prune", *QUICK, *MEASURED, *words)
    same(here["dense"], there["dense"])
    same(here["pruned"], there["pruned"])
    assert there["pruned"]["peak_memory_bytes"]["gpu"] > 0


@pytest.mark.parametrize(
    "words",
    [
        ("--estimator", "flap", "--repair", "bias"),
        ("--estimator", "obs", "--repair", "ridge"),
        ("--estimator", "wanda-sp", "--repair", "ridge:prefix=dense"),
        ("--estimator", "wanda", "--pattern", "2:4", "--repair", "ridge"),
        ("--estimator", "sparsegpt", "--pattern", "unstructured", "--repair", "ridge"),
        ("--estimator", "flap", "--allocation", "ranking"),
        ("--estimator", "wanda", "--pattern", "unstructured", "--allocation", "owl"),
        ("--estimator", "block-influence", "--allocation", "layers", "--sparsity", "0.5"),
    ],
)
def test_repairs_and_allocations_do_as_on_the_cpu(
    folder: Path, json_of: JsonOf, words: tuple[str, ...]
) -> None:
    here, there = both(json_of, folder, "prune", *QUICK, *MEASURED, *words)
    same(here["pruned"], there["pruned"])


@pytest.mark.parametrize("name", [*sorted(tiny.FAMILIES), *sorted(tiny.MIXTURES)])
def test_a_plan_computes_what_it_does_on_the_cpu_and_leaves_no_trace(name: str) -> None:
    here, there = Workbench(tiny.tiny_model(name)), Workbench(tiny.tiny_model(name).to(CUDA))
    state = {key: value.clone() for key, value in there.model.state_dict().items()}
    for seed in range(3):
        here.apply(random_plan(here, seed))
        there.apply(random_plan(there, seed))
        on_gpu = there.model(tiny.tokens().to(CUDA)).logits.cpu()
        # Norms and rotary tables of stock models run in fp32 even in an fp64 model.
        assert (here.model(tiny.tokens()).logits - on_gpu).abs().max() < 2e-4
    there.restore()
    after = there.model.state_dict()
    assert all(torch.equal(after[key], state[key]) for key in state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_equals_full(dtype: torch.dtype) -> None:
    bench = Workbench(tiny.tiny_model().to(CUDA, dtype))
    windows = tiny.tokens(windows=5)
    evaluator = LiveEvaluator(bench, windows)
    for seed in range(6):
        plan = random_plan(bench, seed)
        assert evaluator.measure(plan) == LiveEvaluator(bench, windows).measure(plan)


def test_items_that_follow_a_slider_are_answered_as_on_the_cpu() -> None:
    here, there = Workbench(tiny.tiny_model()), Workbench(tiny.tiny_model().to(CUDA))
    ours, theirs = (LiveTask(bench, SPELLER, MADE_UP) for bench in (here, there))
    for seed in range(4):
        found = theirs.measure(random_plan(there, seed))
        assert found == LiveTask(there, SPELLER, MADE_UP).measure(random_plan(there, seed))
        for mine, other in zip(
            ours.measure(random_plan(here, seed)).votes, found.votes, strict=True
        ):
            assert [vote.likelihood for vote in mine] == pytest.approx(
                [vote.likelihood for vote in other], abs=1e-3
            )


@pytest.mark.parametrize("phase", Phase)
def test_every_site_is_timed(phase: Phase) -> None:
    bench = Workbench(tiny.tiny_model().to(CUDA, torch.bfloat16))
    measured = measure_latency(bench, Workload(phase, batch=2, length=12), at_most=4)
    for staircase in measured.sites.values():
        assert all(value > 0 for value in staircase.milliseconds)
    speeds = measure_speeds(bench, random_plan(bench, 1), Workload(phase, batch=2, length=12))
    assert min(speeds.dense, speeds.pruned) > 0


def test_two_four_kernels_multiply_right_and_are_timed() -> None:
    gains = measure_gains(Counter({(128, 192): 2, (192, 128): 1, (40, 36): 9}), [16, 64], CUDA)
    assert {gain.shape for gain in gains} == {(128, 192), (192, 128)}
    for gain in gains:
        assert gain.error < 0.02  # bf16 rounds to 1 in 256
        assert min(gain.dense_ms, gain.sparse_captured_ms) > 0


def test_tasks_and_protocols_say_what_they_do_on_the_cpu(
    folder: Path, json_of: JsonOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"question": f"is {number} so", "passage": f"{number} is so.", "answer": bool(number % 3)}
        for number in range(40)
    ]
    place = tmp_path / "tasks" / "boolq" / "dev.jsonl"
    place.parent.mkdir(parents=True)
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("PRUNESCOPE_DATA", str(tmp_path))
    words = ("--protocol", "embedded-sliding", "--limit", "4", "--tasks", "boolq")
    here, there = both(json_of, folder, "evaluate", "--dtype", "float32", *words)
    one, other = (said["protocols"]["embedded-sliding"]["dense"] for said in (here, there))
    assert one["perplexity"]["value"] == pytest.approx(other["perplexity"]["value"], rel=1e-4)
    assert here["tasks"]["boolq"]["dense"] == there["tasks"]["boolq"]["dense"]


@pytest.mark.parametrize("format", ["padded", "per-layer", "gguf", "masks"])
def test_an_export_is_proven(folder: Path, json_of: JsonOf, tmp_path: Path, format: str) -> None:
    recipe = tmp_path / "recipe.json"
    chosen = ("--estimator", "wanda-sp", "--sparsity", "0.4", "--device", "cuda", *QUICK)
    json_of("prune", folder, *chosen, *MEASURED, "--save-recipe", recipe)
    words = ("--recipe", recipe, "--format", format, "--out", tmp_path / "out")
    told = json_of("export", folder, *words, "--device", "cuda", "--dtype", "float32")
    assert told["proof"]["passed"]


def test_recovery_trains_and_resumes(folder: Path, json_of: JsonOf, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    chosen = ("--estimator", "wanda", "--pattern", "2:4", "--device", "cuda", *QUICK)
    json_of("prune", folder, *chosen, *MEASURED, "--save-recipe", recipe)
    words = (
        *("recover", folder, "--recipe", recipe, "--out", tmp_path / "out", "--device", "cuda"),
        *("--preset", "quick", "--text", "embedded", "--steps", "4", "--length", "32"),
        *("--rank", "4", "--lr", "0.01", "--save-every", "2", "--dtype", "float32", *MEASURED),
    )
    told = json_of(*words)
    assert told["recovered"]["quality"]["perplexity"] != told["pruned"]["quality"]["perplexity"]
    assert json_of(*words, "--resume")["recovered"]["parameters"] == told["pruned"]["parameters"]
