"""Saved runs on the command line: listed, and taken for their recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning_core.history import History
from pruning_core.history.saved import saved_run
from tests.history.run_values import FINGERPRINT, recipe, values

Command = Callable[..., tuple[int, str, str]]
MEASURED = ("--corpus", "embedded", "--windows", "2", "--length", "32", "--limit", "2")


@pytest.fixture(autouse=True)
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    monkeypatch.setenv("PRUNESCOPE_HISTORY", str(tmp_path / "runs"))
    return History(tmp_path / "runs")


def test_runs_are_listed_with_a_star_at_the_best(history: History, run: Command) -> None:
    root = history.save(values(perplexity=25.5), name="the first")
    history.save(values(recipe(0.3), parameters=85, perplexity=None), root, name="bad\x1b idea")
    code, out, err = run("runs")
    assert (code, err) == (0, "")
    heading, columns, first, second = out.strip().split("\n")[:4]
    assert heading == f"{FINGERPRINT}  demo"
    assert columns.split()[:4] == ["name", "id", "sparsity", "parameters"]
    assert first.split()[:8] == [
        *("*", "the", "first", root.id, "20.00%", "80", "25.500", "20.000"),
    ]
    assert "probe, 8" in first
    assert second.startswith("  bad idea")
    assert "overflow" in second
    assert "\x1b" not in out


def test_programs_get_the_same_as_json(
    history: History, json_of: Callable[..., dict[str, Any]]
) -> None:
    saved = history.save(values(leaked=True), name="one")
    other = history.save(
        {**values(), "fingerprint": "f", "recipe": {**recipe().as_dict(), "fingerprint": "f"}}
    )
    found = json_of("runs")
    assert [model["fingerprint"] for model in found["models"]] == [FINGERPRINT, "f"]
    assert found == json_of("runs", "all")
    (only,) = json_of("runs", "f")["models"]
    assert [row["id"] for row in only["runs"]] == [other.id]
    (row,) = found["models"][0]["runs"]
    assert (row["id"], row["name"], row["digest"]) == (saved.id, "one", saved.digest)
    assert (row["leaked"], row["frontier"], row["limit"]) == (True, False, 8)


def test_without_runs_it_says_so(run: Command, refused: Callable[..., str]) -> None:
    code, out, _ = run("runs")
    assert code == 0
    assert "no saved runs" in out
    assert "no saved runs" in refused("runs", FINGERPRINT)


def test_an_unknown_model_is_refused(history: History, refused: Callable[..., str]) -> None:
    history.save(values())
    assert f"Did you mean {FINGERPRINT!r}" in refused("runs", FINGERPRINT[:-1])
    assert "Unknown model" in refused("runs", "../..")


def test_a_damaged_file_is_told_beside_the_list(history: History, run: Command) -> None:
    saved = history.save(values())
    path = history.folder / FINGERPRINT / "broken.json"
    path.write_text("{")
    code, out, err = run("runs")
    assert code == 0
    assert saved.id in out
    assert f"{path} is left out: It is not valid JSON" in err


def test_a_run_can_be_repeated_from_its_file(
    folder: Path, tmp_path: Path, history: History, run: Command
) -> None:
    """What prune measured is a run for the history, and its recipe comes back out of either."""
    words = ("--estimator", "magnitude", "--sparsity", "0.3")
    path = tmp_path / "run.json"
    code, _, err = run("prune", folder, *words, *MEASURED, "--json", path)
    assert code == 0, err
    first = json.loads(path.read_text())
    saved = history.save(first)
    assert saved.perplexity == first["pruned"]["quality"]["perplexity"]
    assert saved.parameters == first["parameters"]["after"]
    kept = history.folder / saved.fingerprint / f"{saved.id}.json"
    assert saved_run(json.loads(kept.read_text())) == saved
    for place in (path, kept):
        code, out, err = run("prune", folder, "--recipe", place, "--limit", "2", "--json")
        assert code == 0, err
        again = json.loads(out)
        assert again["recipe"] == first["recipe"]
        assert again["pruned"]["quality"] == first["pruned"]["quality"]
        assert history.save(again) == saved
    out_path = tmp_path / "map.safetensors"
    assert run("importance", folder, "--recipe", kept, "--out", out_path)[0] == 0


@pytest.mark.parametrize(
    "content", [{"format": "prunescope-run/1"}, {**values(), "recipe": [1]}, {"format": "x"}]
)
def test_a_run_without_a_recipe_is_refused(
    tmp_path: Path, refused: Callable[..., str], content: dict[str, Any]
) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    assert f"{path} cannot be read as a recipe" in refused("prune", "demo", "--recipe", path)
