"""The whole way of an export: proven by a stranger, whole or not there, nothing overwritten."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pruning_core.errors import PrunescopeError
from pruning_core.export import folder as folders
from pruning_core.export import stored
from pruning_core.export.exporting import export, preflights
from pruning_core.export.folder import MANIFEST
from pruning_core.export.format import Subject
from pruning_core.export.proof import NAME
from pruning_core.model.loading import load
from pruning_core.progress import Cancelled
from pruning_core.recipe import SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests.export.subjects import (
    apart,
    carried,
    check,
    loaded,
    logits,
    plan_of,
    ragged,
    subject_of,
    uniform,
    with_plan,
    written,
)
from tests.model import tiny_checkpoints


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a licence beside it."""
    folder = tiny_checkpoints.save(tmp_path_factory.mktemp("dense") / "tiny")
    (folder / "LICENSE").write_text("Do as you like.")
    return folder


@pytest.fixture
def subject(dense: Path) -> Subject:
    return even(dense)


def even(dense: Path) -> Subject:
    model = load(str(dense), device="cpu", dtype="float32").model
    return subject_of(model, uniform(Workbench(model).anatomy), dense)


def uneven(dense: Path) -> Subject:
    model = load(str(dense), device="cpu", dtype="float32").model
    wanted = ragged(Workbench(model).anatomy) | {SiteKey(1, SiteKind.MLP): 1.0}
    return subject_of(model, wanted, dense)


@pytest.mark.parametrize(
    ("format", "make", "says"),
    [
        ("per-layer", uneven, "PerLayerForCausalLM"),
        ("gguf", even, "LlamaForCausalLM"),
    ],
)
def test_a_stranger_computes_the_same(
    format: str, make: Callable[[Path], Subject], says: str, dense: Path, tmp_path: Path
) -> None:
    subject = make(dense)
    before = [parameter.clone() for parameter in subject.shelf.model.parameters()]
    done = export(subject, format, tmp_path / "out")
    proof = json.loads((tmp_path / "out" / NAME).read_text())
    assert proof == dict(done.proof)
    assert proof["passed"]
    assert proof["tokens_equal"]
    assert proof["max_logit_difference"] == 0
    assert proof["class"] == says
    assert proof["versions"]["torch"] == str(torch.__version__)
    # The model is dense again, and nothing else is left beside the export.
    assert all(map(torch.equal, before, subject.shelf.model.parameters()))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_plain_checkpoint_is_proven_and_brings_what_it_needs(
    subject: Subject, tmp_path: Path
) -> None:
    done = export(subject, "plain", tmp_path / "out")
    assert done.proof["max_logit_difference"] == 0
    assert done.proof["class"] == "LlamaForCausalLM"
    assert not done.proof["remote_code"]
    assert {path.name for path in done.folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
        *("tokenizer_config.json", "README.md", "LICENSE", "prunescope-recipe.json"),
        *(MANIFEST, NAME),
    }
    card = (done.folder / "README.md").read_text()
    assert "LICENSE" in card
    assert subject.shelf.plan.recipe.digest in card
    again = load(str(done.folder), device="cpu", dtype="float32")
    assert again.preflight.parameters == subject.shelf.plan.parameters


