"""``check``: the exit code of a recipe that holds, of one that does not, and of bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning_core.commands.check import judged, read_limit
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.quality import Quality, WindowQuality
from pruning_core.model.loading import load
from pruning_core.pipeline import prune
from pruning_core.recipe import Recipe
from pruning_core.runs import Run
from tests.model import tiny_checkpoints

Command = Callable[..., tuple[int, str, str]]
JsonOf = Callable[..., dict[str, Any]]
Refused = Callable[..., str]

PRUNED = ("--estimator", "magnitude", "--sparsity", "0.5", "--windows", "2", "--length", "16")
MEASURED = ("--protocol", "probe", "--limit", "6")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with weights so large that it becomes worse by a few percent when it is pruned.

    Untrained, it predicts next to nothing: with the usual weights nothing could be told apart.
    """
    place = tmp_path_factory.mktemp("models") / "tiny"
    return tiny_checkpoints.save(place, max_position_embeddings=512, initializer_range=0.1)


@pytest.fixture
def saved(files: Path, folder: Path, json_of: JsonOf) -> Path:
    """A run of half of the tiny model, as ``prune --json`` writes it."""
    place = files / "run.json"
    if not place.exists():
        recipe = files / "recipe.json"
        run = json_of("prune", folder, *PRUNED, *MEASURED, "--save-recipe", recipe)
        place.write_text(json.dumps(run))
    return place


@pytest.fixture
def recipe(saved: Path) -> Path:
    return saved.with_name("recipe.json")


@pytest.fixture
def rise(saved: Path) -> float:
    """By how much the perplexity of the run rises."""
    run = json.loads(saved.read_text())
    found: float = run["pruned"]["quality"]["perplexity"] / run["dense"]["quality"]["perplexity"]
    assert found > 1.01
    return found - 1


@pytest.fixture
def measured(folder: Path, recipe: Path) -> Run:
    from pruning_core.evaluation.protocol import protocol

    loaded = load(str(folder), device="cpu", dtype="float32")
    return prune(loaded, Recipe.from_json(recipe.read_text()), replace(protocol("probe"), limit=6))


def with_losses(run: Run, dense: list[float], pruned: list[float]) -> Run:
    """Return a run that measured these losses, in nats per token."""
    sides = [Quality(tuple(WindowQuality(nll, 0, 10) for nll in side)) for side in (dense, pruned)]
    entry = replace(run.entries[0], quality=sides[1])
    return replace(run, dense_quality=sides[0], entries=(entry,))


# What a limit may be.


@pytest.mark.parametrize(
    ("text", "limit"),
    [("5%", 0.05), ("0.05", 0.05), (" 5 % ", 0.05), ("0", 0), ("1", 1), ("150%", 1.5)],
)
def test_a_limit_is_a_percentage_or_a_fraction(text: str, limit: float) -> None:
    assert read_limit(text) == pytest.approx(limit)


@pytest.mark.parametrize("text", ["5", "-1%", "-0.1", "nan", "inf%", "five", "%", "", "5%%"])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(PrunescopeError, match="write a percentage such as 5%"):
        read_limit(text)


# What is judged.


def test_the_rise_is_that_of_perplexity_and_its_interval_is_paired(measured: Run) -> None:
    dense = [1.0, 3.0, 2.0, 5.0]
    found = judged(with_losses(measured, dense, [nll + 0.1 for nll in dense]), 0.2)
    assert found.delta == pytest.approx(math.exp(0.1) - 1)
    assert found.interval is not None
    # The windows differ a lot, their differences not at all.
    assert found.interval.low == pytest.approx(found.interval.high)
    assert found.holds
    assert "The recipe holds: perplexity changes by +10.52%" in found.sentence


def test_it_holds_up_to_the_limit_and_no_further(measured: Run) -> None:
    run = with_losses(measured, [2.0, 2.0], [2.1, 2.1])
    rise = judged(run, 1).delta
    assert judged(run, rise).holds
    assert not judged(run, rise - 1e-9).holds
    assert "0.52 percentage points too much" in judged(run, 0.1).sentence


def test_a_recipe_that_makes_it_better_holds(measured: Run) -> None:
    assert judged(with_losses(measured, [2.0, 2.0], [1.9, 1.9]), 0).holds


def test_what_other_text_might_decide_otherwise_says_so(measured: Run) -> None:
    run = with_losses(measured, [2.0, 2.0, 2.0], [2.0, 2.1, 2.2])
    assert "lies within the interval" in judged(run, 0.1).sentence
    assert "lies within the interval" not in judged(run, 0.99).sentence


@pytest.mark.parametrize("loss", [math.inf, 800.0])
def test_a_perplexity_that_overflows_does_not_hold(measured: Run, loss: float) -> None:
    found = judged(with_losses(measured, [2.0, 2.0], [2.0, loss * 2]), 1)
    assert not found.holds
    assert "overflows" in found.sentence
    assert found.as_dict()["delta"] == {"value": None, "low": None, "high": None}


