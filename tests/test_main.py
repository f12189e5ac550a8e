"""The command line: what it prints, what it repeats, and what it says to bad input."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import psutil
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import CTRLConfig, CTRLLMHeadModel

from pruning_core.calibration import CORPORA, Split, Text, find_leak, load_text
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.protocol import PROTOCOLS, Protocol
from pruning_core.importance import store
from pruning_core.importance.registry import estimators
from pruning_core.model.loading import load
from pruning_core.pipeline import guard_recipes, prune
from pruning_core.progress import Cancelled, Tick
from pruning_core.recipe import Calibration, Recipe, Scoring, SiteKey, SiteKind
from tests.model import tiny_checkpoints as tiny

QUICK = ("--windows", "2", "--length", "16")
MEASURED = ("--protocol", "probe", "--limit", "2")


Command = Callable[..., tuple[int, str, str]]


def test_methods_name_everything_there_is(
    run: Command, json_of: Callable[..., dict[str, Any]]
) -> None:
    code, text, _ = run("methods")
    listed = json_of("methods")
    assert code == 0
    names = {
        "estimators": {e.name for e in estimators()},
        "corpora": set(CORPORA),
        "protocols": set(PROTOCOLS),
    }
    for kind, known in names.items():
        assert set(listed[kind]) == known
        assert all(name in text for name in known)
    assert "steps" in listed["estimators"]["hybrid"]["parameters"]


def test_inspect_says_what_a_model_is_made_of(
    folder: Path, run: Command, json_of: Callable[..., dict[str, Any]]
) -> None:
    report = json_of("inspect", folder)
    model = tiny.model(max_position_embeddings=512)
    assert report["parameters"] == model.num_parameters()
    assert (report["layers"], report["hidden_size"]) == (2, 32)
    inside = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    assert report["prunable_parameters"] == inside
    assert [s["site"] for s in report["sites"]] == [
        *("0.attention", "0.mlp", "1.attention", "1.mlp")
    ]
    code, text, _ = run("inspect", folder)
    assert code == 0
    assert f"{inside:,}" in text


def test_inspect_opens_no_weights(
    tmp_path: Path, folder: Path, json_of: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert json_of("inspect", tmp_path)["sites"] == json_of("inspect", folder)["sites"]


def test_importance_writes_a_map_that_can_be_read(
    folder: Path, tmp_path: Path, json_of: Callable[..., dict[str, Any]]
) -> None:
    out = tmp_path / "maps" / "fine.safetensors"
    report = json_of("importance", folder, "--estimator", "fine", *QUICK, "--out", out)
    scores = store.load_map(out)
    assert report["file"] == str(out)
    assert scores.fingerprint == report["fingerprint"] == load(str(folder)).fingerprint
    assert scores.scoring == Scoring("fine", (), Calibration("embedded", 2, 16, 0))
    assert len(scores.sites) == report["sites"] == 4
    assert all(torch.isfinite(site.units).all() for site in scores.sites.values())


def test_prune_prints_one_object_with_all_that_a_number_needs(
    folder: Path, json_of: Callable[..., dict[str, Any]]
) -> None:
    words = ("prune", folder, "--estimator", "fine", "--sparsity", "0.5", *QUICK, *MEASURED)
    report = json_of(*words)
    assert report["model"] == str(folder)
    recipe = Recipe.from_dict(report["recipe"])
    assert recipe.digest == report["digest"]
    assert recipe.scoring.calibration == Calibration("embedded", 2, 16, 0)
    assert report["protocol"]["name"] == "probe"
    assert report["protocol"]["sha256"] == load_text("embedded", Split.MEASUREMENT).sha256
    assert report["leaked"] is False
    for quality in (report["dense"]["quality"], report["pruned"]["quality"]):
        assert quality["perplexity"] > 1
        assert (quality["windows"], quality["tokens"]) == (2, 2 * 255)
    before, after = report["parameters"]["before"], report["parameters"]["after"]
    assert before == tiny.model().num_parameters()
    prunable = sum(p.numel() for name, p in tiny.model().named_parameters() if "proj" in name)
    # An MLP of 64 channels steps by 1/64, attention is coarser and the MLPs make up for it.
    assert (before - after) / prunable == pytest.approx(0.5, abs=1 / 64)
    assert report["beside"] == []
    stages = {"loading", "scoring", "planning", "applying", "measuring", "measuring dense"}
    assert {*report["seconds"]} == stages
    loaded = load(str(folder))
    assert (report["device"], f"torch.{report['dtype']}") == (str(loaded.device), str(loaded.dtype))
    assert report["peak_memory_bytes"]["main"] > 1e6
    assert report["environment"]["torch"] == torch.__version__


def numbers(report: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same whenever a recipe is repeated."""
    measured_here = ("seconds", "peak_memory_bytes")
    pruned = {name: v for name, v in report["pruned"].items() if name not in measured_here}
    kept = ("model", "recipe", "digest", "protocol", "dense", "parameters", "leaked")
    return {"pruned": pruned, **{name: report[name] for name in kept}}


