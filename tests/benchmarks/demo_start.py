"""From a cold process to the first importance map of the demo model.

    python -m tests.benchmarks.demo_start [--device auto] [--json FILE]

    seconds(python -m pruning_core importance demo --estimator fine)

Wall-clock seconds of a fresh process: the interpreter, the imports, loading the model from the
cache, 16 calibration windows of 256 tokens, and writing the map. The model is fetched and converted
beforehand if the cache lacks it. Target: at most 30 on two cores.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pruning_core.model import demo
from tests.benchmarks import measuring

TARGET = 30


def start(given: Any, folder: Path) -> dict[str, float]:
    """Return the seconds of one start, whole and by stage."""
    command = [sys.executable, "-m", "pruning_core", "importance", "demo", "--estimator", "fine"]
    command += ["--out", str(folder / "map.safetensors"), "--json"]
    command += ["--device", given.device, "--dtype", given.dtype]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    whole = time.perf_counter() - started
    stages = json.loads(done.stdout)["seconds"]
    return {"whole": whole, **stages, "rest": whole - sum(stages.values())}


def main() -> None:
    """Print the median of a few starts and where the time goes."""
    given = measuring.options(__doc__, repeats=3)
    demo.folder()
    with tempfile.TemporaryDirectory() as folder:
        starts = [start(given, Path(folder)) for _ in range(given.repeats)]
    medians = {name: statistics.median(each[name] for each in starts) for name in starts[0]}
    print(", ".join(f"{name} {value:.1f} s" for name, value in medians.items()))
    print(f"cold process to the first map: {medians['whole']:.1f} s, target {TARGET}")
    measuring.report(given, "demo_start", given.device, [{"median": medians, "starts": starts}])


if __name__ == "__main__":
    main()
