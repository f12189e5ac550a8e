"""The pages through Streamlit's own test runner, on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import words
from app.engine import ENGINE
from app.results import OnBench
from pruning_core.importance.registry import estimator
from pruning_core.recipe import STRUCTURED, Scoring, SiteKey, SiteKind
from tests.app.conftest import CALIBRATION
from tests.app.tabs import close, new_tab, open_page, recipe, settle, shown

PAGES = ("model", "importance", "fusion", "tune", "compare", "runs", "present")


@pytest.fixture
def at(model: OnBench) -> Iterator[AppTest]:
    test = new_tab()
    yield test
    close(test)


def upload(at: AppTest, content: bytes) -> None:
    at.get("file_uploader")[0].set_value(("recipe.json", content, "application/json")).run()
    assert not at.exception


@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws(at: AppTest, name: str) -> None:
    open_page(at, name)
    # Runs has neither while nothing has been saved, and says so.
    assert at.subheader or at.selectbox or at.info


def test_without_a_model_pages_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINE, "_current", None)
    monkeypatch.setattr("app.state.autoload", lambda: None)
    at = new_tab()
    for name in PAGES[1:]:
        open_page(at, name)
        assert "no model on the bench" in at.info[0].value


def model_shape(model: OnBench, tensor: str) -> tuple[int, int]:
    scoring = Scoring("fine", (), CALIBRATION)
    scores = ENGINE.map(model.fingerprint, scoring)
    assert scores is not None
    return scores.tiles[tensor].shape


def perplexity(at: AppTest) -> float:
    return at.session_state["tab"].measured.pruned.quality.perplexity


def test_a_slider_changes_the_recipe_and_the_number(at: AppTest, model: OnBench) -> None:
    settle(open_page(at, "tune"))
    dense = perplexity(at)
    assert at.metric[0].value == words.perplexity(dense)
    at.slider(key=shown(at, "site-1.mlp")).set_value(75).run()
    settle(at)
    assert recipe(at, model).at(SiteKey(1, SiteKind.MLP)) == 0.75
    pruned = perplexity(at)
    assert pruned != dense
    at.button(key="undo").click().run()
    settle(at)
    assert perplexity(at) == dense
    at.button(key="redo").click().run()
    settle(at)
    assert perplexity(at) == pruned


def test_attention_offers_reachable_steps_only(at: AppTest, model: OnBench) -> None:
    open_page(at, "tune")
    slider = at.select_slider(key=shown(at, "site-0.attention"))
    ladder = model.anatomy.by_key[SiteKey(0, SiteKind.ATTENTION)].ladder
    assert len(slider.options) == len(ladder)


def test_a_locked_site_stays_through_presets(at: AppTest, model: OnBench) -> None:
    open_page(at, "tune")
    at.button(key="lock-2.mlp").click().run()
    at.slider(key=shown(at, "master")).set_value(30).run()
    at.button(key="preset-uniform").click().run()
    present = recipe(at, model)
    assert present.at(SiteKey(2, SiteKind.MLP)) == 0.0
    assert present.at(SiteKey(1, SiteKind.MLP)) > 0.0
    assert at.slider(key=shown(at, "site-2.mlp")).disabled


def test_the_recipe_survives_a_change_of_page(at: AppTest, model: OnBench) -> None:
    open_page(at, "tune")
    at.slider(key=shown(at, "site-3.mlp")).set_value(40).run()
    before = recipe(at, model)
    open_page(at, "model")
    open_page(at, "tune")
    assert recipe(at, model) == before
    assert (
        at.slider(key=shown(at, "site-3.mlp")).value == 41
    )  # 26 of 64 channels is what 40 % snaps to


def test_a_widget_that_must_show_another_value_is_another_widget(
    at: AppTest, model: OnBench
) -> None:
    """What the browser still says of the old one then moves nothing."""
    open_page(at, "tune")
    master, site = shown(at, "master"), shown(at, "site-0.mlp")
    at.slider(key=site).set_value(75).run()
    assert shown(at, "site-0.mlp") == site
    assert shown(at, "master") != master
    before = recipe(at, model)
    at.session_state[master] = 0
    at.run()
    assert recipe(at, model) == before
    at.button(key="undo").click().run()
    assert shown(at, "site-0.mlp") != site
    assert at.slider(key=shown(at, "site-0.mlp")).value == 0


def test_a_recipe_comes_back_from_its_file(at: AppTest, model: OnBench) -> None:
    open_page(at, "tune")
    at.slider(key=shown(at, "site-0.mlp")).set_value(50).run()
    saved = recipe(at, model)
    at.button(key="preset-dense").click().run()
    upload(at, saved.to_json().encode())
    assert recipe(at, model) == saved
    assert at.slider(key=shown(at, "site-0.mlp")).value == 50


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b'{"format": "prunescope-recipe/1"}'])
def test_a_file_that_is_no_recipe_is_told_and_changes_nothing(
    at: AppTest, model: OnBench, content: bytes
) -> None:
    open_page(at, "tune")
    before = recipe(at, model)
    upload(at, content)
    assert "recipe" in at.error[0].value
    assert recipe(at, model) == before


def test_the_settings_of_an_estimator_change_what_ranks(at: AppTest, model: OnBench) -> None:
    open_page(at, "tune")
    at.selectbox(key=shown(at, "ranked-by")).set_value("magnitude").run()
    at.selectbox(key=shown(at, "setting-magnitude-norm")).set_value("l1").run()
    assert not at.exception
    assert recipe(at, model).scoring.params == (("norm", "l1"),)
    assert any(button.label == "Score Magnitude" for button in at.button)


def test_protecting_the_ends_keeps_them_dense(at: AppTest, model: OnBench) -> None:
    open_page(at, "tune")
    at.slider(key=shown(at, "master")).set_value(20).run()
    at.button(key="preset-ends").click().run()
    present = recipe(at, model)
    assert present.at(SiteKey(0, SiteKind.MLP)) == 0.0
    assert present.at(SiteKey(3, SiteKind.MLP)) == 0.0


def test_two_tabs_have_their_own_recipes(at: AppTest, model: OnBench) -> None:
    other = new_tab()
    open_page(at, "tune")
    open_page(other, "tune")
    at.slider(key=shown(at, "site-0.mlp")).set_value(50).run()
    other.run()
    assert other.slider(key=shown(other, "site-0.mlp")).value == 0


def test_a_failed_job_is_a_sentence_and_the_page_goes_on(at: AppTest, tmp_path: Path) -> None:
    open_page(at, "model")
    at.segmented_control[0].set_value("Folder").run()
    at.text_input[0].set_value(str(tmp_path)).run()
    next(b for b in at.button if b.label == "Load").click().run()
    settle(at)
    settle(at)
    assert any("config.json" in error.value for error in at.error)
    assert ENGINE.model is not None


def test_one_matrix_opens_down_to_single_weights(at: AppTest, model: OnBench) -> None:
    open_page(at, "importance")
    next(b for b in at.button if b.label == "Zoom to single weights").click().run()
    settle(at)
    (top,) = [n for n in at.number_input if n.label.startswith("First output, of")]
    tensor = top.key.removeprefix("top-")
    scores = ENGINE.closeup(model.fingerprint, CALIBRATION, tensor)
    assert scores is not None
    assert scores.shape == model_shape(model, tensor)
    assert "single weights by the fine-grained score" in " ".join(c.value for c in at.caption)


def test_learning_the_fusion_shows_its_curve(at: AppTest) -> None:
    open_page(at, "fusion")
    for name, value in (("steps", 3), ("batch", 1), ("windows", 3)):
        at.number_input(key=shown(at, f"setting-hybrid-{name}")).set_value(value).run()
    next(b for b in at.button if b.label == "Learn the fusion").click().run()
    settle(at)
    settle(at)
    assert "3 steps" in " ".join(caption.value for caption in at.caption)
    assert len(at.get("plotly_chart")) == 3


def test_settings_stand_in_rows_that_leave_room_for_their_numbers(at: AppTest) -> None:
    open_page(at, "fusion")
    drawn = [widget.key for widget in (*at.number_input, *at.selectbox)]
    for parameter in estimator("hybrid").parameters:
        assert shown(at, f"setting-hybrid-{parameter.name}") in drawn
    assert min(column.weight for column in at.columns) >= 0.2


def test_a_blend_shows_its_shares_without_training(at: AppTest, model: OnBench) -> None:
    open_page(at, "fusion")
    next(g for g in at.get("button_group") if g.label == "Fusion").set_value("blend").run()
    button(at, "Blend").click().run()
    settle(at)
    assert ENGINE.map(model.fingerprint, Scoring("blend", (), CALIBRATION)) is not None
    # The shares, and the ranks of one layer's units; there is no curve.
    assert len(at.get("plotly_chart")) == 2


def button(at: AppTest, label: str) -> Any:
    return next((b for b in at.button if b.label == label), None)


def keep_what_is_learned(at: AppTest) -> None:
    """Wait until the job that scores has something to keep, and press the button."""
    job = at.session_state["tab"].jobs.get("score")
    assert job is not None, at.session_state["tab"].notice
    while not job.can_keep:
        assert not job.wait(0.02), "it has ended before anything could be kept"
    at.run()
    button(at, "Keep what is learned").click().run()
    settle(at)
    settle(at)


def test_a_job_that_ends_does_not_swallow_a_click(at: AppTest, model: OnBench) -> None:
    settle(open_page(at, "tune"))
    at.slider(key=shown(at, "site-0.mlp")).set_value(50).run()
    params = (("batch", 1), ("steps", 11), ("windows", 3))
    scoring = Scoring("hybrid", params, CALIBRATION)
    upload(at, replace(recipe(at, model), scoring=scoring).to_json().encode())
    for job in list(at.session_state["tab"].jobs.values()):
        assert job.wait(60)  # it has ended, and the page does not know yet
    button(at, "Score HyWIA-style hybrid").click().run()
    settle(at)
    assert ENGINE.map(model.fingerprint, scoring) is not None


def test_what_has_been_learned_so_far_can_be_kept(at: AppTest, model: OnBench) -> None:
    open_page(at, "fusion")
    for name, value in (("steps", 5000), ("batch", 1), ("windows", 3)):
        at.number_input(key=shown(at, f"setting-hybrid-{name}")).set_value(value).run()
    button(at, "Learn the fusion").click().run()
    keep_what_is_learned(at)
    stop = at.number_input(key=shown(at, "setting-hybrid-stop")).value
    assert 0 < stop < 5000
    assert f"{stop} steps. Stopped early, of 5000" in " ".join(c.value for c in at.caption)
    assert button(at, "Keep what is learned") is None
    open_page(at, "tune")
    scoring = recipe(at, model).scoring
    assert scoring.estimator == "hybrid"
    assert dict(scoring.params) == {"batch": 1, "steps": 5000, "stop": stop, "windows": 3}
    kept = ENGINE.map(model.fingerprint, scoring)
    assert kept is not None
    assert kept.fusion is not None
    assert len(kept.fusion.curve) == stop
    # Nothing stands where the whole fusion would.
    whole = tuple(p for p in scoring.params if p[0] != "stop")
    assert ENGINE.map(model.fingerprint, Scoring("hybrid", whole, CALIBRATION)) is None


def test_a_recipe_that_asked_for_more_goes_by_what_was_learned(at: AppTest, model: OnBench) -> None:
    open_page(at, "tune")
    at.slider(key=shown(at, "site-0.mlp")).set_value(50).run()
    params = (("batch", 1), ("steps", 4000), ("windows", 3))
    asked = replace(recipe(at, model), scoring=Scoring("hybrid", params, CALIBRATION))
    upload(at, asked.to_json().encode())
    button(at, "Score HyWIA-style hybrid").click().run()
    keep_what_is_learned(at)
    stop = dict(recipe(at, model).scoring.params)["stop"]
    assert 0 < stop < 4000
    assert recipe(at, model).sparsity == asked.sparsity
    assert button(at, "Score HyWIA-style hybrid") is None
    assert "hybrid" not in at.session_state["tab"].settings, "they asked for something else"


def choose(at: AppTest, pattern: str) -> None:
    at.selectbox(key=shown(at, "pattern")).set_value(pattern).run()
    assert not at.exception


def test_single_weights_leave_and_undo_returns_to_dense(at: AppTest, model: OnBench) -> None:
    settle(open_page(at, "tune"))
    dense = perplexity(at)
    choose(at, "unstructured")
    settle(at)
    assert recipe(at, model).scoring.estimator == "wanda"
    at.slider(key=shown(at, "master")).set_value(60).run()
    settle(at)
    measured = at.session_state["tab"].measured
    assert measured.sparsity == pytest.approx(0.6, abs=0.02)
    assert measured.pruned.quality.perplexity != dense
    assert measured.pruned.cost.bytes == measured.dense.cost.bytes
    for _ in range(2):
        at.button(key="undo").click().run()
        settle(at)
    assert recipe(at, model).pattern == STRUCTURED
    assert perplexity(at) == dense


def test_an_n_of_m_pattern_is_switched_on_site_by_site(at: AppTest, model: OnBench) -> None:
    open_page(at, "tune")
    choose(at, "2:4")
    settle(at)
    at.toggle(key=shown(at, "site-1.mlp")).set_value(True).run()
    settle(at)
    assert recipe(at, model).at(SiteKey(1, SiteKind.MLP)) == 0.5
    at.button(key="preset-uniform").click().run()
    settle(at)
    assert at.session_state["tab"].measured.sparsity == 0.5


def test_what_is_no_pattern_is_told_and_changes_nothing(at: AppTest, model: OnBench) -> None:
    open_page(at, "tune")
    before = recipe(at, model)
    box = at.selectbox(key=shown(at, "pattern"))
    box.options.append("3:2")  # typed in by hand
    box.set_value("3:2").run()
    settle(at)
    assert any("is not a pattern" in error.value for error in at.error)
    assert recipe(at, model) == before


def test_outliers_are_counted_before_they_are_used(at: AppTest, model: OnBench) -> None:
    settle(open_page(at, "tune"))
    at.slider(key=shown(at, "master")).set_value(30).run()
    settle(at)
    at.button(key="preset-owl").click().run()
    settle(at)
    settle(at)
    shares = dict(recipe(at, model).sparsity)
    assert len({shares[key] for key in shares if key.kind is SiteKind.MLP}) > 1
    assert at.session_state["tab"].measured.sparsity == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("repair", ["bias", "ridge:prefix=dense", "ridge"])
def test_what_stays_makes_up_for_what_leaves(at: AppTest, model: OnBench, repair: str) -> None:
    open_page(at, "tune")
    rank_by_wanda(at)
    at.slider(key=shown(at, "master")).set_value(40).run()
    settle(at)
    plain = perplexity(at)
    choose_repair(at, repair)
    assert str(recipe(at, model).repair) == repair
    assert perplexity(at) != plain
    choose_repair(at, "none")
    assert perplexity(at) == plain


def rank_by_wanda(at: AppTest) -> None:
    at.selectbox(key=shown(at, "ranked-by")).set_value("wanda-sp").run()
    for button in at.button:  # none where another test has scored it
        if button.label == "Score Wanda-sp":
            button.click().run()
    settle(at)


def choose_repair(at: AppTest, repair: str) -> None:
    control = next(g for g in at.get("button_group") if "Repair" in g.label)
    control.set_value(repair).run()
    settle(at)


def test_a_repair_follows_what_leaves(at: AppTest, model: OnBench) -> None:
    open_page(at, "tune")
    rank_by_wanda(at)
    at.slider(key=shown(at, "master")).set_value(50).run()
    settle(at)
    choose_repair(at, "ridge:prefix=dense")
    at.selectbox(key=shown(at, "pattern")).set_value("2:4").run()
    settle(at)
    assert str(recipe(at, model).repair) == "ridge"
    mended = perplexity(at)
    choose_repair(at, "none")
    assert perplexity(at) != mended
    choose_repair(at, "ridge")
    at.selectbox(key=shown(at, "pattern")).set_value("structured").run()
    settle(at)
    assert str(recipe(at, model).repair) == "ridge"


def test_instruments_are_measured_and_their_agreement_is_drawn(at: AppTest, model: OnBench) -> None:
    open_page(at, "compare")
    names = ["fine", "coarse", "magnitude", "random"]
    at.multiselect(key=shown(at, "instruments")).set_value(names).run()
    next(b for b in at.button if b.label == "Score and measure").click().run()
    settle(at)
    compared = at.session_state["tab"].compared
    assert [found.recipe.scoring.estimator for found in compared] == names
    table = at.dataframe[0].value
    assert sorted(table["perplexity"]) == list(table["perplexity"])
    dense = compared[0].dense.quality.perplexity
    assert table["over dense"].tolist() == pytest.approx((table["perplexity"] / dense).tolist())
    # Two square maps, one by layer, and for one unit the word of every instrument.
    assert len(at.get("plotly_chart")) == 3
    standings = at.dataframe[-1].value
    assert len(standings) == len(names)
    assert set(standings["verdict"]) <= {"goes", "stays"}


def test_seeds_show_the_uncertainty_of_an_instrument(at: AppTest) -> None:
    open_page(at, "compare")
    at.multiselect(key=shown(at, "instruments")).set_value(["fine", "random"]).run()
    at.number_input(key=shown(at, "compared-seeds")).set_value(2).run()
    next(b for b in at.button if b.label == "Score and measure").click().run()
    settle(at)
    assert len(at.session_state["tab"].compared) == 4
    assert "± over seeds" in at.dataframe[0].value.columns
    agreement = at.dataframe[1].value.set_index("instrument")["rank correlation with itself"]
    assert agreement["Fine-grained Taylor"] > agreement["Random"]