def test_a_saved_recipe_repeats_the_run(
    folder: Path, tmp_path: Path, run: Command, json_of: Callable[..., dict[str, Any]]
) -> None:
    saved, told = tmp_path / "recipe.json", tmp_path / "run.json"
    words = ("--estimator", "magnitude", "--set", "norm=l1", "--sparsity", "0.3", "--seed", "7")
    code, text, _ = run("prune", folder, *words, *MEASURED, "--save-recipe", saved, "--json", told)
    assert code == 0
    first = json.loads(told.read_text())
    assert first["digest"] in text
    recipe = Recipe.from_json(saved.read_text())
    assert recipe.digest == first["digest"]
    assert recipe.scoring.params == (("norm", "l1"),)
    again = json_of("prune", folder, "--recipe", saved, *MEASURED)
    assert numbers(again) == numbers(first)


def test_a_recipe_also_says_how_importance_is_scored(
    folder: Path, tmp_path: Path, json_of: Callable[..., dict[str, Any]]
) -> None:
    saved, out = tmp_path / "recipe.json", tmp_path / "map.safetensors"
    scoring = Scoring("random", (), Calibration(seed=3))
    saved.write_text(Recipe(str(folder), load(str(folder)).fingerprint, scoring).to_json())
    json_of("importance", folder, "--recipe", saved, "--out", out)
    assert store.load_map(out).scoring == scoring


def test_a_hybrid_is_measured_beside_what_it_should_beat(
    folder: Path, run: Command, json_of: Callable[..., dict[str, Any]]
) -> None:
    few = ("--set", "steps=2", "--set", "batch=1", "--set", "windows=2")
    words = ("prune", folder, "--estimator", "hybrid", *few, *QUICK, *MEASURED)
    report = json_of(*words)
    assert report["pruned"]["estimator"] == "hybrid"
    assert report["recipe"]["scoring"]["params"] == {"batch": 1, "steps": 2, "windows": 2}
    assert [e["estimator"] for e in report["beside"]] == ["fine", "coarse", "magnitude", "random"]
    for entry in report["beside"]:
        assert entry["recipe"]["sparsity"] == report["recipe"]["sparsity"]
        assert entry["cost"] == report["pruned"]["cost"]
        assert entry["quality"]["tokens"] == report["dense"]["quality"]["tokens"]
    assert len({entry["digest"] for entry in (report, *report["beside"])}) == 5
    assert json_of(*words, "--beside", "none")["beside"] == []


def test_protected_ends_stay_dense(tmp_path: Path, json_of: Callable[..., dict[str, Any]]) -> None:
    deep = tiny.save(tmp_path / "deep", num_hidden_layers=4, max_position_embeddings=512)
    words = ("prune", deep, "--estimator", "random", "--protect-ends", "1", *MEASURED)
    assert {*json_of(*words)["recipe"]["sparsity"]} == {"1", "2"}


@pytest.mark.parametrize("ends", ["-1", "1", "99"])
def test_ends_that_leave_no_layer_are_refused(
    folder: Path, refused: Callable[..., str], ends: str
) -> None:
    said = refused("prune", folder, *RANDOM, "--protect-ends", ends)
    assert f"protect at either end is {ends}: a model of 2 layers allows 0 to 0" in said


def test_a_sparsity_that_is_missed_is_told(tmp_path: Path, run: Command) -> None:
    deep = tiny.save(tmp_path / "deep", num_hidden_layers=4, max_position_embeddings=512)
    words = ("prune", deep, *RANDOM, "--protect-ends", "1", "--sparsity")
    code, _, err = run(*words, "0.6")
    assert code == 0
    (line,) = [line for line in err.splitlines() if "asked sparsity" in line]
    assert "60.00%" in line
    assert "50.00%" in line
    code, _, err = run(*words, "0.4")
    assert code == 0
    assert "asked sparsity" not in err


