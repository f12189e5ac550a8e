"""The page for people who decide, through Streamlit's own test runner, on a tiny model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from app.components.present.slider import MOST, shape_for
from app.components.present.verdict import (
    faster,
    fewer,
    shares,
    sizes,
    smaller,
    verdict,
)
from app.engine import ENGINE
from app.present_figures import ORIGINAL, Tried, quality_by_smaller
from app.recent import Recent
from app.results import OnBench
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.intervals import Interval
from pruning_core.evaluation.protocol import protocol
from pruning_core.history import History
from pruning_core.planning.allocation import protect_ends, unit_places
from pruning_core.recipe import Pattern, Recipe, Scoring, SiteKey, SiteKind
from tests.app.conftest import CALIBRATION, OWNER
from tests.app.tabs import checked, close, new_tab, numbers, open_page, recipe, settle, shown

JARGON = (
    *("perplexity", "sparsity", "sparse", "nats", "ffn", "mlp", "attention", "estimator", "token"),
    *("tokens", "parameter", "parameters", "prune", "pruned", "pruning", "dense", "layer"),
    *("layers", "unit", "units", "head", "heads", "channel", "channels", "recipe", "loss"),
    *("probe", "protocol", "calibration", "gradient", "taylor", "wanda", "magnitude", "hybrid"),
    *("fusion", "weights", "logits", "corpus", "importance", "map", "score", "fine", "coarse"),
    *("structured", "unstructured", "baseline", "accuracy", "latency", "inference", "quantized"),
)
"""What people say who prune models, and nobody else."""


@pytest.fixture(autouse=True)
def _nothing_tried(history: History) -> None:
    """Keep runs of other tests out."""


@pytest.fixture(autouse=True)
def nothing_predicted(model: OnBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests have gathered."""
    monkeypatch.setattr(ENGINE._current, "sensitivities", Recent(1))


@pytest.fixture
def at(model: OnBench) -> Iterator[AppTest]:
    at = new_tab()
    yield at
    close(at)


@pytest.fixture
def page(at: AppTest) -> AppTest:
    """Open the page, and wait until the model as it came has been tried and asked."""
    return settle(settle(open_page(at, "present")))


def move(page: AppTest, percentage: int) -> AppTest:
    return checked(page.slider(key=shown(page, "smaller")).set_value(percentage).run())


def dense_recipe(model: OnBench) -> Recipe:
    return Recipe(model.ref, model.fingerprint, Scoring("fine", (), CALIBRATION))


def said(page: AppTest) -> list[str]:
    """Return all that can be read on the page without asking for help."""
    main = page.main
    texts = [word for m in main.metric for word in (m.label, m.value, m.delta)]
    for kind in ("header", "subheader", "markdown", "caption", "info", "warning", "error"):
        texts += [found.value for found in main.get(kind)]
    for kind in ("slider", "button", "text_input"):
        texts += [found.label for found in main.get(kind)]
    for chart in main.get("plotly_chart"):
        figure = json.loads(chart.proto.spec)
        texts += [figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
        texts += [word for mark in figure["data"] for word in (mark["hovertemplate"], mark["name"])]
        texts.append(chart.proto.alt)
    return texts


def jargon(texts: list[str]) -> set[str]:
    words = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    return words & {*JARGON}


def dots(page: AppTest) -> dict[str, list[tuple[float, float]]]:
    """Return the dots of the chart, rounded, by what they are called."""
    (chart,) = page.get("plotly_chart")
    return {
        trace["name"]: [
            (round(x, 6), round(y, 6)) for x, y in zip(trace["x"], trace["y"], strict=True)
        ]
        for trace in json.loads(chart.proto.spec)["data"]
    }


# What is said of numbers.


@pytest.mark.parametrize(
    ("perplexity", "words"),
    [
        (9.0, "Hardly changed"),
        (10.0, "Hardly changed"),
        (10.5, "Hardly changed"),
        (10.6, "Noticeably worse"),
        (20.0, "Noticeably worse"),
        (20.1, "Broken"),
        (math.inf, "Broken"),
        (math.nan, "Broken"),
    ],
)
def test_the_verdict_follows_the_measured_quality(perplexity: float, words: str) -> None:
    assert verdict(perplexity, 10.0).words == words


def test_a_model_that_was_broken_before_gets_no_better_verdict() -> None:
    assert verdict(math.inf, math.inf).words == "Broken"


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(1.12, "12 % faster"), (1.04, "No faster"), (0.96, "No faster"), (0.8, "20 % slower")],
)
def test_a_speed_counts_from_where_it_is_no_chance(ratio: float, words: str) -> None:
    assert faster(ratio).words == words


