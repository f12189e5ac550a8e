"""How an export is opened again: a few lines of Python to copy. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def loading_lines(
    format: str, folder: Path, proof: Mapping[str, Any], model: str
) -> tuple[str, str]:
    """Return lines that open an export, and their language.

    Args:
        format: its name.
        folder: where it lies.
        proof: what was found about it.
        model: the dense model, as text.
    """
    if format == "masks":
        return _masks(folder, model), "python"
    if "read_back" in proof:
        return f'llama-cli -m "{folder / _gguf(folder)}" -p "Hello"', "bash"
    # A tokenizer is chosen by the config, which the code beside the weights may have to read too.
    trust = ", trust_remote_code=True" if proof["remote_code"] else ""
    file = f", gguf_file={_gguf(folder)!r}" if format == "gguf" else ""
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f"model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, dtype={proof['dtype']!r}"
        f"{file}{trust})",
        f"tokenizer = AutoTokenizer.from_pretrained({str(folder)!r}{trust})",
    ]
    return "\n".join(lines), "python"


def _gguf(folder: Path) -> str:
    return next(folder.glob("*.gguf"), folder / "model.gguf").name


def _masks(folder: Path, model: str) -> str:
    return "\n".join(
        [
            "from pathlib import Path",
            "from pruning_core.export.formats.masks import read_masks",
            "from pruning_core.model.loading import load",
            "from pruning_core.surgery.workbench import Workbench",
            "",
            f"loaded = load({model!r})",
            "bench = Workbench(loaded.model)",
            "dense = dict(loaded.model.named_parameters())",
            f"plan = read_masks(Path({str(folder)!r}), bench.anatomy, loaded.fingerprint, dense)",
            "bench.apply(plan)",
        ]
    )
