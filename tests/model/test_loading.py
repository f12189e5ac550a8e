"""What can be loaded is loaded whole; what can't is told in a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gguf
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    CTRLConfig,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from pruning_core.errors import PrunescopeError
from pruning_core.model.loading import load, prepare, read
from pruning_core.model.reference import ModelRef, Source
from pruning_core.progress import Cancelled
from tests.model import tiny_checkpoints as tiny

IDS = torch.arange(20)[None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save(tmp_path / "tiny")


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_loads_exactly_ready_to_be_looked_at(folder: Path) -> None:
    loaded = load(str(folder), device="cpu", dtype="float32")
    assert loaded.ref == ModelRef(Source.FOLDER, str(folder))
    assert torch.equal(loaded.model(IDS).logits, tiny.model()(IDS).logits)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokenizer("Hi there!").input_ids == tiny.tokenizer()("Hi there!").input_ids
    assert loaded.device == torch.device("cpu")
    assert loaded.preflight.parameters == tiny.model().num_parameters()
    assert loaded.seconds > 0


def test_weights_are_converted_to_the_dtype_asked_for(folder: Path) -> None:
    for name, dtype in {"bfloat16": torch.bfloat16, "float64": torch.float64}.items():
        loaded = load(str(folder), dtype=name, device="cpu")
        assert loaded.dtype is dtype
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}


def test_shards_load_like_one_file(folder: Path, tmp_path: Path) -> None:
    model, shards = tiny.model(), tmp_path / "shards"
    model.save_pretrained(shards, max_shard_size="20KB")
    tiny.tokenizer().save_pretrained(shards)
    assert len(list(shards.glob("*.safetensors"))) > 2
    loaded = load(str(shards), dtype="float32", device="cpu")
    assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)
    assert loaded.fingerprint == load(str(folder)).fingerprint


def test_a_gguf_loads_dense_and_can_be_saved_again(tmp_path: Path) -> None:
    model = tiny.model()
    path = tiny.save_gguf(tmp_path / "tiny.gguf", model)
    loaded = load(str(path), dtype="float32", device="cpu")
    assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)
    assert loaded.tokenizer("Hi there!").input_ids == tiny.tokenizer()("Hi there!").input_ids
    loaded.model.save_pretrained(tmp_path / "again")
    loaded.tokenizer.save_pretrained(tmp_path / "again")
    again = load(str(tmp_path / "again"), dtype="float32", device="cpu")
    assert torch.equal(again.model(IDS).logits, model(IDS).logits)


def test_a_tied_gguf_stays_tied(tmp_path: Path) -> None:
    model = tiny.model(tie_word_embeddings=True)
    loaded = load(str(tiny.save_gguf(tmp_path / "tied.gguf", model)), dtype="float32")
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)


def test_a_fingerprint_is_the_same_in_every_dtype_and_process(folder: Path) -> None:
    here = {load(str(folder), dtype=dtype).fingerprint for dtype in ("float32", "bfloat16")}
    code = f"from pruning_core.model import load; print(load({str(folder)!r}).fingerprint)"
    there = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert here == {there}


def test_another_model_has_another_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    seen = {
        load(str(tiny.save_gguf(path, tiny.model(rms_norm_eps=e)))).fingerprint for e in (1.0, 2.0)
    }
    seen |= {load(str(tiny.save(tmp_path / "b", rms_norm_eps=e))).fingerprint for e in (1.0, 2.0)}
    assert len(seen) == 4


def test_progress_is_told_to_the_end(folder: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    load(str(folder), tick=lambda *step: told.append(step))
    assert [step[:3] for step in told] == [("loading", done, 3) for done in range(4)]


def test_a_prepared_model_is_known_and_not_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", None)
        prepared = prepare(
            str(folder),
            device="cpu",
            dtype="float32",
            window=99,
            tick=lambda _stage, done, *_: told.append(done),
        )
    assert told == [0]
    assert prepared.ref == ModelRef(Source.FOLDER, str(folder))
    assert {span.file for span in prepared.spans} == {folder / "model.safetensors"}
    assert (prepared.device, prepared.dtype) == (torch.device("cpu"), torch.float32)
    assert prepared.preflight.window == 99
    loaded = read(prepared, lambda _stage, done, *_: told.append(done))
    assert told == [0, 1, 2, 3]
    assert torch.equal(loaded.model(IDS).logits, tiny.model()(IDS).logits)
    assert loaded.fingerprint == load(str(folder)).fingerprint
    assert loaded.preflight is prepared.preflight
    assert loaded.seconds > prepared.seconds > 0


@pytest.mark.parametrize("at", range(4))
def test_loading_can_be_cancelled_at_every_step(folder: Path, at: int) -> None:
    def tick(stage: str, done: int, total: int, note: str = "") -> None:
        if done == at:
            raise Cancelled

    with pytest.raises(Cancelled):
        load(str(folder), tick=tick)


# What a person may do to a folder, and what they are told.


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama",')


def unknown_type(folder: Path) -> None:
    change_json(folder / "config.json", model_type="lama")


def mistyped_config(folder: Path) -> None:
    change_json(folder / "config.json", num_hidden_layers="two")


def impossible_config(folder: Path) -> None:
    change_json(folder / "config.json", hidden_act="no such function")


def quantized(folder: Path) -> None:
    change_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def no_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny.model().save_pretrained(folder, max_shard_size="20KB")
    max(folder.glob("model-*.safetensors")).unlink()


def a_tensor_lost(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def other_shapes(folder: Path) -> None:
    change_json(folder / "config.json", intermediate_size=48)


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def foreign_tokenizer(folder: Path) -> None:
    tiny.save(folder, vocab_size=100)
    tiny.tokenizer().save_pretrained(folder)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (no_config, r"has no config\.json"),
        (broken_config, r"config\.json of .* can't be used.*JSON"),
        (unknown_type, "can't be used.*lama"),
        (mistyped_config, "can't be used.*num_hidden_layers"),
        (impossible_config, "can't be built as a causal language model.*no such function"),
        (quantized, "are quantized, and pruning needs them dense"),
        (no_weights, r"config\.json but no weights: model\.safetensors is missing"),
        (pickled, "unpickling can run any code"),
        (cut_short, "damaged or was cut short"),
        (no_shard, r"files of its weights, 1 are missing, the first model-0"),
        (a_tensor_lost, r"lacks 1 of the model's weights, among them model\.layers\.1\.mlp\.up_pr"),
        (other_shapes, r"down_proj\.weight is \(32, 64\) in the file and \(32, 48\) by"),
        (no_tokenizer, r"has no tokenizer\. A checkpoint needs"),
        (broken_tokenizer, "tokenizer of .* can't be read"),
        (foreign_tokenizer, "belongs to another model: it has 128 tokens, and the model knows 100"),
    ],
)
def test_a_folder_that_can_not_be_loaded_is_told(
    folder: Path, harm: Callable[[Path], None], said: str
) -> None:
    harm(folder)
    with pytest.raises(PrunescopeError, match=said):
        load(str(folder))


def test_a_folder_that_went_away_is_told(folder: Path) -> None:
    ref = ModelRef.parse(str(folder))
    shutil.rmtree(folder)
    with pytest.raises(PrunescopeError, match="There is no file or folder"):
        load(ref)


def encoder(folder: Path) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(vocab_size=128, intermediate_size=64, **size)).save_pretrained(
        folder
    )


def classifier(folder: Path) -> None:
    LlamaForSequenceClassification(tiny.config(pad_token_id=0)).save_pretrained(folder)


def translator(folder: Path) -> None:
    config = T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    T5ForConditionalGeneration(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("save", "kind"),
    [
        (encoder, "BertForMaskedLM"),
        (classifier, "LlamaForSequenceClassification"),
        (translator, "T5ForConditionalGeneration"),
    ],
)
def test_what_does_not_predict_the_next_token_is_told(
    tmp_path: Path, save: Callable[[Path], None], kind: str
) -> None:
    save(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(PrunescopeError, match=f"holds {kind}, which is not a causal language"):
        load(str(tmp_path))


def of_another_family(folder: Path) -> str:
    config = CTRLConfig(vocab_size=128, n_embd=32, n_layer=1, n_head=2)
    config.architectures = ["CTRLLMHeadModel"]
    config.save_pretrained(folder)
    return "Models of type 'ctrl' are not supported. Supported types: .*llama"


def without_layers(folder: Path) -> str:
    tiny.config(num_hidden_layers=0).save_pretrained(folder)
    return "This model has no decoder layers"


@pytest.mark.parametrize("save", [of_another_family, without_layers])
def test_what_can_not_be_pruned_is_refused_before_its_weights_are_looked_for(
    tmp_path: Path, save: Callable[[Path], str]
) -> None:
    said = save(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    with pytest.raises(PrunescopeError, match=said):
        load(str(tmp_path))


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return what is there once the code of `bring_code` has run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    return tmp_path / "it ran"


def bring_code(folder: Path, trace: Path, kind: str) -> None:
    (folder / "modeling_own.py").write_text(
        "import pathlib\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"pathlib.Path({str(trace)!r}).touch()\n"
        f"class OwnConfig(LlamaConfig):\n    model_type = {kind!r}\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    change_json(
        folder / "config.json",
        model_type=kind,
        architectures=["OwnForCausalLM"],
        auto_map={
            "AutoConfig": "modeling_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    )


def test_code_of_the_checkpoint_runs_only_when_trusted(folder: Path, trace: Path) -> None:
    bring_code(folder, trace, "llama")
    assert type(load(str(folder)).model).__name__ == "LlamaForCausalLM"
    assert not trace.exists()
    loaded = load(str(folder), trust_remote_code=True, dtype="float32")
    assert trace.exists()
    assert type(loaded.model).__name__ == "OwnForCausalLM"
    assert torch.equal(loaded.model(IDS).logits, tiny.model()(IDS).logits)


def test_a_type_that_only_the_checkpoint_knows_is_told(folder: Path, trace: Path) -> None:
    bring_code(folder, trace, "own")
    with pytest.raises(PrunescopeError, match=r"own Python code.*trust_remote_code=True"):
        load(str(folder))
    assert not trace.exists()
    with pytest.raises(PrunescopeError, match="type 'own' are not supported"):
        load(str(folder), trust_remote_code=True)
    assert trace.exists()


def test_a_model_too_large_is_refused_before_its_weights_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=40_000))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(PrunescopeError, match=r"too large for cpu: .* and 0\.0 GB are free"):
        load(str(folder), device="cpu")


def test_what_the_caller_will_free_counts_as_available(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = prepare(str(folder), device="cpu").preflight.load_peak_bytes
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=40_000))
    admitted = prepare(str(folder), device="cpu", reclaimable=needed - 40_000)
    assert admitted.preflight.available_bytes == needed
    with pytest.raises(PrunescopeError, match="too large for cpu"):
        prepare(str(folder), device="cpu", reclaimable=needed - 40_001)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(PrunescopeError, match="ran out of memory while"):
        load(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("name", "free", "device_map", "limits"),
    [
        ("cuda", (10**9, 10**9), {"": torch.device("cuda")}, None),
        ("cuda:1", (10**9, 10**9), {"": torch.device("cuda:1")}, None),
        ("cuda", (200_000, 10**9), "auto", {0: 170_000, 1: 850_000_000}),
    ],
)
def test_a_model_is_spread_only_where_one_gpu_can_not_hold_and_score_it(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    free: tuple[int, int],
    device_map: object,
    limits: object,
) -> None:
    for attribute, value in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: 0,
        "mem_get_info": lambda number: (free[number], 10**10),
        "memory_reserved": lambda number: 0,
        "memory_allocated": lambda number: 0,
    }.items():
        monkeypatch.setattr(torch.cuda, attribute, value)
    asked: dict[str, object] = {}

    def note(*args: object, **options: object) -> None:
        asked.update(options)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", note)
    with pytest.raises(PrunescopeError, match="ran out of memory"):
        load(str(folder), device=name, dtype="float32")
    assert asked["device_map"] == device_map
    assert asked["max_memory"] == limits


def gguf_cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def gguf_cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def gguf_of_something_else(path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html>")


def gguf_of_an_unknown_architecture(path: Path) -> None:
    data = path.read_bytes()
    name = data.index(b"llama")  # the value of general.architecture, the first entry
    path.write_bytes(data[:name] + b"lemma" + data[name + 5 :])


def gguf_without_a_tensor(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.9.ffn_up.weight"))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (gguf_cut_short, "damaged or was cut short"),
        (gguf_cut_in_the_header, "damaged or was cut short"),
        (gguf_of_something_else, "is not a GGUF file"),
        (gguf_of_an_unknown_architecture, "can't read the GGUF .*lemma"),
        (gguf_without_a_tensor, r"lacks 1 of the model's weights, among them .*1\.mlp\.up_proj"),
    ],
)
def test_a_gguf_that_can_not_be_loaded_is_told(
    tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    path = tiny.save_gguf(tmp_path / "tiny.gguf", tiny.model())
    assert gguf.GGUFReader(path).tensors
    harm(path)
    with pytest.raises(PrunescopeError, match=said):
        load(str(path))