def test_there_is_no_verdict_where_there_are_no_numbers(measured: Run) -> None:
    with pytest.raises(PrunescopeError, match="pruned model returns NaN"):
        judged(with_losses(measured, [2.0], [math.nan]), 1)
    with pytest.raises(PrunescopeError, match="dense model's perplexity overflows"):
        judged(with_losses(measured, [math.inf], [2.0]), 1)


# The command.


def test_a_recipe_that_holds_exits_with_0(saved: Path, rise: float, run: Command) -> None:
    code, out, err = run("check", saved, "--max-ppl-delta", f"{100 * (rise + 0.01)}%")
    assert code == 0, err
    values = json.loads(saved.read_text())
    for side in ("dense", "pruned"):
        assert f"{values[side]['quality']['perplexity']:.3f}" in out
    assert f"{rise:+.2%}" in out
    assert f"{rise + 0.01:+.2%}" in out
    assert "The recipe holds" in out


def test_a_recipe_that_does_not_exits_with_1_and_says_by_how_much(
    saved: Path, rise: float, run: Command
) -> None:
    limit = rise / 2
    code, out, _err = run("check", saved, "--max-ppl-delta", limit)
    assert code == 1
    assert f"{100 * (rise - limit):.2f} percentage points too much" in out


def test_a_saved_run_is_measured_as_it_was(saved: Path, rise: float, json_of: JsonOf) -> None:
    found = json_of("check", saved, "--max-ppl-delta", "100%")
    before = json.loads(saved.read_text())
    assert found["run"]["protocol"] == before["protocol"]
    assert found["run"]["pruned"]["quality"] == before["pruned"]["quality"]
    assert found["holds"]
    assert found["delta"]["value"] == pytest.approx(rise)
    assert found["delta"]["low"] <= found["delta"]["value"] <= found["delta"]["high"]


def test_another_protocol_or_limit_can_be_asked_for(
    saved: Path, recipe: Path, json_of: JsonOf
) -> None:
    words = ("--max-ppl-delta", "100%")
    fewer = json_of("check", saved, *words, "--limit", 2)["run"]["protocol"]
    assert (fewer["name"], fewer["limit"]) == ("probe", 2)
    other = json_of("check", saved, *words, "--protocol", "embedded", "--limit", 1)
    assert other["run"]["protocol"]["name"] == "embedded"
    alone = json_of("check", recipe, *words, "--limit", 1)["run"]["protocol"]
    assert (alone["name"], alone["limit"]) == ("embedded", 1)


def test_json_alone_is_on_stdout_and_the_verdict_on_stderr(saved: Path, run: Command) -> None:
    code, out, err = run("check", saved, "--max-ppl-delta", 0, "--json")
    assert code == 1
    assert json.loads(out)["holds"] is False
    assert "does not hold" in err


def test_a_model_that_moved_is_named(
    saved: Path, folder: Path, tmp_path: Path, run: Command, refused: Refused
) -> None:
    values = json.loads(saved.read_text())
    values["recipe"]["model"] = str(tmp_path / "gone")
    file = tmp_path / "moved.json"
    file.write_text(json.dumps(values))
    assert str(tmp_path / "gone") in refused("check", file, "--max-ppl-delta", "100%")
    assert run("check", file, "--max-ppl-delta", "100%", "--model", folder)[0] == 0


def test_another_model_is_refused(saved: Path, tmp_path: Path, refused: Refused) -> None:
    other = tiny_checkpoints.save(tmp_path / "other", hidden_size=64, max_position_embeddings=512)
    said = refused("check", saved, "--max-ppl-delta", "5%", "--model", other)
    assert "model" in said


def test_a_window_longer_than_the_model_allows_is_refused(
    recipe: Path, tmp_path: Path, refused: Refused
) -> None:
    short = tiny_checkpoints.save(tmp_path / "short", max_position_embeddings=64)
    said = refused("check", recipe, "--max-ppl-delta", "5%", "--model", short)
    assert "longer than this model allows" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-ppl-delta", "5"), "write a percentage"),
        (("--max-ppl-delta", "5%", "--protocol", "embeded"), "Did you mean 'embedded'?"),
    ],
)
def test_bad_options_are_refused_before_the_model_is_loaded(
    saved: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr("pruning_core.model.loading.load", None)
    assert said in refused("check", saved, *words)


def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, refused: Refused) -> None:
    assert "cannot be read" in refused("check", tmp_path / "none.json", "--max-ppl-delta", "5%")
    (tmp_path / "list.json").write_text("[]")
    assert "no recipe in it" in refused("check", tmp_path / "list.json", "--max-ppl-delta", "5%")


@pytest.mark.parametrize("protocol", [None, {"limit": 2}, {"name": "probe", "limit": "two"}])
def test_a_run_that_does_not_say_how_it_was_measured_is_refused(
    saved: Path, tmp_path: Path, refused: Refused, protocol: object
) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({**json.loads(saved.read_text()), "protocol": protocol}))
    assert "does not say how it was measured" in refused("check", file, "--max-ppl-delta", "5%")


def test_the_limit_must_be_given(saved: Path, run: Command) -> None:
    code, _out, err = run("check", saved)
    assert code == 2
    assert "--max-ppl-delta" in err