def test_whether_memory_will_do_is_told_before_the_scoring(
    folder: Path, tmp_path: Path, run: Command
) -> None:
    out = ("--out", tmp_path / "map")
    for command, where in (("prune", MEASURED), ("importance", out)):
        code, _, err = run(command, folder, "--estimator", "fine", *QUICK, *where)
        assert code == 0
        told = err.index("scoring with windows of 16 tokens")
        assert told < err.index("scoring", told + 10)


def test_the_recipe_is_kept_when_the_run_fails(
    folder: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_args: object, **_options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pruning_core.pipeline.score", short)
    saved = tmp_path / "recipe.json"
    refused("prune", folder, *RANDOM, "--save-recipe", saved)
    assert Recipe.from_json(saved.read_text()).scoring.estimator == "random"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("stage", ["score", "measure_windows"])
def test_memory_that_runs_out_is_a_sentence(
    folder: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    error: Exception,
) -> None:
    def short(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(f"pruning_core.pipeline.{stage}", short)
    assert "The memory ran out. Try a smaller model" in refused("prune", folder, *RANDOM)


def test_a_defect_of_ours_keeps_its_traceback(
    folder: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("pruning_core.pipeline.score", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        run("prune", folder, *RANDOM)


@pytest.mark.parametrize("raised", [Cancelled, RuntimeError])
def test_a_prune_that_ends_early_leaves_the_model_dense(
    folder: Path, raised: type[Exception]
) -> None:
    loaded = load(str(folder), dtype="float32", device="cpu")
    ids = torch.arange(20)[None]
    logits = loaded.model(ids).logits
    mlp = SiteKey(0, SiteKind.MLP)
    recipe = Recipe(str(folder), loaded.fingerprint, Scoring("random")).with_sparsity({mlp: 0.5})
    narrow = []

    def tick(stage: str, done: int, total: int, note: str = "") -> None:
        if (stage, note) == ("measuring", "random"):
            narrow.append(loaded.model.model.layers[0].mlp.up_proj.out_features)
            raise raised

    with pytest.raises(raised):
        prune(loaded, recipe, Protocol("p", "", "embedded", 32, 2), tick=tick)
    assert narrow == [32]
    assert torch.equal(loaded.model(ids).logits, logits)


# What a person may get wrong, and what they are told.

RANDOM = ("--estimator", "random", *MEASURED)
FINE = ("--estimator", "fine", *QUICK, *MEASURED)


def prune_words(model: object, *options: object) -> tuple[object, ...]:
    return ("prune", model, *options)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sparsity", "1.5"), "must lie between 0 and 1"),
        (("--sparsity", "-0.1"), "must lie between 0 and 1"),
        (("--sparsity", "nan"), "must lie between 0 and 1"),
        (("--sparsity", "inf"), "must lie between 0 and 1"),
        (("--sparsity", "half"), "'half': it must be a number"),
        (("--estimator", "fin"), "Did you mean 'fine'?"),
        (("--protocol", "wikitext"), "Unknown protocol 'wikitext'. Did you mean 'wikitext2'?"),
        (("--beside", "fine,corse"), "Did you mean 'coarse'?"),
        (("--estimator", "hybrid", "--set", "step=2"), "Did you mean 'steps'?"),
        (("--estimator", "hybrid", "--set", "steps=0"), "must lie between 1 and 10000"),
        (("--estimator", "hybrid", "--set", "steps=2.5"), "of the kind of its default, 96"),
        (("--estimator", "hybrid", "--set", "steps=many"), "'many': it must be a number"),
        (("--estimator", "hybrid", "--set", "spread=nan"), "must lie between 0.0 and 0.5"),
        (("--estimator", "hybrid", "--set", "steps"), "write NAME=VALUE"),
        (("--estimator", "magnitude", "--set", "norm=l3"), "Unknown value of 'norm' 'l3'"),
        (("--estimator", "fine", "--set", "steps=2"), "has no parameters"),
        (("--windows", "0"), "Calibration windows is 0"),
        (("--length", "1"), "Calibration length is 1"),
        (("--seed", "-1"), "Calibration seed is -1"),
        (("--recipe", "nowhere.json"), "nowhere.json cannot be read"),
    ],
)
def test_a_bad_setting_is_refused_before_the_model_is_loaded(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("pruning_core.model.loading.load", None)
    assert said in refused("prune", "no-such-model", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*FINE, "--corpus", "embeded"), "Did you mean 'embedded'?"),
        ((*FINE, "--corpus", "file:nowhere.txt"), "'nowhere.txt' does not exist"),
        ((*FINE, "--windows", "100000"), "Lower the number or the length of the windows"),
        ((*QUICK, "--estimator", "hybrid", "--set", "ends=9"), "The setting 'ends' is 9"),
        ((*RANDOM, "--limit", "0"), "The limit of windows is 0"),
        ((*RANDOM, "--device", "cuda:99"), "cuda"),
        ((*RANDOM, "--device", "gpu"), "Unknown device 'gpu'"),
        ((*RANDOM, "--dtype", "int8"), "Unknown dtype 'int8'"),
    ],
)
def test_a_setting_that_the_model_can_not_follow_is_refused(
    folder: Path, refused: Callable[..., str], words: tuple[str, ...], said: str
) -> None:
    assert said in refused("prune", folder, *words)