@pytest.mark.parametrize(
    ("before", "after", "words", "change"),
    [
        (269e6, 190e6, "269 → 190 MB", "29 % smaller"),
        (1.02e9, 0.989e9, "1.02 → 0.99 GB", "3 % smaller"),
        (269e6, 269e6, "269 MB", "no smaller"),
        (269e6, 280e6, "269 → 280 MB", "4 % larger"),
        (500, 250, "500 → 250 B", "50 % smaller"),
    ],
)
def test_sizes_share_a_unit(before: float, after: float, words: str, change: str) -> None:
    assert sizes(before, after) == words
    assert smaller(before, after).words == change


def test_shares_and_their_difference_agree_as_they_are_read() -> None:
    assert (shares(0.426, 0.284), fewer(0.426, 0.284)) == ("43 → 28 %", "15 in 100 fewer")
    assert (shares(0.284, 0.426), fewer(0.284, 0.426)) == ("28 → 43 %", "15 in 100 more")
    assert (shares(0.431, 0.428), fewer(0.431, 0.428)) == ("43 %", "as often as before")


# The chart.


def test_the_chart_marks_the_present_and_the_original() -> None:
    present, other = Tried(0.3, 0.7), Tried(0.1, 0.9)
    figure = quality_by_smaller([ORIGINAL, other, present], present)
    by_name = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert by_name == {
        "tried before": ([0.1], [0.9]),
        "Original": ([0.0], [1.0]),
        "This one": ([0.3], [0.7]),
    }
    assert figure.layout.xaxis.title.text == "Smaller →"
    assert figure.layout.yaxis.title.text == "Better ↑"


def test_the_chart_holds_every_dot() -> None:
    figure = quality_by_smaller([Tried(0.9, 1.3)], None)
    assert figure.layout.xaxis.range[1] > 0.9
    assert figure.layout.yaxis.range[1] > 1.3
    assert figure.layout.yaxis.range[0] < 0


def test_a_version_that_is_as_good_and_as_large_is_marked_all_the_same() -> None:
    names = [trace.name for trace in quality_by_smaller([ORIGINAL], ORIGINAL).data]
    assert names == ["tried before", "Original", "This one"]


# The shape behind the slider.


def test_so_much_of_the_whole_model_leaves(model: OnBench) -> None:
    shape = shape_for(model, dense_recipe(model), 0.2, None)
    plan = ENGINE.plan(dense_recipe(model).with_sparsity(shape))
    assert plan is not None
    assert plan.sparsity_of_all == pytest.approx(0.2, abs=0.01)
    assert shape[SiteKey(0, SiteKind.MLP)] == shape[SiteKey(3, SiteKind.MLP)] == 0


def test_the_slider_goes_around_locks(model: OnBench) -> None:
    locked = SiteKey(1, SiteKind.MLP)
    wanted = replace(dense_recipe(model).with_sparsity({locked: 0.25}), locks=frozenset([locked]))
    assert shape_for(model, wanted, 0.2, None)[locked] == 0.25
    assert locked not in shape_for(model, wanted, 0.0, None)


def test_a_target_out_of_reach_names_the_one_within(model: OnBench) -> None:
    places = unit_places(model.anatomy)
    removed = protect_ends(places, 1.0, 1)
    most = sum(removed[p.key] * p.size for p in places) / model.anatomy.parameters
    assert shape_for(model, dense_recipe(model), math.floor(100 * most) / 100, None)
    with pytest.raises(PrunescopeError, match=f"no more than {math.floor(100 * most)} %"):
        shape_for(model, dense_recipe(model), most + 0.02, None)


