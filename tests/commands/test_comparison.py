"""``compare``: what it measures, where it says that estimators agree, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from pruning_core.evaluation.quality import Quality, WindowQuality
from pruning_core.importance.compare import rank_correlation
from pruning_core.importance.registry import Needs, estimator, estimators
from pruning_core.importance.store import load_map
from pruning_core.recipe import PatternKind, SiteKey
from tests.model import tiny_checkpoints as tiny

QUICK = ("--windows", "2", "--length", "16", "--protocol", "probe", "--limit", "2")
HALF = ("--sparsity", "0.5", *QUICK)
THREE = ("--estimators", "fine,magnitude,random", *HALF)

JsonOf = Callable[..., dict[str, Any]]
Command = Callable[..., tuple[int, str, str]]


def test_each_estimator_measures_what_prune_would(folder: Path, json_of: JsonOf) -> None:
    report = json_of("compare", folder, *THREE)
    assert [entry["estimator"] for entry in report["pruned"]] == ["fine", "magnitude", "random"]
    assert report["leaked"] is False
    assert report["seeds"] is None
    for entry in report["pruned"]:
        alone = json_of("prune", folder, "--estimator", entry["estimator"], *HALF)
        assert entry["digest"] == alone["digest"]
        assert entry["quality"] == alone["pruned"]["quality"]
        assert entry["sparsity_of_prunable"] == alone["pruned"]["sparsity_of_prunable"]
        assert report["dense"] == alone["dense"]
        assert report["protocol"] == alone["protocol"]
        assert {"scoring", "measuring"} <= {*entry["seconds"]}
    assert {"loading", "measuring dense"} <= {*report["seconds"]}


def test_agreement_is_told_by_layer_and_as_their_mean(
    folder: Path, tmp_path: Path, json_of: JsonOf
) -> None:
    report = json_of("compare", folder, *THREE)
    maps = []
    for name in ("fine", "random"):
        words = ("--estimator", name, *QUICK[:4], "--out", tmp_path / name)
        json_of("importance", folder, *words)
        maps.append(load_map(tmp_path / name))
    assert {*report["agreement"]} == {"attention", "mlp"}
    for kind, found in report["agreement"].items():
        assert [layer["layer"] for layer in found["layers"]] == [0, 1]
        for layer in found["layers"]:
            site = SiteKey.parse(f"{layer['layer']}.{kind}")
            assert layer["correlation"][0][2] == pytest.approx(rank_correlation(*maps, site))
        for figure in ("correlation", "overlap"):
            by_layer = [layer[figure] for layer in found["layers"]]
            for i in range(3):
                assert found[figure][i][i] == pytest.approx(1)
                for j in range(3):
                    mean = fmean(matrix[i][j] for matrix in by_layer)
                    assert found[figure][i][j] == pytest.approx(mean)
                    assert found[figure][i][j] == pytest.approx(found[figure][j][i])


def test_there_is_no_overlap_where_nothing_goes(folder: Path, json_of: JsonOf) -> None:
    report = json_of("compare", folder, "--estimators", "fine,random", "--sparsity", "0", *QUICK)
    for found in report["agreement"].values():
        assert found["overlap"] is None
        assert [layer["overlap"] for layer in found["layers"]] == [None, None]
        assert found["correlation"][0][0] == pytest.approx(1)


def test_seeds_tell_how_much_of_a_result_is_chance(folder: Path, json_of: JsonOf) -> None:
    words = ("--estimators", "magnitude,random", "--seed", "4", *HALF)
    report = json_of("compare", folder, *words, "--seeds", "3")
    once = json_of("compare", folder, *words)
    assert report["seeds"]["values"] == [4, 5, 6]
    for name in ("agreement", "dense", "calibration"):
        assert report[name] == once[name]
    for told, alone in zip(report["pruned"], once["pruned"], strict=True):
        assert told["digest"] == alone["digest"]
        assert told["quality"] == alone["quality"]
    magnitude, random = report["seeds"]["estimators"]
    assert (magnitude["estimator"], random["estimator"]) == ("magnitude", "random")
    # Magnitude looks at no text, so that no seed changes anything.
    assert magnitude["perplexity"]["deviation"] == pytest.approx(0)
    for figures in magnitude["agreement"].values():
        assert figures["correlation"] == pytest.approx(1)
        assert figures["same_fate"] == 1
    perplexity = random["perplexity"]
    last = json_of("prune", folder, "--estimator", "random", *HALF, "--seed", "6")
    assert perplexity["values"][0] == once["pruned"][1]["quality"]["perplexity"]
    assert perplexity["values"][2] == last["pruned"]["quality"]["perplexity"]
    assert perplexity["mean"] == pytest.approx(fmean(perplexity["values"]))
    assert perplexity["deviation"] == pytest.approx(stdev(perplexity["values"]))
    assert perplexity["lowest"] == min(perplexity["values"])
    assert perplexity["highest"] == max(perplexity["values"])
    assert random["agreement"]["mlp"]["same_fate"] < 1
    assert len(random["agreement"]["mlp"]["layers"]) == 2


def test_without_names_all_take_part_that_need_no_training(folder: Path, json_of: JsonOf) -> None:
    report = json_of("compare", folder, *QUICK)
    able = {e.name for e in estimators(PatternKind.STRUCTURED) if e.needs is not Needs.TRAINING}
    assert {entry["estimator"] for entry in report["pruned"]} == able
    assert "hybrid" not in able


def test_the_same_is_told_in_aligned_tables(folder: Path, tmp_path: Path, run: Command) -> None:
    told = tmp_path / "told.json"
    code, text, err = run("compare", folder, *THREE, "--seeds", "2", "--json", told)
    assert code == 0, err
    report = json.loads(told.read_text())
    for entry in (report["dense"], *report["pruned"]):
        assert f" {entry['quality']['perplexity']:.3f} " in text
    for kind in ("query heads", "MLP channels"):
        for figure in ("Rank correlation", "Overlap of what goes"):
            assert f"\n{figure}, {kind}, mean over the layers\n" in text
        assert f"\nOver these seeds: {kind}\n" in text
    for table in text.split("\n\n")[1:]:
        _title, *rows = table.strip("\n").splitlines()
        assert len({len(row) for row in rows}) == 1, table


def test_a_perplexity_that_overflows_has_no_mean(
    folder: Path, run: Command, json_of: JsonOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrecked(*_args: object) -> Quality:
        return Quality((WindowQuality(math.inf, 0, 1),))

    monkeypatch.setattr("pruning_core.pipeline.measure_windows", wrecked)
    words = ("compare", folder, "--estimators", "random", "--seeds", "2", *QUICK)
    found = json_of(*words)["seeds"]["estimators"][0]["perplexity"]
    assert found.pop("values") == [None, None]
    assert {*found.values()} == {None}
    assert "overflow" in run(*words)[1]


def test_where_no_head_can_go_only_the_channels_overlap(tmp_path: Path, run: Command) -> None:
    single = tiny.save(
        tmp_path / "single",
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=512,
    )
    code, text, err = run("compare", single, "--estimators", "fine,random", "--seeds", "2", *QUICK)
    assert code == 0, err
    assert "Rank correlation, query heads" in text
    assert "Overlap of what goes, query heads" not in text
    assert "Overlap of what goes, MLP channels" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--estimators", "fine,corse"), "Did you mean 'coarse'?"),
        (("--estimators", ""), "Unknown estimator ''"),
        (("--seeds", "0"), "--seeds is 0: it must be at least 1"),
        (("--sparsity", "1.5"), "must lie between 0 and 1"),
        (("--protocol", "wikitext"), "Did you mean 'wikitext2'?"),
        (("--seed", "-1"), "Calibration seed is -1"),
    ],
)
def test_a_bad_setting_is_refused_before_the_model_is_loaded(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("pruning_core.model.loading.load", None)
    assert said in refused("compare", "no-such-model", *words)


def test_an_estimator_that_scores_no_units_is_refused(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruning_core.model.loading.load", None)
    other = next(e.name for e in estimators() if not e.follows(PatternKind.STRUCTURED))
    said = refused("compare", "no-such-model", "--estimators", f"fine,{other}")
    assert said.startswith(f"{estimator(other).title} cannot choose what leaves")
