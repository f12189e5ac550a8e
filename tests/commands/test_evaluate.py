"""``evaluate``: numbers with intervals, dense beside a recipe, what fails is told."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.model import tiny_checkpoints

Json = Callable[..., dict[str, Any]]
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small task that is whole, one whose file broke off, and a cache of our own."""
    rows = [
        {"question": f"is {number} so", "passage": f"{number} is so.", "answer": bool(number % 3)}
        for number in range(40)
    ]
    whole = tmp_path / "tasks" / "boolq" / "dev.jsonl"
    whole.parent.mkdir(parents=True)
    whole.write_text("".join(json.dumps(row) + "\n" for row in rows))
    broken = tmp_path / "tasks" / "hellaswag" / "hellaswag_val.jsonl.gz"
    broken.parent.mkdir()
    broken.write_bytes(gzip.compress(b"{}\n" * 99)[:-9])
    monkeypatch.setenv("PRUNESCOPE_DATA", str(tmp_path))
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def recipe(folder: Path, tmp_path: Path, run: Callable[..., Any]) -> Path:
    """A recipe that takes a third of the tiny model."""
    place = tmp_path / "recipe.json"
    options = ("--estimator", "magnitude", "--sparsity", "0.3", "--limit", "1")
    code, _, err = run("prune", folder, *options, "--corpus", "embedded", "--save-recipe", place)
    assert code == 0, err
    return place


def whole(interval: dict[str, float]) -> bool:
    return interval["low"] <= interval["value"] <= interval["high"]


def test_a_model_alone(folder: Path, json_of: Json) -> None:
    report = json_of("evaluate", folder, "--protocol", "embedded,embedded-sliding", "--limit", 5)
    assert report["format"] == "prunescope-evaluation-1"
    assert list(report["protocols"]) == ["embedded", "embedded-sliding"]
    plain, sliding = report["protocols"].values()
    assert (plain["windows"], plain["tokens"], plain["window"]) == (5, 5 * 511, 512)
    assert (sliding["stride"], sliding["tokens"]) == (256, 511 + 4 * 256)
    assert plain["bos"] == "once"
    assert len(plain["sha256"]) == 64
    assert whole(plain["dense"]["perplexity"])
    assert whole(plain["dense"]["accuracy"])
    assert plain["seconds"] > 0
    assert "pruned" not in plain
    assert report["recipe"] is None
    assert report["tasks"] == {}


def test_a_recipe_stands_beside_its_dense_twin(folder: Path, recipe: Path, json_of: Json) -> None:
    report = json_of(
        *("evaluate", folder, "--recipe", recipe, "--protocol", "embedded"),
        *("--tasks", "boolq", "--limit", 12),
    )
    found = report["protocols"]["embedded"]
    dense, pruned = (found[side]["perplexity"]["value"] for side in ("dense", "pruned"))
    ratio = found["delta"]["perplexity_ratio"]
    assert ratio["value"] == pytest.approx(pruned / dense)
    assert whole(ratio)
    assert ratio["beyond_noise"] == (ratio["low"] > 1 or ratio["high"] < 1)
    assert found["agreement"]["divergence"]["value"] > 0
    assert 0 < found["agreement"]["same_prediction"]["value"] < 1
    task = report["tasks"]["boolq"]
    delta = task["pruned"]["acc"]["value"] - task["dense"]["acc"]["value"]
    assert task["delta"]["acc"]["value"] == pytest.approx(delta)
    assert (task["items"], task["of"], task["chance"], task["shots"]) == (12, 40, 0.5, 0)
    assert report["digest"]
    assert report["sparsity_of_prunable"] == pytest.approx(0.3, abs=0.02)


def test_the_dense_twin_is_what_the_model_alone_measures(
    folder: Path, recipe: Path, json_of: Json
) -> None:
    words = ("evaluate", folder, "--protocol", "embedded", "--tasks", "boolq", "--limit", 6)
    alone, beside = json_of(*words), json_of(*words, "--recipe", recipe)
    for kind, name in (("protocols", "embedded"), ("tasks", "boolq")):
        assert alone[kind][name]["dense"] == beside[kind][name]["dense"]