# The page.


def test_moving_the_slider_moves_the_recipe_and_the_numbers(page: AppTest, model: OnBench) -> None:
    assert numbers(page)["Verdict"].value == "The original"
    before = page.session_state["tab"].measured
    move(page, 20)
    present = recipe(page, model)
    plan = ENGINE.plan(present)
    assert plan is not None
    assert plan.sparsity_of_all == pytest.approx(0.2, abs=0.01)
    assert "→" in numbers(page)["Size"].value
    settle(page)
    measured = page.session_state["tab"].measured
    assert measured.recipe == present
    assert measured != before
    found = numbers(page)
    assert found["Size"].value == sizes(model.dense_bytes, measured.pruned.cost.bytes)
    dense, pruned = measured.dense.quality, measured.pruned.quality
    assert found["Next word right"].value == shares(dense.accuracy, pruned.accuracy)
    assert found["Verdict"].value == verdict(pruned.perplexity, dense.perplexity).words
    assert found["Speed"].value == faster(measured.speeds.times.value).words
    assert page.slider(key=shown(page, "smaller")).value == 20


def test_the_recipe_is_the_one_that_tune_shows_and_undoes(page: AppTest, model: OnBench) -> None:
    first = recipe(page, model)
    settle(move(page, 20))
    present = recipe(page, model)
    open_page(page, "tune")
    assert recipe(page, model) == present
    page.button(key="undo").click().run()
    open_page(page, "present")
    assert recipe(page, model) == first
    assert page.slider(key=shown(page, "smaller")).value == 0
    page.session_state["tab"].histories[model.fingerprint].redo()
    assert checked(page.run()).slider(key=shown(page, "smaller")).value == 20


def test_with_predictions_the_best_shape_is_taken(page: AppTest, model: OnBench) -> None:
    wanted = recipe(page, model)
    job = ENGINE.gather_sensitivity(OWNER, wanted, protocol("probe"))
    assert job.wait(240)
    assert job.error is None
    known = ENGINE.sensitivity(wanted, protocol("probe"))
    assert known is not None
    assert known.predictor is not None
    settle(move(page, 20))
    taken = recipe(page, model)
    plan = ENGINE.plan(taken)
    assert plan is not None
    assert plan.sparsity_of_all >= 0.2
    plain = wanted.with_sparsity(shape_for(model, wanted, 0.2, None))
    rival = ENGINE.plan(plain)
    assert rival is not None
    predictor = known.predictor
    assert predictor.increase(plan.reached) <= predictor.increase(rival.reached)  # type: ignore[attr-defined]
    assert numbers(page)["Verdict"].value != "…"


def test_what_cannot_be_reached_is_a_plain_sentence(page: AppTest, model: OnBench) -> None:
    settle(move(page, 10))
    before = recipe(page, model)
    move(page, MOST)
    assert recipe(page, model) == before
    assert "no more than" in page.info[0].value
    assert page.slider(key=shown(page, "smaller")).value == 10
    assert not jargon(said(page))
    settle(move(page, 20))
    assert not page.info


def test_what_was_tried_is_on_the_chart(page: AppTest) -> None:
    assert dots(page) == {"tried before": [], "Original": [(0, 1)]}
    first = dots(settle(move(page, 10)))["This one"]
    found = dots(settle(move(page, 20)))
    assert found["tried before"] == first
    (x, _) = found["This one"][0]
    assert x == pytest.approx(0.2, abs=0.01)


