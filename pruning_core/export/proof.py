"""The proof of an export: a fresh process without our code must compute what the model computed.

The parent asks the pruned model in memory, writes questions and answers to a file, and starts an
interpreter that can import transformers but not Prunescope. That loads the folder, answers the same
questions, and compares.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.export import witness
from pruning_core.export.format import Loading
from pruning_core.progress import Tick, silent

NAME = "prunescope-proof.json"
"""The file beside the checkpoint."""

_WINDOWS, _LENGTH = 2, 48
_PROMPT, _PADDED = 16, 5
_PATIENCE_SECONDS = 0.2


@dataclass(frozen=True)
class Answers:
    """What a pruned model in memory computes, for an export to be compared with.

    Attributes:
        tensors: questions and answers by name, see `witness.look`.
        dtype: of the model, without ``torch.``.
        device: where it is.
    """

    tensors: Mapping[str, torch.Tensor]
    dtype: str
    device: str


def questions(vocabulary: int) -> dict[str, torch.Tensor]:
    """Return the token windows and prompts that every proof asks about, the same each time."""
    draw = torch.Generator().manual_seed(0)
    windows = torch.randint(vocabulary, (_WINDOWS, _LENGTH), generator=draw)
    prompts = torch.randint(vocabulary, (2, _PROMPT), generator=draw)
    seen = torch.ones_like(prompts)
    prompts[0, :_PADDED] = 0
    seen[0, :_PADDED] = 0
    return {"windows": windows, "prompts": prompts, "seen": seen}


def answers(model: PreTrainedModel) -> Answers:
    """Ask a model; it carries its plan."""
    asked = questions(int(model.config.get_text_config().vocab_size))
    found = witness.look(model, asked["windows"], asked["prompts"], asked["seen"])
    dtype = str(model.dtype).removeprefix("torch.")
    return Answers({**asked, **found}, dtype, str(model.device))


def prove(folder: Path, expected: Answers, loading: Loading, tick: Tick = silent) -> dict[str, Any]:
    """Load an export in a process of its own and compare; the result is written beside it.

    Returns:
        What was found, as `witness.main` writes it.

    Raises:
        PrunescopeError: if the export cannot be loaded, or computes something else.
        Cancelled: by `tick`.
    """
    with tempfile.TemporaryDirectory(prefix="prunescope-proof-") as scratch:
        place = Path(scratch)
        reference, result = place / "reference.safetensors", place / "result.json"
        save_file({name: t.contiguous() for name, t in expected.tensors.items()}, reference)
        how = {
            "dtype": expected.dtype,
            "device": expected.device,
            "options": _options(folder, loading),
        }
        reference.with_suffix(".json").write_text(json.dumps(how))
        _run([str(folder), str(reference), str(result)], place, tick)
        values: dict[str, Any] = json.loads(result.read_text())
    if not values["passed"]:
        raise PrunescopeError(_failure(values))
    (folder / NAME).write_text(json.dumps(values, indent=2))
    return values


def _options(folder: Path, loading: Loading) -> dict[str, object]:
    if loading is Loading.GGUF:
        return {"gguf_file": next(folder.glob("*.gguf")).name}
    return {"trust_remote_code": loading is Loading.TRUSTED, "use_safetensors": True}


def _run(words: list[str], scratch: Path, tick: Tick) -> None:
    """Run the witness, isolated: no PYTHONPATH, no working folder and no user packages."""
    command = [sys.executable, "-I", witness.__file__, *words, str(torch.get_num_threads())]
    surroundings = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(scratch / "modules"),
        "TRANSFORMERS_VERBOSITY": "error",
    }
    said = scratch / "said.txt"
    started = time.monotonic()
    with (
        said.open("w") as out,
        subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=scratch, env=surroundings
        ) as process,
    ):
        try:
            while process.poll() is None:
                tick("proving", 0, 0, f"{time.monotonic() - started:.0f} s")
                time.sleep(_PATIENCE_SECONDS)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        last = [line for line in said.read_text(errors="replace").splitlines() if line.strip()]
        raise PrunescopeError(
            "The proof failed: a fresh process could not load the export and run it. It ended "
            f"with: {last[-1] if last else 'nothing said'}"
            f"{'' if last and last[-1].endswith('.') else '.'} Nothing was kept."
        )


def _failure(values: Mapping[str, Any]) -> str:
    made_up = values["missing_tensors"]
    missing = f" {len(made_up)} tensors were missing, {made_up[0]} first." if made_up else ""
    tokens = "equal" if values["tokens_equal"] else "different"
    return (
        "The proof failed: loaded in a fresh process, the export computes something else than the "
        f"pruned model. Logits differ by up to {values['max_logit_difference']:.3g} (the largest "
        f"is {values['largest_logit']:.3g}), greedy tokens are {tokens}.{missing} Nothing was kept."
    )