@pytest.mark.parametrize("words", [(), ("prune",), ("prune", "demo", "--limit", "x"), ("prume",)])
def test_words_that_are_no_command_are_answered_with_the_usage(
    run: Command, words: tuple[str, ...]
) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert err.startswith("usage: ")


def without_config(folder: Path) -> Path:
    (folder / "config.json").unlink()
    return folder


def cut_short(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


def gguf_cut_short(folder: Path) -> Path:
    path = tiny.save_gguf(folder / "tiny.gguf", tiny.model())
    path.write_bytes(path.read_bytes()[:-100])
    return path


def another_family(folder: Path) -> Path:
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    CTRLLMHeadModel(CTRLConfig(vocab_size=tiny.VOCABULARY, **size)).save_pretrained(folder)
    return folder


def no_model(folder: Path) -> Path:
    return folder / "elsewhere"


@pytest.mark.parametrize("command", ["prune", "importance"])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (no_model, "There is no file or folder"),
        (without_config, "has no config.json"),
        (cut_short, "damaged or was cut short"),
        (gguf_cut_short, "damaged or was cut short"),
        (another_family, "'ctrl' are not supported. Supported types: "),
    ],
)
def test_a_model_that_can_not_be_pruned_is_refused(
    tmp_path: Path,
    refused: Callable[..., str],
    command: str,
    harm: Callable[[Path], Path],
    said: str,
) -> None:
    model = harm(tiny.save(tmp_path / "tiny"))
    out = tmp_path / "out"
    where = ("--out" if command == "importance" else "--json", out)
    assert said in refused(command, model, "--estimator", "random", *where)
    assert not out.exists()


@pytest.mark.parametrize("harm", [no_model, without_config, gguf_cut_short, another_family])
def test_a_model_that_can_not_be_pruned_is_not_inspected(
    tmp_path: Path, refused: Callable[..., str], harm: Callable[[Path], Path]
) -> None:
    refused("inspect", harm(tiny.save(tmp_path / "tiny")))


