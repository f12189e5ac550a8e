"""What torch's 2:4 kernels gain on a GPU at the demo model's shapes, and at those of Llama 2 7B.

    python -m tests.benchmarks.two_four [--json FILE]

    times = milliseconds(dense) / milliseconds(compressed)

for one multiplication of every shape of matrix, bf16: called by itself, as stock eager code does,
and inside a CUDA graph. No target: the figures decide what the app may say of 2:4.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch

from pruning_core.evaluation.two_four import measure_gains
from pruning_core.runs import as_json, environment, write_text

SHAPES = {
    "demo": {(576, 576): 60, (192, 576): 60, (1536, 576): 60, (576, 1536): 30},
    "Llama 2 7B": {(4096, 4096): 128, (11008, 4096): 64, (4096, 11008): 32},
}
TOKENS = (16, 256, 2048, 8192)


def main() -> None:
    """Print a row for every shape and number of tokens."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as well")
    given = parser.parse_args()
    device = torch.device("cuda")
    rows = []
    print(f"{torch.cuda.get_device_name()}, bf16")
    print(f"{'':<34}{'called by itself':>28}{'inside a graph':>28}")
    columns = f"{'dense ms':>10}{'2:4 ms':>10}{'times':>8}"
    print(f"{'':<12}{'out x in':>14}{'tokens':>8}{columns}{columns}")
    for model, shapes in SHAPES.items():
        for gain in measure_gains(Counter(shapes), TOKENS, device):
            shape = f"{gain.shape[0]} x {gain.shape[1]}"
            alone = f"{gain.dense_ms:>10.4f}{gain.sparse_ms:>10.4f}{gain.times:>8.2f}"
            dense, sparse = gain.dense_captured_ms, gain.sparse_captured_ms
            inside = f"{dense:>10.4f}{sparse:>10.4f}{gain.times_captured:>8.2f}"
            print(f"{model:<12}{shape:>14}{gain.tokens:>8}{alone}{inside}", flush=True)
            times = {"times": gain.times, "times_captured": gain.times_captured}
            rows.append({"model": model, **asdict(gain), **times})
    if given.json:
        report = {"benchmark": "two_four", "rows": rows, "environment": environment()}
        write_text(given.json, as_json(report))


if __name__ == "__main__":
    main()
