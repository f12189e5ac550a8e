"""GGUF: what transformers reads computes the same; what only llama.cpp runs is read back whole."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from pruning_core.errors import PrunescopeError
from pruning_core.export.exporting import export
from pruning_core.export.format import Impossible, Subject
from pruning_core.export.formats import FORMATS
from pruning_core.export.formats.gguf_file import FILE
from pruning_core.export.gguf_vocabulary import pre_tokenizer
from pruning_core.recipe import SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.export.subjects import (
    FAMILIES,
    apart,
    carried,
    model_of,
    plan_of,
    ragged,
    uniform,
    with_plan,
    without,
)
from tests.model import tiny_checkpoints


def bench_of(layers: int = 3, dtype: torch.dtype = torch.float32) -> Workbench:
    return Workbench(tiny_checkpoints.model(num_hidden_layers=layers).to(dtype))


def written(subject: Subject, folder: Path) -> gguf.GGUFReader:
    _found, draft = FORMATS["gguf"].demand(subject)
    with subject.shelf.carrying():
        draft.write(folder, 10**9, lambda *_told: None)
    subject.shelf.bench.restore()
    return gguf.GGUFReader(folder / FILE)


def value(reader: gguf.GGUFReader, name: str) -> object:
    return reader.fields[name].contents()


@pytest.mark.parametrize("share", [0.5, None])
def test_an_even_plan_is_a_llama(share: float | None, tmp_path: Path) -> None:
    bench = bench_of()
    wanted = without(1) if share is None else uniform(bench.anatomy, share)
    subject = with_plan(bench, plan_of(bench.anatomy, wanted))
    reader = written(subject, tmp_path)
    assert value(reader, "general.architecture") == "llama"
    with torch.no_grad():
        windows = tiny.tokens()
        again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=FILE, dtype=torch.float32)
        assert apart(again(windows).logits, carried(subject)) < 1e-5
    text = "abc ab"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file=FILE)
    assert tokenizer(text)["input_ids"] == subject.tokenizer(text)["input_ids"]


def test_layers_that_differ_are_a_deci(tmp_path: Path) -> None:
    bench = bench_of(layers=6)
    wanted = {
        **ragged(bench.anatomy),
        **without(4),
        SiteKey(0, SiteKind.ATTENTION): 1.0,
        SiteKey(2, SiteKind.ATTENTION): 1.0,
        SiteKey(3, SiteKind.MLP): 1.0,
    }
    subject = with_plan(bench, plan_of(bench.anatomy, wanted))
    reader = written(subject, tmp_path)
    rooms = subject.shelf.rooms
    kept = [0, 1, 2, 3, 5]
    assert value(reader, "general.architecture") == "deci"
    assert value(reader, "deci.block_count") == 5
    groups = [rooms[SiteKey(n, SiteKind.ATTENTION)] for n in kept]
    heads = [room.units * room.heads for room in groups]
    # Attention of the first layer keeps a head of zeros, and the lost MLP 32 channels of them.
    assert value(reader, "deci.attention.head_count") == [1, *heads[1:]]
    assert heads[2] == 0
    shared = [room.units for room in groups]
    assert value(reader, "deci.attention.head_count_kv") == [1, *shared[1:]]
    widths = [rooms[SiteKey(n, SiteKind.MLP)].units for n in kept]
    assert value(reader, "deci.feed_forward_length") == [*widths[:3], 32, widths[4]]
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert not any(name.startswith("blk.2.attn") for name in tensors)
    assert not tensors["blk.0.attn_output.weight"].any()
    assert not tensors["blk.3.ffn_down.weight"].any()
    assert tensors["blk.1.ffn_down.weight"].shape == (32, widths[1])
    down = bench.dense("model.layers.5.mlp.down_proj.weight")
    stay = subject.shelf.plan.sites[SiteKey(5, SiteKind.MLP)].kept["channel"]  # type: ignore[attr-defined]
    assert np.array_equal(tensors["blk.4.ffn_down.weight"], down.detach()[:, stay].numpy())


def test_a_deci_is_proven_tensor_by_tensor(tmp_path: Path) -> None:
    bench = bench_of(dtype=torch.bfloat16)
    subject = with_plan(bench, plan_of(bench.anatomy, ragged(bench.anatomy)))
    done = export(subject, "gguf", tmp_path / "out")
    assert "byte by byte" in done.proof["read_back"]
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "out" / FILE).tensors}
    assert kinds == {"BF16", "F32"}


def test_a_deci_that_was_written_wrong_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pruning_core.export.formats import gguf_file

    bench = bench_of()
    subject = with_plan(bench, plan_of(bench.anatomy, ragged(bench.anatomy)))
    true = gguf_file.GgufFile.write

    def wrong(self: gguf_file.GgufFile, folder: Path, *rest: object) -> None:
        true(self, folder, *rest)  # type: ignore[arg-type]
        with (folder / FILE).open("rb+") as file:
            file.seek(-200, 2)
            file.write(b"\x40" * 100)

    monkeypatch.setattr(gguf_file.GgufFile, "write", wrong)
    with pytest.raises(PrunescopeError, match="not in the GGUF as it was to be written"):
        export(subject, "gguf", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", FAMILIES)
def test_other_blocks_are_refused_with_the_reason(family: str) -> None:
    bench = Workbench(model_of(family))
    subject = with_plan(bench, plan_of(bench.anatomy, ragged(bench.anatomy)))
    found, draft = FORMATS["gguf"].preflight(subject)
    assert draft is None
    said = {"llama": "biases", "mistral": "sliding window"}.get(family, "blocks like Llama's")
    assert said in found.reason


LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


def cutting(steps: object, normalizer: object = None) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE({"a": 0}, []))
    backend.pre_tokenizer = steps
    if normalizer is not None:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_llama_cpp_is_told_how_text_is_cut() -> None:
    sequence, plain = pre_tokenizers.Sequence, pre_tokenizers.ByteLevel(use_regex=False)
    llama = sequence([pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), plain])
    assert pre_tokenizer(cutting(BYTES)) == "gpt-2"
    digits = pre_tokenizers.Digits(individual_digits=True)
    assert pre_tokenizer(cutting(sequence([digits, BYTES]))) == "smollm"
    assert pre_tokenizer(cutting(llama)) == "llama-bpe"


@pytest.mark.parametrize(
    "tokenizer",
    [
        cutting(pre_tokenizers.ByteLevel(use_regex=False)),
        cutting(pre_tokenizers.Whitespace()),
        cutting(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("x"), "isolated"), BYTES])),
        cutting(BYTES, normalizers.NFC()),
    ],
)
def test_an_unknown_way_to_cut_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Impossible, match="cuts text"):
        pre_tokenizer(tokenizer)