def test_a_hub_that_can_not_be_reached_is_told(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for command in ("prune", "inspect"):
        assert "HF_HUB_OFFLINE" in refused(command, "nobody/no-such-model")
    assert "neither a folder" in refused("inspect", "no//model@")


def test_a_model_too_large_is_refused_with_the_figures(
    folder: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=40_000))
    said = refused("prune", folder, *RANDOM, "--device", "cpu")
    assert "too large for cpu" in said
    assert "0.0 GB are free" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no text"), (" \n ", "holds no text"), ("Too short.", "and 2 windows of 16 need")],
)
def test_a_text_with_too_little_in_it_is_refused(
    folder: Path, tmp_path: Path, refused: Callable[..., str], text: str, said: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(text)
    assert said in refused("prune", folder, *FINE, "--corpus", f"file:{path}")
    words = ("--estimator", "coarse", *QUICK, "--corpus", f"file:{path}")
    assert said in refused("importance", folder, *words, "--out", tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_text_on_both_sides_is_refused_unless_allowed_and_then_marked(
    folder: Path,
    tmp_path: Path,
    run: Command,
    refused: Callable[..., str],
    json_of: Callable[..., dict[str, Any]],
) -> None:
    path = tmp_path / "leak.txt"
    # The tokenizer of the tiny model drops line ends, and with them what lies between two words.
    path.write_text(load_text("embedded", Split.MEASUREMENT).joined.replace("\n", ""))
    words = ("prune", folder, *FINE, "--corpus", f"file:{path}")
    assert "looks better than it is" in refused(*words)
    assert json_of(*words, "--allow-leak")["leaked"] is True
    code, text, _ = run(*words, "--allow-leak")
    assert code == 0
    assert "LEAK" in text
    # What looks at no text can't have seen it.
    assert json_of(*words, "--estimator", "magnitude")["leaked"] is False


def test_the_guard_looks_at_the_windows_that_are_measured(tmp_path: Path, folder: Path) -> None:
    loaded = load(str(folder), device="cpu")

    def words(start: int, stop: int) -> str:
        return " ".join(f"w{n}" for n in range(start, stop)) + " "

    shared = words(0, 100)
    (tmp_path / "calibration").write_text(words(20_000, 40_000) + shared)
    (tmp_path / "measurement").write_text(shared + words(40_000, 60_000))
    calibration = Calibration(f"file:{tmp_path}/calibration", 2, 16)
    recipe = Recipe(str(folder), loaded.fingerprint, Scoring("fine", (), calibration))
    corpus = f"file:{tmp_path}/measurement"
    probe = Protocol("probe", "", corpus, 32, 8)
    texts = [load_text(calibration.corpus, Split.CALIBRATION), load_text(corpus, Split.MEASUREMENT)]
    assert not find_leak(*texts).leaking
    with pytest.raises(PrunescopeError, match="looks better than it is"):
        prune(loaded, recipe, probe)
    assert prune(loaded, recipe, probe, allow_leak=True).leaked


def test_the_guard_reads_through_what_it_is_given() -> None:
    read: list[tuple[str, Split, Tick]] = []

    def remembered(name: str, split: Split, tick: Tick) -> Text:
        read.append((name, split, tick))
        return Text(name, split, ("nothing in common",), "", "a test")

    def tick(stage: str, done: int, total: int, note: str = "") -> None: ...

    recipes = [
        Recipe("m", "f", Scoring(name, (), Calibration("c4"))) for name in ("fine", "random")
    ]
    measured = load_text("embedded", Split.MEASUREMENT)
    assert not guard_recipes(recipes, measured, allow=False, tick=tick, read=remembered)
    assert not guard_recipes(recipes[1:], measured, allow=False, read=remembered)
    assert read == [("c4", Split.CALIBRATION, tick)]


def recipe_of(folder: Path, **changes: object) -> dict[str, Any]:
    recipe = Recipe(str(folder), load(str(folder)).fingerprint, Scoring("random"))
    return {**recipe.as_dict(), **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fingerprint": "0123456789abcdef"}, "The recipe is for another model"),
        ({"sparsity": {"2": {"mlp": 0.5}}}, "names site 2.mlp, but the model has 2 layers"),
        ({"sparsity": {"0": {"mlp": 1.5}}}, "must lie between 0 and 1"),
        ({"sparsity": {"0": {"mlp": 10**400}}}, "The sparsity of site 0.mlp"),
        ({"sparsity": {"0": {"mlp": "half"}}}, "must be a number, 0 to 1"),
        ({"sparsity": {"0": {"norm": 0.5}}}, "'0.norm' is not a site"),
        ({"sparsity": [0.5]}, "must be a JSON object"),
        ({"sparsiti": {}}, "Did you mean 'sparsity'?"),
        ({"format": "prunescope-recipe/9"}, "this version reads 'prunescope-recipe/1'"),
        ({"pattern": "2:4"}, "cannot choose what leaves under the pattern '2:4'"),
        ({"locks": 3}, "locks"),
        ({"locks": ["here"]}, "'here' is not a site"),
        ({"model": ""}, "lacks its 'model'"),
        ({"scoring": None}, "must be a JSON object"),
        ({"scoring": {"estimator": "fin"}}, "Did you mean 'fine'?"),
        ({"scoring": {"estimator": "fine", "params": {"a": 1}}}, "has no parameters"),
        ({"scoring": {"estimator": "fine", "calibration": {"corpus": 5}}}, "corpus"),
        ({"scoring": {"estimator": "fine", "calibration": {"windows": "2"}}}, "windows is '2'"),
        (
            {"scoring": {"estimator": "magnitude", "params": {"norm": ["l1"]}}},
            "of the kind of its default, 'l2'",
        ),
    ],
)
def test_a_recipe_that_can_not_be_followed_is_refused(
    folder: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    changes: dict[str, object],
    said: str,
) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe_of(folder, **changes)))
    assert said in refused("prune", folder, "--recipe", path, *MEASURED)