def test_what_fails_is_told_and_the_rest_stands(
    folder: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    place = tmp_path / "report.json"
    code, out, err = run(
        *("evaluate", folder, "--tasks", "hellaswag,boolq,lambada_openai", "--limit", 4),
        *("--protocol", "wikitext2,embedded", "--json", place),
    )
    assert code == 2
    assert "Traceback" not in out + err
    assert "3 of 5 measurements failed, the others stand." in err
    report = json.loads(place.read_text())
    assert "download broke off" in report["tasks"]["hellaswag"]["error"]
    assert "does not exist" in report["tasks"]["lambada_openai"]["error"]
    assert "does not exist" in report["protocols"]["wikitext2"]["error"]
    assert whole(report["tasks"]["boolq"]["dense"]["acc"])
    assert whole(report["protocols"]["embedded"]["dense"]["perplexity"])
    assert "chance" in out


def test_a_window_longer_than_the_model_allows_is_told(tmp_path: Path, refused: Refused) -> None:
    short = tiny_checkpoints.save(tmp_path / "short")
    said = refused("evaluate", short, "--protocol", "embedded")
    assert "A window of 512 tokens is longer than this model allows: it has 64 positions" in said


def test_too_little_text_is_told(folder: Path, data: Path, refused: Refused) -> None:
    corpus = data / "wikitext2" / "wiki.test.raw"
    corpus.parent.mkdir()
    corpus.write_text("short\n")
    assert "fills no window of 128" in refused("evaluate", folder, "--protocol", "wikitext2-128")


def test_a_model_of_nan_is_told(tmp_path: Path, refused: Refused) -> None:
    place = tiny_checkpoints.save(tmp_path / "nan", max_position_embeddings=512)
    model = AutoModelForCausalLM.from_pretrained(place)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(math.nan)
    model.save_pretrained(place)
    said = refused(*("evaluate", place, "--protocol", "embedded", "--tasks", "boolq", "--limit", 2))
    assert "2 of 2 measurements failed" in said
    assert "The dense model returns NaN" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tasks", "bolq"), "Unknown task 'bolq'. Did you mean 'boolq'?"),
        (("--protocol", "embeded"), "Unknown protocol 'embeded'. Did you mean 'embedded'?"),
        (("--protocol", "none"), "There is nothing to measure"),
        (("--limit", "0"), "--limit is 0"),
        (("--sample", "1"), "--sample draws as many items as --limit says"),
        (("--scorer", "me"), "Unknown scorer 'me'"),
        (("--recipe", "nowhere.json"), "cannot be read"),
    ],
)
def test_bad_options_are_refused_before_the_model_is_loaded(
    words: tuple[str, ...], said: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("pruning_core.model.loading.load", loads)
    assert said in refused("evaluate", "demo", *words)


def test_measuring_on_calibration_text_is_refused_or_marked(
    folder: Path, tmp_path: Path, run: Callable[..., Any], refused: Refused, json_of: Json
) -> None:
    text = tmp_path / "wikitext2" / "wiki.test.raw"
    text.parent.mkdir()
    words = " ".join(f"word{number}" for number in range(900))
    text.write_text(f" {words} \n")
    place = tmp_path / "leaky.json"
    code, _, err = run(
        *("prune", folder, "--estimator", "wanda-sp", "--corpus", f"file:{text}"),
        *("--length", 32, "--windows", 4, "--protocol", "embedded", "--limit", 1),
        *("--save-recipe", place),
    )
    assert code == 0, err
    measured = ("evaluate", folder, "--recipe", place, "--protocol", "wikitext2-128")
    assert "they overlap" in refused(*measured)
    assert json_of(*measured, "--allow-leak")["protocols"]["wikitext2-128"]["leaked"]


def test_resume_uses_what_was_kept(folder: Path, json_of: Json) -> None:
    words = ("evaluate", folder, "--tasks", "boolq")
    first, again = json_of(*words), json_of(*words, "--resume")
    found, kept = first["tasks"]["boolq"], again["tasks"]["boolq"]
    assert (found["resumed_items"], kept["resumed_items"]) == (0, 40)
    assert found["dense"] == kept["dense"]


def test_lm_eval_scores_the_same(folder: Path, json_of: Json) -> None:
    words = ("evaluate", folder, "--tasks", "boolq", "--dtype", "float32")
    ours, theirs = json_of(*words), json_of(*words, "--scorer", "lm-eval")
    assert theirs["tasks"]["boolq"]["scorer"] == "lm-eval"
    assert ours["tasks"]["boolq"]["dense"] == theirs["tasks"]["boolq"]["dense"]


def test_what_is_printed(folder: Path, recipe: Path, run: Callable[..., Any]) -> None:
    code, out, _ = run(
        *("evaluate", folder, "--recipe", recipe, "--protocol", "embedded"),
        *("--tasks", "boolq", "--limit", 6, "--sample", 1),
    )
    assert code == 0
    for expected in ("KL divergence", "perplexity, times", "within noise", "chance", "seed 1"):
        assert expected in out
    assert "50.00%" in out
