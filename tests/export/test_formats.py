"""Every format and every family: what stock transformers loads computes what was pruned, or the
format says beforehand why it cannot hold the plan.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.export.format import Subject
from pruning_core.export.formats import FORMATS, format_named
from pruning_core.export.formats.plain import FORMAT as PLAIN
from pruning_core.recipe import SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.export.subjects import (
    FAMILIES,
    check,
    loaded,
    model_of,
    plan_of,
    ragged,
    uniform,
    with_plan,
    without,
    written,
)

NO_HEAD_WIDTH = ("bloom", "opt", "gpt2", "gpt_neox", "falcon", "baichuan")
"""Their configs know no head width but the hidden size divided by the heads."""

NO_MLP_WIDTH = ("bloom",)
OWN_LAYERS = (*NO_HEAD_WIDTH, "gemma3")
"""Their layers are not found where the shipped code of per-layer looks."""


def refusal(subject: Subject, name: str) -> str:
    found, draft = FORMATS[name].preflight(subject)
    assert draft is None
    assert not found.possible
    assert found.bytes == found.saves == 0
    assert found.reason.endswith(".")
    return found.reason


@pytest.mark.parametrize("family", FAMILIES)
def test_an_even_plan_is_a_plain_checkpoint(family: str, tmp_path: Path) -> None:
    bench = Workbench(model_of(family))
    wanted = {
        key: share
        for key, share in uniform(bench.anatomy).items()
        if not (key.kind is SiteKind.ATTENTION and family in NO_HEAD_WIDTH)
        and not (key.kind is SiteKind.MLP and family in NO_MLP_WIDTH)
    }
    subject = with_plan(bench, plan_of(bench.anatomy, wanted))
    check(subject, "plain", tmp_path / "plain")
    if wanted:
        assert FORMATS["plain"].preflight(subject)[0].saves > 0


@pytest.mark.parametrize("family", NO_HEAD_WIDTH)
def test_fewer_heads_have_no_place_in_some_configs(family: str, tmp_path: Path) -> None:
    bench = Workbench(model_of(family))
    subject = with_plan(bench, plan_of(bench.anatomy, uniform(bench.anatomy)))
    assert "attention" in refusal(subject, "plain")
    check(subject, "padded", tmp_path / "padded")


@pytest.mark.parametrize("family", [*FAMILIES, *tiny.VARIANTS])
def test_whole_layers_are_left_out_where_that_changes_nothing_else(
    family: str, tmp_path: Path
) -> None:
    bench = Workbench(model_of(family))
    gone = {key: share for key, share in without(1).items() if key in bench.anatomy.by_key}
    subject = with_plan(bench, plan_of(bench.anatomy, gone))
    reasons = {
        "bloom, residual after the norm": "residual",
        "opt, norm after the sub-layers": "norm",
        "gpt2, scaled by layer": "layer's number",
        # Not all of the layer can go.
        **dict.fromkeys(("baichuan", "baichuan, alibi", *tiny.MIXTURES), "attention sites"),
    }
    if family in reasons:
        assert reasons[family] in refusal(subject, "plain")
        check(subject, "padded", tmp_path / "padded")
    else:
        check(subject, "plain", tmp_path / "plain")
        assert loaded(tmp_path / "plain").config.get_text_config().num_hidden_layers == 2


@pytest.mark.parametrize("family", [*FAMILIES, *tiny.VARIANTS])
def test_any_plan_is_padded_or_refused_with_the_reason(family: str, tmp_path: Path) -> None:
    bench = Workbench(model_of(family))
    subject = with_plan(bench, plan_of(bench.anatomy, ragged(bench.anatomy)))
    refusal(subject, "plain")
    if family.startswith("olmo2"):
        assert "averages over all its heads" in refusal(subject, "padded")
        return
    check(subject, "padded", tmp_path / "padded")
    told = FORMATS["padded"].preflight(subject)[0]
    assert "Padding costs" in told.notes[0]


GONE = {
    SiteKey(0, SiteKind.ATTENTION): 1.0,
    SiteKey(1, SiteKind.ATTENTION): 1.0,
    SiteKey(2, SiteKind.MLP): 1.0,
}


@pytest.mark.parametrize("family", [*FAMILIES, *tiny.VARIANTS])
def test_sub_layers_that_have_gone_are_zeros_where_nothing_can_skip_them(
    family: str, tmp_path: Path
) -> None:
    bench = Workbench(model_of(family))
    wanted = {k: share for k, share in GONE.items() if k in bench.anatomy.by_key}
    subject = with_plan(bench, plan_of(bench.anatomy, wanted))
    check(subject, "padded", tmp_path / "padded")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("skips", [False, True])
def test_layers_have_widths_of_their_own(family: str, skips: bool, tmp_path: Path) -> None:
    bench = Workbench(model_of(family))
    wanted = ragged(bench.anatomy)
    if skips:
        wanted |= {key: 1.0 for key in GONE if key in bench.anatomy.by_key}
    subject = with_plan(bench, plan_of(bench.anatomy, wanted))
    reasons = {
        **dict.fromkeys(OWN_LAYERS, "choose padded"),
        **dict.fromkeys(tiny.MIXTURES, "experts"),
        "baichuan": "code of its own",
        "phi3": "one number of heads",
    }
    if family in reasons:
        assert reasons[family] in refusal(subject, "per-layer")
        return
    check(subject, "per-layer", tmp_path / "own")
    found = FORMATS["per-layer"].preflight(subject)[0]
    # Nothing is padded, but for the attention of layer 0, which keeps one head of zeros.
    assert found.bytes == 4 * subject.shelf.plan.parameters + (_one_head(subject) if skips else 0)


def _one_head(subject: Subject) -> int:
    """Return the bytes of one head of zeros, and less what skipped sites would have kept."""
    shelf = subject.shelf
    site = shelf.anatomy.by_key[SiteKey(0, SiteKind.ATTENTION)]
    return 4 * site.width(1, 1).parameters


def test_the_shipped_file_is_small_and_every_part_of_it_is_named(tmp_path: Path) -> None:
    bench = Workbench(model_of("qwen3"))
    written(
        with_plan(bench, plan_of(bench.anatomy, ragged(bench.anatomy))), "per-layer", tmp_path / "x"
    )
    text = (tmp_path / "x" / "modeling_per_layer.py").read_text()
    assert len(text.splitlines()) < 130
    assert "Qwen3ForCausalLM" in text
    assert "llama" not in text.lower()
    assert "pruning_core" not in text


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("key", [SiteKey(1, SiteKind.MLP), SiteKey(2, SiteKind.ATTENTION)], ids=str)
def test_a_skipped_sub_layer_is_never_made_up_at_random(
    family: str, key: SiteKey, tmp_path: Path
) -> None:
    bench = Workbench(model_of(family))
    subject = with_plan(bench, plan_of(bench.anatomy, {key: 1.0}))
    check(subject, "per-layer", tmp_path / "own")
    stock = type(bench.model)
    for load in (stock, __import__("transformers").AutoModelForCausalLM):
        with pytest.raises(Exception, match="per-layer attribute"):
            load.from_pretrained(tmp_path / "own", trust_remote_code=False)


def test_keys_of_more_than_ten_layers(tmp_path: Path) -> None:
    model = tiny.tiny_model("llama", num_hidden_layers=12, vocab_size=128).float()
    bench = Workbench(model)
    subject = with_plan(bench, plan_of(bench.anatomy, ragged(bench.anatomy)))
    written(subject, "per-layer", tmp_path / "own")
    again = loaded(tmp_path / "own", trust=True)
    assert [len(again.model.layers[n].mlp.down_proj.weight[0]) for n in range(12)] == [
        subject.shelf.rooms[SiteKey(n, SiteKind.MLP)].units for n in range(12)
    ]


def test_a_llama_whose_heads_do_not_divide_its_width_is_written_as_mistral(tmp_path: Path) -> None:
    model = tiny.tiny_model(
        "llama",
        vocab_size=128,
        hidden_size=32,
        num_attention_heads=8,
        num_key_value_heads=8,
        attention_bias=False,
        mlp_bias=False,
    ).float()
    bench = Workbench(model)
    wanted = {key: 0.125 for key in uniform(bench.anatomy) if key.kind is SiteKind.ATTENTION}
    subject = with_plan(bench, plan_of(bench.anatomy, wanted))
    check(subject, "plain", tmp_path / "plain")
    again = loaded(tmp_path / "plain")
    assert type(again).__name__ == "MistralForCausalLM"
    assert again.config.num_attention_heads == 7
    assert again.config.sliding_window is None


def test_an_unknown_format_is_told_the_known_ones() -> None:
    with pytest.raises(PrunescopeError, match="Did you mean 'plain'"):
        format_named("plane")
    assert list(FORMATS) == ["plain", "padded", "per-layer", "gguf", "masks"]
    assert FORMATS["plain"] is PLAIN