def test_a_recipe_for_another_model_is_refused_before_any_work(
    folder: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pruning_core.pipeline.score", None)
    monkeypatch.setattr("pruning_core.importance.scoring.score", None)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe_of(folder, fingerprint="0123456789abcdef")))
    assert "another model" in refused("prune", folder, "--recipe", path, *MEASURED)
    out = tmp_path / "map"
    assert "another model" in refused("importance", folder, "--recipe", path, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--estimator", "hybrid"),
        ("--set", "norm=l1", "--set", "steps=2"),
        ("--corpus", "embedded", "--windows", "16"),
        ("--length", "256", "--seed", "0"),
        ("--sparsity", "0.2"),
        ("--protect-ends", "0"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("command", ["prune", "importance"])
def test_what_a_recipe_decides_can_not_be_given_beside_it(
    refused: Callable[..., str],
    run: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setattr("pruning_core.model.loading.load", None)
    path = tmp_path / "recipe.json"
    path.write_text(Recipe("m", "f").to_json())
    out = ("--out", tmp_path / "map") if command == "importance" else ()
    if out and words[0] in ("--sparsity", "--protect-ends"):
        assert run(command, "m", "--recipe", path, *words, *out)[0] == 2  # no options of its
        return
    named = ", ".join(dict.fromkeys(words[::2]))
    said = refused(command, "m", "--recipe", path, *words, *out)
    assert said.startswith(f"--recipe decides what {named} would")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"not JSON", b"[]", b"null", b'{"format": "prunescope-recipe/1"', b"\xff\xfe"),
        *(b"[" * 100_000, b'{"a": ' + b"9" * 5_000 + b"}"),
    ],
    ids=range(8),
)
def test_a_file_that_is_no_recipe_is_refused(
    folder: Path, tmp_path: Path, refused: Callable[..., str], content: bytes
) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(content)
    assert "recipe" in refused("prune", folder, "--recipe", path)
    assert "cannot be read" in refused("prune", folder, "--recipe", tmp_path)


# A disk that fills up: a sentence, and nothing half-written.


def full(*_args: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_a_text(path: Path, text: str, *_args: object) -> None:
    path.write_bytes(text.encode()[: len(text) // 2])
    full()


def half_a_map(tensors: dict[str, torch.Tensor], path: Path, header: dict[str, str]) -> None:
    save_file(tensors, path, header)
    path.write_bytes(path.read_bytes()[:100])
    raise SafetensorError("I/O error: No space left on device (os error 28)")


FILLS = {
    "when text is written": (Path, "write_text", half_a_text),
    "when a map is written": (store, "save_file", half_a_map),
    "when a file is put in place": (os, "replace", full),
}


@pytest.mark.parametrize(
    ("option", "fills"),
    [
        ("--json", "when text is written"),
        ("--json", "when a file is put in place"),
        ("--save-recipe", "when text is written"),
        ("--save-recipe", "when a file is put in place"),
        ("--out", "when a map is written"),
        ("--out", "when a file is put in place"),
    ],
)
@pytest.mark.parametrize("before", ["whole", None])
def test_a_disk_that_fills_up_leaves_what_was_there(
    folder: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    fills: str,
    before: str | None,
) -> None:
    command = ("importance", folder) if option == "--out" else ("prune", folder, *MEASURED)
    path = tmp_path / "out"
    if before:
        path.write_text(before)
    monkeypatch.setattr(*FILLS[fills])
    said = refused(*command, "--estimator", "random", option, path)
    assert str(path) in said
    assert "No space left on device" in said
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if before else [])
    assert not before or path.read_bytes() == b"whole"


@pytest.mark.parametrize("option", ["--json", "--save-recipe", "--out"])
def test_a_place_that_can_not_be_written_is_told_before_the_model_is_loaded(
    folder: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
) -> None:
    command = ("importance", folder) if option == "--out" else ("prune", folder, *MEASURED)
    monkeypatch.setattr("pruning_core.model.loading.load", None)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "below", tmp_path, tmp_path / "new" / ("x" * 300)):
        assert "could not be written" in refused(*command, "--estimator", "random", option, place)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_numbers_are_printed_though_their_file_can_not_be_written(
    folder: Path, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", full)
    code, out, _ = run("prune", folder, *RANDOM, "--json", tmp_path / "run.json")
    assert code == 2
    assert "perplexity" in out
    assert "\nrandom " in out


def test_stopping_is_no_error_of_ours(
    folder: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pruning_core.model.loading.load", stop)
    code, _, err = run("prune", folder, *RANDOM)
    assert code == 130
    assert "stopped" in err
    assert "Traceback" not in err


def test_a_reader_that_has_seen_enough_is_no_error_of_ours() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "pruning_core", "methods"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 141
    assert not done.stderr
