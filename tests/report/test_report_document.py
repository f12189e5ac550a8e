"""The page: its numbers are the files', its charts hold what is alike, its text stays text."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.intervals import bootstrap, paired
from pruning_core.recipe import Pattern, Recipe, Scoring, SiteKey, SiteKind
from pruning_core.repair import Repair
from pruning_core.report import report_of
from tests.history.run_values import FINGERPRINT, recipe, run, task, values
from tests.report.file_values import evaluation, survey
from tests.report.pages import Part, read

ROOT = Path(__file__).parents[2]
WHEN = datetime(2026, 11, 27, 9, 5, tzinfo=UTC)


def page_of(*files: dict[str, Any], title: str | None = None) -> Part:
    return read(report_of(files, title, WHEN))


def cells(page: Part, section: str, row: str) -> list[Part]:
    found = page.section(section)
    return found.rows()[row]


class TestNumbers:
    def test_of_a_run_are_the_files(self) -> None:
        row = cells(page_of(values()), "numbers", "fine, 20 %")
        found = values()["pruned"]
        assert [number for cell in row for number in cell.numbers()] == [
            found["quality"]["perplexity"],
            25.0 / 20.0,
            found["quality"]["accuracy"],
            found["cost"]["parameters"],
            found["cost"]["bytes"],
            found["sparsity_of_prunable"],
            found["sparsity_of_linears"],
            found["sparsity_of_all"],
            found["seconds"]["scoring"],
            found["peak_memory_bytes"]["main"],
        ]
        dense = cells(page_of(values()), "numbers", "dense")
        assert [number for cell in dense for number in cell.numbers()] == [20.0, 0.4, 100, 400]

    def test_of_an_evaluation_bring_their_intervals(self) -> None:
        given = evaluation(recipe())
        row = cells(page_of(given), "numbers", "fine, 20 %")
        found = given["protocols"]["probe"]
        perplexity, ratio, accuracy, same, divergence, gone = (cell.numbers() for cell in row)
        for numbers, interval in (
            (perplexity, found["pruned"]["perplexity"]),
            (ratio, found["delta"]["perplexity_ratio"]),
            (accuracy[:3], found["pruned"]["accuracy"]),
            (accuracy[3:], found["delta"]["accuracy"]),
            (same, found["agreement"]["same_prediction"]),
            (divergence, found["agreement"]["divergence"]),
        ):
            assert numbers == [interval["value"], interval["low"], interval["high"]]
        assert gone == [0.2]
        assert "more than noise" in row[1].text

    def test_intervals_of_a_run_come_from_its_windows(self) -> None:
        losses = [3.1, 3.2, 3.3, 2.9, 3.4]
        given = values(losses=losses, perplexity=math.exp(sum(losses) / 5))
        row = cells(page_of(given), "numbers", "fine, 20 %")
        alone = bootstrap(losses, [255] * 5)
        beside = paired([3.0] * 5, losses, [255] * 5)
        assert row[0].numbers()[1:] == [math.exp(alone.low), math.exp(alone.high)]
        assert row[1].numbers() == [math.exp(e) for e in (beside.value, beside.low, beside.high)]
        assert "within noise" in row[1].text

    def test_windows_that_all_got_worse_are_more_than_noise(self) -> None:
        page = page_of(values(losses=[3.2, 3.25, 3.3, 3.22, 3.27]))
        assert "more than noise" in cells(page, "numbers", "fine, 20 %")[1].text

    def test_one_window_has_no_interval_and_no_verdict(self) -> None:
        row = cells(page_of(values(losses=[3.2])), "numbers", "fine, 20 %")
        assert row[0].numbers() == [25.0]
        assert "no interval" in row[1].text
        assert "differences" not in page_of(values(losses=[3.2])).sections()

    def test_what_overflowed_says_so(self) -> None:
        page = page_of(values(perplexity=None))
        assert cells(page, "numbers", "fine, 20 %")[0].text == "overflowed"
        assert "overflowed: the pruned model is no longer of any use" in page.text
        page = page_of(evaluation(recipe(), perplexity=None))
        assert cells(page, "numbers", "fine, 20 %")[0].text == "overflowed"

    def test_of_tasks(self) -> None:
        given = evaluation(recipe(), tasks={"boolq": task(0.4)})
        page = page_of(given)
        _, items, right, delta, chance = cells(page, "tasks", "A task: fine, 20 %")
        assert items.text == "100 of 500"
        assert right.numbers() == list(task(0.4)["pruned"]["acc"].values())
        assert delta.numbers() == [task(0.4)["delta"]["acc"][e] for e in ("value", "low", "high")]
        assert chance.numbers() == [0.25]
        assert "chance 25.00 %" in page.text

    def test_the_dense_rows_time_is_its_own(self) -> None:
        given = values()
        given["seconds"] = {"loading": 9.0, "measuring dense": 2.5, "scoring": 7.0, "planning": 1.0}
        given["pruned"]["seconds"] = {"scoring": 7.0, "planning": 1.0, "measuring": 3.5}
        page = page_of(given)
        assert cells(page, "numbers", "dense")[-2].numbers() == [2.5]
        row = cells(page, "numbers", "fine, 20 %")
        assert [cell.numbers() for cell in row[-3:-1]] == [[8.0], [3.5]]

    def test_on_a_gpu_the_peak_is_the_gpus(self) -> None:
        given = values(device="cuda:0")
        given["pruned"]["peak_memory_bytes"] = {"main": 1, "gpu": 77}
        assert cells(page_of(given), "numbers", "fine, 20 %")[-1].numbers() == [77]


class TestFiles:
    def test_the_page_carries_them_word_for_word(self) -> None:
        files = [values(losses=[3.1, 3.2]), evaluation(recipe()), survey(recipe())]
        assert page_of(*files).embedded() == files

    def test_a_saved_run_is_called_by_its_name(self) -> None:
        page = page_of(dict(run(7).values))
        assert "run 7" in page.section("numbers").rows()

    def test_recipes_beside_a_run_stand_there_too(self) -> None:
        given = values()
        other = values(recipe(estimator="coarse"), perplexity=31.0)
        beside = {**other["pruned"], "recipe": other["recipe"], "digest": other["digest"]}
        given["beside"] = [beside]
        assert cells(page_of(given), "numbers", "coarse, 20 %")[0].numbers() == [31.0]

    def test_a_survey_has_a_row_for_each_of_its_own(self) -> None:
        page = page_of(survey(recipe(), recipe(estimator="coarse"), complete=False))
        rows = page.section("numbers").rows()
        assert rows["coarse of the table, 20 %"][0].numbers() == [31.0]
        assert rows["dense"][-2].numbers() == [2.0]
        assert "What a reader must know." in page.text
        assert "was not finished when its file was read: 2 rows were measured" in page.text

    def test_one_measurement_told_twice_is_there_once_with_all_that_is_known(self) -> None:
        told = evaluation(recipe(), perplexity=25.0)
        told["protocols"]["probe"]["dense"]["accuracy"]["value"] = 0.4
        page = page_of(told, values())
        rows = page.section("numbers").rows()
        assert [*rows] == ["dense", "fine, 20 %"]
        assert rows["fine, 20 %"][0].numbers() == [25.0, 24.0, 26.0]
        assert 80.0 in [number for cell in rows["fine, 20 %"] for number in cell.numbers()]

    def test_a_size_is_known_from_another_file_of_the_same_recipe(self) -> None:
        page = page_of(evaluation(recipe(), name="other"), values())
        shown = page.section("sizes")
        assert [figure.all("h3")[0].text for figure in shown.all("figure")] == [
            "Title of other, at most 8 windows · float32 on cpu",
            "Title of probe, at most 8 windows · float32 on cpu",
        ]

    def test_recipes_of_one_name_get_their_digests(self) -> None:
        one, other = recipe(0.2), Recipe("demo", FINGERPRINT, Scoring("fine"))
        other = other.with_sparsity({SiteKey(0, SiteKind.MLP): 0.9})
        rows = page_of(values(one), values(other)).section("numbers").rows()
        assert {f"fine, 20 % ({found.digest[:6]})" for found in (one, other)} < {*rows}

    def test_the_dense_model_alone_is_a_report_too(self) -> None:
        page = page_of(evaluation(tasks={"boolq": {**task(), "pruned": {}, "delta": {}}}))
        assert page.all("h1")[0].text == "What demo measures"
        assert "words" not in page.sections()
        assert "layers" not in page.sections()
        assert len(page.section("tasks").all("svg")) == 1

    def test_what_failed_is_told(self) -> None:
        given = evaluation(recipe())
        given["protocols"]["c4"] = {"error": "The file does not exist.", "seconds": 0.1}
        given["tasks"]["piqa"] = {"error": "It broke off.", "seconds": 0.1}
        said = page_of(given).text
        assert "Not measured: c4. The file does not exist." in said
        assert "Not measured: piqa. It broke off." in said


class TestCharts:
    def test_what_was_measured_differently_never_shares_one(self) -> None:
        kinds: list[dict[str, Any]] = [
            {"protocol": "other"},
            {"limit": 9},
            {"sha256": "c" * 64},
            {"device": "cuda:0"},
            {"dtype": "bfloat16"},
        ]
        losses = [3.1, 3.2, 3.3]
        files = [
            values(recipe(0.1 * at), losses=losses, **kind) for at, kind in enumerate(kinds, 1)
        ]
        files.append(values(recipe(0.6), losses=losses))
        page = page_of(*files)
        for section in ("sizes", "differences"):
            charts = page.section(section).all("svg")
            assert len(charts) == len(files)
            for at, chart in enumerate(charts, 1):
                names = {text.text for text in chart.all("text", "name")}
                assert len(names - {"dense"}) == 1, at
        assert len(page.section("numbers").all("table")) == 2 * len(files)
        assert f"Perplexity was measured in {len(files)} ways" in page.text

    def test_windows_and_models_keep_apart_as_well(self) -> None:
        shorter, sliding, other = (values(recipe(sparsity)) for sparsity in (0.3, 0.4, 0.5))
        shorter["protocol"]["window"] = 128
        sliding["protocol"]["stride"] = 64
        other["fingerprint"] = other["recipe"]["fingerprint"] = "f" * 16
        page = page_of(values(), shorter, sliding, other)
        assert len(page.section("sizes").all("svg")) == 4
        assert "The files are of different models" in page.text

    def test_what_was_measured_alike_shares_one(self) -> None:
        page = page_of(values(recipe(0.1)), values(recipe(0.3)), values(recipe(0.5)))
        (chart,) = page.section("sizes").all("svg")
        assert len(chart.all("circle")) == 3
        assert len(chart.all("path", "dense")) == 1
        assert "cannot be compared" not in page.text

    def test_what_overflowed_is_named_under_it(self) -> None:
        page = page_of(values(recipe(0.1)), values(recipe(0.5), perplexity=None))
        (figure,) = page.section("sizes").all("figure")
        assert len(figure.all("circle")) == 1
        assert figure.all("figcaption")[0].text.endswith(
            "overflowed: fine, 20 % (" + (recipe(0.5).digest[:6] + ").")
        )

    def test_a_task_with_other_items_has_a_panel_of_its_own(self) -> None:
        files = [
            evaluation(recipe(0.1), tasks={"boolq": task(items=100)}),
            evaluation(recipe(0.3), tasks={"boolq": task(items=200)}),
            evaluation(recipe(0.5), tasks={"boolq": task(items=200)}),
        ]
        shown = page_of(*files).section("tasks")
        titles = [text.text for text in shown.all("text", "axis")]
        assert titles[:-1] == ["A task · acc · 100 of 500 items", "A task · acc · 200 of 500 items"]
        assert len(shown.all("rect", "dense-bar")) == 2
        assert len(shown.all("rect", "pruned-bar")) == 3

    def test_recipes_that_ask_for_the_same_share_their_layers(self) -> None:
        page = page_of(values(recipe()), values(recipe(estimator="coarse")), values(recipe(0.4)))
        headings = [h.text for h in page.section("layers").all("h3")]
        assert len(headings) == 2
        assert headings[0] == f"fine, 20 % ({recipe().digest[:6]}); coarse, 20 %"

    def test_metrics_that_disagree_are_told(self) -> None:
        files = [
            values(recipe(0.1), losses=[3.1, 3.12, 3.11, 3.1], tasks={"t": task(0.3)}),
            values(recipe(0.3), losses=[3.5, 3.52, 3.51, 3.5], tasks={"t": task(0.49)}),
        ]
        assert "Perplexity and a task disagree, both by more than noise" in page_of(*files).text
        assert "disagree" not in page_of(files[0]).text


class TestWords:
    def test_whole_units(self) -> None:
        said = page_of(values()).section("words").text
        assert "Whole units (attention heads and MLP channels) were taken out of demo" in said
        assert "20.00 % of what can be pruned" in said
        assert "The method fine chose which, with 16 pieces of 256 tokens of the text" in said
        assert "“embedded”" in said
        assert "What stayed was not repaired." in said
        assert "went from 20.00 to 25.00, that is × 1.250 (Title of probe" in said
        assert "Of 100 parameters 80 are left (20.00 % fewer); 400 B become 320 B." in said
        assert "Leaked" not in said

    def test_single_weights_and_repairs(self) -> None:
        base = recipe()
        for pattern, expected in (
            ("unstructured", "Single weights of demo were set to zero"),
            ("2:4", "2 of every 4 neighbouring weights of demo were set to zero"),
        ):
            of = Recipe(
                "demo",
                FINGERPRINT,
                Scoring("wanda"),
                base.sparsity,
                pattern=Pattern.parse(pattern),
                repair=Repair.parse("ridge"),
            )
            given = values(of)
            given["pruned"]["cost"]["bytes"] = 400
            said = page_of(given).section("words").text
            assert expected in said
            assert "repaired: solved again" in said
            assert "(method ridge, on 64 pieces of the same text)" in said
            assert "the size in memory stays 400 B" in said

    def test_a_leak_is_loud(self) -> None:
        page = page_of(values(leaked=True))
        assert "Leaked calibration." in page.section("words").text
        assert page.section("words").all("p", "alarm")
        assert "fine, 20 % leaked" in page.section("numbers").rows()
        (name,) = page.section("sizes").all("text", "leaked-name")
        assert name.text == "fine, 20 % (leaked)"

    def test_a_leak_of_one_of_many_stays_visible(self) -> None:
        files = [values(recipe(at / 20), leaked=at == 3) for at in range(1, 9)]
        words = page_of(*files).section("words")
        (details,) = words.all("details")
        outside = [p for p in words.all("p", "alarm") if p not in details.all("p")]
        assert len(outside) == 1
        assert len(details.all("article")) == 8
        assert "Of 7 recipes measured alike" in words.text

    def test_title_and_date(self) -> None:
        page = page_of(values(), title="To & fro")
        assert page.all("title")[0].text == page.all("h1")[0].text == "To & fro"
        assert page.all("time")[0].text == "27 November 2026, 09:05 UTC"
        assert page_of(values()).all("h1")[0].text == "What pruning does to demo"

    def test_samples_stand_side_by_side(self) -> None:
        samples = [{"prompt": "Two\nlines", "dense": " a <b>\n", "pruned": ""}]
        shown = page_of(evaluation(recipe(), samples=samples)).section("samples")
        assert [quote.text for quote in shown.all("blockquote")] == ["a <b>", "(nothing)"]
        assert "samples" in page_of({**values(), "samples": samples}).sections()
        assert "samples" not in page_of(values()).sections()

    def test_the_recipe_can_be_saved_again(self) -> None:
        (source,) = page_of(values()).section("sources").all("pre")
        assert Recipe.from_json(source.text) == recipe()

    def test_how_it_was_measured(self) -> None:
        told = page_of(values()).section("measured").text
        for expected in (
            "a" * 64,
            "embedded: somewhere",
            "8 of 256 tokens",
            "2,040",
            "python 3.11",
        ):
            assert expected in told


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&</script><!--{{7*7}}"


def hostile(value: Any, kept: set[str]) -> Any:
    """Return values in which every text that may be anything is an attack."""
    if isinstance(value, dict):
        return {name: one if name in kept else hostile(one, kept) for name, one in value.items()}
    if isinstance(value, list):
        return [hostile(one, kept) for one in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value


FIXED = {"format", "pattern", "repair", "fingerprint", "sparsity", "locks", "history"}


@pytest.mark.parametrize(
    "given",
    [
        values(losses=[3.1, 3.2, 3.3], tasks={HOSTILE: task()}),
        survey(recipe(), recipe(estimator="coarse")),
        evaluation(
            recipe(),
            tasks={HOSTILE: task()},
            samples=[{"prompt": "a", "dense": "b", "pruned": "c"}],
        ),
    ],
    ids=["run", "survey", "evaluation"],
)
def test_hostile_text_in_every_field_stays_text(given: dict[str, Any]) -> None:
    attacked = hostile(given, FIXED)
    attacked["environment"][HOSTILE] = HOSTILE
    page = report_of([attacked], HOSTILE, WHEN)
    found = read(page)
    assert [script.attributes for script in found.all("script")] == [
        {"type": "application/json", "id": "values"}
    ]
    assert not found.all("img")
    assert not any(name.startswith("on") for part in found.all("svg") for name in part.attributes)
    assert found.embedded() == [attacked]
    assert "49" not in found.all("h1")[0].text
    assert found.all("h1")[0].text == " ".join(HOSTILE.split())


def test_characters_that_turn_or_break_text_are_left_out() -> None:
    given = {**values(), "samples": [{"prompt": "a\u202eb\x00c", "dense": "\ud800d", "pruned": ""}]}
    page = report_of([given], "x\x07y")
    assert read(page).all("h1")[0].text == "xy"
    shown = read(page).section("samples")
    assert (shown.all("p")[1].text, shown.all("blockquote")[0].text) == ("abc …", "d")
    page.encode()


def test_it_asks_nothing_of_anyone() -> None:
    page = report_of([values(losses=[3.1, 3.2]), evaluation(recipe())], made=WHEN)
    styles = " ".join(style.text for style in read(page).all("style"))
    assert not re.search(r"https?:|//|url\(|@import", styles)
    for name in ("link", "img", "iframe", "object", "embed", "base", "form", "video", "audio"):
        assert not read(page).all(name)
    assert not re.search(r"\b(?:href|src|srcset|xlink:href|action)\s*=", page)


def test_it_is_the_same_for_the_same_files() -> None:
    files = [values(losses=[3.1, 3.2, 3.4])]
    assert report_of(files, made=WHEN) == report_of(json.loads(json.dumps(files)), made=WHEN)


def test_nothing_measured_is_a_sentence() -> None:
    for files in ([], [survey()], [{**evaluation(), "protocols": {}}]):
        with pytest.raises(PrunescopeError, match="nothing measured"):
            report_of(files)


def test_it_needs_no_torch() -> None:
    code = "import sys, pruning_core.report; print({'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
