"""Fine and coarse scores in one pass against a plain forward and backward of the same tokens.

    python -m tests.benchmarks.scoring [--device auto] [--json FILE]

Time, on a few windows of the demo model's calibration text:

    ratio = seconds(gather_taylor) / seconds(plain)

plain: what an ordinary Taylor script does before it has scored anything: every parameter requires
a gradient, the loss of one window after the other is differentiated, the gradients are cleared
after each. Target: at most 1.2. `matrices` is the ratio to a plain pass that asks for gradients of
the pruned matrices only, as gather_taylor does: what the reduction adds.

Memory, each figure taken in a fresh process on one window, as growth over what the process held
with the model loaded and warm:

    ratio = (weights + growth(gather_taylor)) / (weights + activations + largest gradient)

weights: bytes of the parameters, tied ones once. activations: growth of a forward pass with labels
and its backward pass in which the input embeddings alone require a gradient, so that no gradient
of a weight is ever made. largest gradient: of the largest pruned matrix, in its dtype; embedding
and head are not scored and their gradients never made. Target: at most 1.15. The definition is
strict: what autograd keeps for the sake of weight gradients alone (the inputs of the projections)
counts as ours and not as activations.

On CUDA the growth is torch's own peak count; on Linux the kernel's peak resident set (VmHWM).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning_core.calibration import Split, calibration_windows, load_text
from pruning_core.calibration.taylor import gather_taylor
from pruning_core.model.anatomy import Anatomy, read_anatomy
from pruning_core.model.loading import LoadedModel
from tests.benchmarks import measuring

WINDOWS = {128: 4, 256: 3, 512: 2}
"""How many windows of each length are timed."""

TARGET, MEMORY_TARGET = 1.2, 1.15
MEMORY_LENGTH = 256


def windows_of(loaded: LoadedModel, count: int, length: int) -> torch.Tensor:
    """Return calibration windows of the embedded text."""
    text = load_text("embedded", Split.CALIBRATION)
    return calibration_windows(text, loaded.tokenizer, count=count, length=length, seed=0)


def matrices(model: nn.Module, anatomy: Anatomy) -> list[nn.Parameter]:
    """Return the weights that gather_taylor differentiates by."""
    return [model.get_parameter(c.tensor) for site in anatomy.sites for c in site.matrices]


def differentiate(
    model: Any, wanted: Iterable[nn.Parameter], windows: torch.Tensor
) -> Callable[[], None]:
    """Return a plain forward and backward pass of every window, gradients cleared after each."""
    wanted = list(wanted)

    def run() -> None:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for window in windows:
            ids = window[None].to(model.device)
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            for parameter in wanted:
                parameter.grad = None
        for parameter in wanted:
            parameter.requires_grad_(False)

    return run


def measure_time(loaded: LoadedModel, length: int, count: int, repeats: int) -> dict[str, Any]:
    """Return the time ratios at one window length."""
    model, device = loaded.model, loaded.model.device
    anatomy = read_anatomy(model)
    windows = windows_of(loaded, count, length)

    def against(wanted: Iterable[nn.Parameter]) -> tuple[measuring.Ratio, float, float]:
        plain = differentiate(model, wanted, windows)
        return measuring.sandwiched(
            lambda: measuring.seconds(lambda: gather_taylor(model, anatomy, windows), device),
            lambda: measuring.seconds(plain, device),
            repeats,
        )

    ratio, ours, plain = against(model.parameters())
    reduction, _, _ = against(matrices(model, anatomy))
    print(f"{length:>8}{count:>9}{ours:>10.3f}{plain:>10.3f}  {ratio!s:<22}{reduction}")
    return {
        "length": length,
        "windows": count,
        "seconds": ours,
        "plain_seconds": plain,
        "ratio": ratio.as_dict(),
        "ratio_matrices": reduction.as_dict(),
    }


class Peak:
    """The most memory held since it was made, in bytes over what was held then."""

    def __init__(self, device: torch.device) -> None:
        """Start counting."""
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak becomes the present
            self._before = self._resident()

    def growth(self) -> int:
        """Return the growth so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return self._resident() - self._before

    @staticmethod
    def _resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def grow(given: Any, what: str) -> dict[str, int]:
    """Return the memory growth of one piece of work, in this process."""
    loaded = measuring.demo(given)
    model = loaded.model
    anatomy = read_anatomy(model)
    window = windows_of(loaded, 1, MEMORY_LENGTH)

    def taylor(ids: torch.Tensor) -> None:
        gather_taylor(model, anatomy, ids)

    def activations(ids: torch.Tensor) -> None:
        ids = ids.to(model.device)
        embedded = model.get_input_embeddings()(ids).requires_grad_(True)
        model(inputs_embeds=embedded, labels=ids, use_cache=False).loss.backward()

    work = {"taylor": taylor, "activations": activations}[what]
    work(window[:, :8])  # kernels are made and weights read into memory on first use
    peak = Peak(model.device)
    work(window)
    measuring.synchronize(model.device)
    return {
        "growth": peak.growth(),
        "weights": sum(p.nbytes for p in model.parameters()),
        "gradient": max(p.nbytes for p in matrices(model, anatomy)),
    }


def measure_memory(given: Any) -> dict[str, Any]:
    """Return the memory ratio and what it is made of, in bytes."""
    found = {}
    for what in ("taylor", "activations"):
        command = [sys.executable, "-m", "tests.benchmarks.scoring", "--growth", what]
        command += ["--device", given.device, "--dtype", given.dtype]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[what] = json.loads(done.stdout)
    ours, plain = found["taylor"], found["activations"]
    weights, gradient = ours["weights"], ours["gradient"]
    allowed = weights + plain["growth"] + gradient
    return {
        "length": MEMORY_LENGTH,
        "weights": weights,
        "activations": plain["growth"],
        "largest_gradient": gradient,
        "taylor_growth": ours["growth"],
        "memory_ratio": (weights + ours["growth"]) / allowed,
    }


def main() -> None:
    """Print the ratios of time and of memory."""
    given = measuring.options(__doc__, repeats=5, growth=("taylor", "activations"))
    if given.growth:
        print(json.dumps(grow(given, given.growth)))
        return
    loaded = measuring.demo(given)
    print(f"{loaded.device} {loaded.dtype}, {torch.get_num_threads()} threads, target {TARGET}")
    print(f"{'window':>8}{'windows':>9}{'taylor s':>10}{'plain s':>10}  {'ratio':<22}matrices")
    rows = [measure_time(loaded, n, count, given.repeats) for n, count in WINDOWS.items()]
    if loaded.device.type == "cuda" or Path("/proc/self/clear_refs").exists():
        memory = measure_memory(given)
        figures = ("weights", "activations", "largest_gradient", "taylor_growth")
        megabytes = ", ".join(f"{name} {memory[name] / 1e6:.1f}" for name in figures)
        print(f"window {MEMORY_LENGTH}, MB: {megabytes}")
        print(f"memory ratio {memory['memory_ratio']:.3f}, target {MEMORY_TARGET}")
        rows.append(memory)
    measuring.report(given, "scoring", str(loaded.device), rows)


if __name__ == "__main__":
    main()