def test_what_was_measured_otherwise_is_not_on_the_chart(
    page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(move(page, 10))
    (run,) = [run for run in ENGINE.history.runs(ENGINE.model.fingerprint) if run.sparsity]  # type: ignore[union-attr]
    other = replace(run, id=run.id[::-1], conditions=replace(run.conditions, text="another"))
    runs = ENGINE.history.runs
    monkeypatch.setattr(ENGINE.history, "runs", lambda model: (*runs(model), other))
    settle(move(page, 20))
    assert len(dots(page)["tried before"]) == 1


def test_the_model_answers_before_and_after_by_itself(page: AppTest, model: OnBench) -> None:
    answers = page.session_state["tab"].answers
    assert answers.recipe == recipe(page, model)
    move(page, 20)
    assert any("earlier setting" in caption.value for caption in page.caption)
    settle(settle(page))
    answers = page.session_state["tab"].answers
    assert answers.recipe == recipe(page, model)
    assert answers.pruned is not None
    assert not any("earlier setting" in caption.value for caption in page.caption)
    assert [text.value[:8] for text in page.text] == [answers.prompt[:8]] * 2


def test_another_question_is_asked_at_once(page: AppTest) -> None:
    page.text_input(key=shown(page, "question")).set_value("Water is").run()
    settle(checked(page))
    assert page.session_state["tab"].answers.prompt == "Water is"


def test_answers_that_were_stopped_are_asked_for_by_hand(page: AppTest, model: OnBench) -> None:
    settle(move(page, 20))
    job = page.session_state["tab"].jobs["write"]
    job.cancel()
    settle(page)
    assert "write" not in page.session_state["tab"].jobs
    page.button(key="ask-again").click().run()
    settle(checked(page))
    assert page.session_state["tab"].answers.recipe == recipe(page, model)


def test_moving_the_slider_does_not_wait_for_answers(page: AppTest) -> None:
    settle(move(page, 20))
    job = page.session_state["tab"].jobs["write"]
    move(page, 10)
    assert job.cancelling or job.finished


def test_no_jargon(page: AppTest) -> None:
    assert not jargon(said(page))
    move(page, 20)
    assert not jargon(said(page))
    settle(page)
    assert len(said(page)) > 20
    assert not jargon(said(page))
    helps = [widget.help for widget in page.metric if widget.label != "Verdict"]
    assert not jargon(helps)


def test_single_weights_make_nothing_smaller_and_the_page_says_so(
    page: AppTest, model: OnBench
) -> None:
    history = page.session_state["tab"].histories[model.fingerprint]
    history.change(
        Recipe(
            model.ref,
            model.fingerprint,
            Scoring("magnitude", (), CALIBRATION),
            pattern=Pattern.parse("unstructured"),
        )
    )
    settle(page.run())
    settle(move(page, 20))
    assert numbers(page)["Size"].delta == "no smaller"
    assert "→" not in numbers(page)["Size"].value
    assert any("does not get smaller" in text.value for text in page.markdown)
    assert [x for x, _ in dots(page)["This one"]] == [0]
    measured = page.session_state["tab"].measured
    assert measured.recipe == recipe(page, model)
    lucky = replace(measured, speeds=replace(measured.speeds, times=Interval(9.0, 8.0, 10.0)))
    page.session_state["tab"].measured = lucky
    assert numbers(checked(page.run()))["Speed"].value == "No faster"
    assert measured.pruned.cost.parameters < 0.81 * model.anatomy.parameters
    assert not jargon(said(page))
    history.change(replace(history.present, pattern=Pattern.parse("2:4")))
    settle(checked(page.run()))
    assert page.slider(key=shown(page, "smaller")).disabled
    assert not jargon(said(page))


def test_without_a_map_there_is_one_button_to_get_ready(at: AppTest, model: OnBench) -> None:
    at.session_state["tab"].calibration = replace(CALIBRATION, windows=2)
    at.session_state["tab"].histories.clear()
    page = open_page(at, "present")
    wanted = recipe(page, model)
    assert [button.label for button in page.main.button] == ["Get ready"]
    assert not page.metric
    assert not jargon(said(page))
    page.main.button[0].click().run()
    settle(page)
    assert ENGINE.map(model.fingerprint, wanted.scoring)
    assert numbers(page)["Size"].value


def test_without_a_model_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINE, "_current", None)
    monkeypatch.setattr("app.state.autoload", lambda: None)
    assert "no model on the bench" in open_page(new_tab(), "present").info[0].value