def test_half_precision_is_compared_in_fp32(dense: Path, tmp_path: Path) -> None:
    model = load(str(dense), device="cpu", dtype="bfloat16").model
    subject = subject_of(model, ragged(Workbench(model).anatomy))
    proof = export(subject, "padded", tmp_path / "out").proof
    assert (proof["dtype"], proof["arithmetic"]) == ("bfloat16", "float32")
    assert proof["max_logit_difference"] < 1e-5
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_a_wrong_weight_fails_the_proof_and_leaves_nothing(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = stored.raw

    def wrong(tensor: stored.Stored) -> object:
        return true(tensor) ^ (0x40 if tensor.name.endswith("1.mlp.up_proj.weight") else 0)

    monkeypatch.setattr(stored, "raw", wrong)
    with pytest.raises(PrunescopeError, match="computes something else than the pruned model"):
        export(subject, "plain", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_missing_tensor_fails_the_proof(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pruning_core.export import checkpoint

    true = checkpoint.write_model
    monkeypatch.setattr(
        checkpoint, "write_model", lambda folder, tensors, *rest: true(folder, tensors[:-1], *rest)
    )
    with pytest.raises(PrunescopeError, match="1 tensors were missing"):
        export(subject, "plain", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_large_models_lie_in_several_files(subject: Subject, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    written(subject, "plain", folder, largest=20_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    for name in files:
        weights = load_file(folder / name)
        size = sum(tensor.nbytes for tensor in weights.values())
        assert size <= 20_000 or len(weights) == 1
    assert apart(logits(loaded(folder)), carried(subject)) == 0


def test_tensors_are_made_one_at_a_time(subject: Subject, tmp_path: Path) -> None:
    made: list[str] = []
    sizes: list[int] = []

    def tensor(name: str) -> stored.Stored:
        def make() -> torch.Tensor:
            made.append(name)
            sizes.append((tmp_path / "x").stat().st_size)
            return torch.ones(300_000)

        return stored.Stored(name, (300_000,), torch.float32, make)

    stored.write_file(tmp_path / "x", [tensor(name) for name in "abc"])
    assert made == list("abc")
    # What was made before is on the disk when the next one is.
    assert sizes[2] >= sizes[1] + 1_000_000 >= sizes[0] + 2_000_000


def test_the_preflight_writes_nothing(subject: Subject, tmp_path: Path) -> None:
    found = {preflight.format: preflight for preflight in preflights(subject)}
    assert found["plain"].possible
    assert found["plain"].bytes == 4 * subject.shelf.plan.parameters
    assert found["masks"].bytes < found["plain"].bytes / 20
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_stays_unless_it_is_ours_and_asked_for(
    subject: Subject, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(PrunescopeError, match="is there already|holds other things"):
            export(subject, "masks", out, overwrite=overwrite)
    assert (out / "thesis.txt").read_text() == "years of work"
    (out / "thesis.txt").unlink()
    (out / MANIFEST).write_text("{}")
    with pytest.raises(PrunescopeError, match="--overwrite"):
        export(subject, "masks", out)
    export(subject, "masks", out, overwrite=True)
    assert (out / "masks.safetensors").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(PrunescopeError, match="no folder"):
        export(subject, "masks", tmp_path / "file", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_the_model_that_is_pruned_is_never_overwritten(dense: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(dense, tmp_path / "copy")
    (copy / MANIFEST).write_text("{}")
    with pytest.raises(PrunescopeError, match="where the model was read from"):
        export(even(copy), "plain", copy, overwrite=True)
    assert (copy / "config.json").is_file()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_read_only_place_is_told(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def denied(*_any: object, **_other: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(PrunescopeError, match=f"could not be written: {os.strerror(number)}"):
        export(subject, "masks", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file_is_told(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrunescopeError, match="could not be written: Not a directory"):
        export(subject, "masks", tmp_path / "file" / "out")


def test_too_little_room_is_told_before_anything_is_written(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(PrunescopeError, match="its disk has 0 MB free"):
        export(subject, "plain", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_the_old_export(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = export(subject, "masks", tmp_path / "out").folder

    def full(_tensor: stored.Stored) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stored, "raw", full)
    with pytest.raises(PrunescopeError, match="No space left on device. Free some space"):
        export(subject, "plain", out, overwrite=True)
    assert (out / "masks.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert subject.shelf.bench.plan is None


@pytest.mark.parametrize("stage", ["writing", "proving"])
def test_stopping_leaves_nothing(subject: Subject, tmp_path: Path, stage: str) -> None:
    def tick(now: str, _done: int, _total: int, _note: str = "") -> None:
        if now == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        export(subject, "plain", tmp_path / "out", tick=tick)
    assert not list(tmp_path.iterdir())
    assert subject.shelf.bench.plan is None


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.export.test_exporting import even
from pruning_core.export.exporting import export
def tick(stage, done, total, note=""):
    if stage == "writing" and done == 5:
        print("half", flush=True)
        time.sleep(60)
export(even(Path(sys.argv[1])), "plain", Path(sys.argv[2]), tick=tick)
"""


def test_a_kill_leaves_nothing_that_looks_like_a_checkpoint(dense: Path, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", SLOW, str(dense), str(tmp_path / "out"), root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.")
    assert not (left / "config.json").exists()
    with pytest.raises(PrunescopeError, match=r"no config\.json"):
        load(str(left))
    # The next export that comes by after a day takes it away.
    old = time.time() - 2 * 24 * 3600
    os.utime(left, (old, old))
    export(even(dense), "masks", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("format", ["padded", "per-layer", "plain"])
def test_an_export_is_pruned_and_exported_again(format: str, dense: Path, tmp_path: Path) -> None:
    first = (even if format == "plain" else uneven)(dense)
    written(first, format, tmp_path / "first")
    first.tokenizer.save_pretrained(tmp_path / "first")
    trust = format == "per-layer"
    again = load(str(tmp_path / "first"), device="cpu", dtype="float32", trust_remote_code=trust)
    bench = Workbench(again.model)
    second = with_plan(bench, plan_of(bench.anatomy, ragged(bench.anatomy, seed=1)))
    check(second, "per-layer" if trust else "padded", tmp_path / "second")
    if trust:  # what was skipped stays so, and can be proven without our code
        assert export(second, "per-layer", tmp_path / "third").proof["max_logit_difference"] == 0


def test_a_per_layer_export_that_skips_nothing_can_be_padded(dense: Path, tmp_path: Path) -> None:
    model = load(str(dense), device="cpu", dtype="float32").model
    first = subject_of(model, ragged(Workbench(model).anatomy))
    written(first, "per-layer", tmp_path / "first")
    again = loaded(tmp_path / "first", trust=True)
    check(subject_of(again, ragged(Workbench(again).anatomy, seed=1)), "padded", tmp_path / "x")
