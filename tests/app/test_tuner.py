"""The tuner on a tiny model: table, strokes, predictions, budgets, and the runs that come of it."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import words
from app.components.table import read_edits
from app.engine import ENGINE
from app.recent import Recent
from app.results import Measured, OnBench
from app.workplace import Workplace, without_shape
from pruning_core.evaluation.protocol import protocol
from pruning_core.evaluation.sensitivity import Sensitivity
from pruning_core.history import History, SavedRun
from pruning_core.planning.allocation import unit_places
from pruning_core.planning.curves import Curve, Curves
from pruning_core.planning.plan import UnitPlan
from pruning_core.planning.prediction import ENOUGH, Predictor
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from tests.app import tabs

ATTENTION, MLP = SiteKey(0, SiteKind.ATTENTION), SiteKey(1, SiteKind.MLP)
DENSE_LOSS = 4.85


@pytest.fixture
def workplace(model: OnBench, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Return the bench, of which nothing is known yet that predictions need."""
    current = ENGINE._current
    assert current is not None
    monkeypatch.setattr(current, "sensitivities", Recent(4))
    monkeypatch.setattr(current, "latencies", Recent(4))
    return current


@pytest.fixture
def at(workplace: Workplace, history: History) -> Iterator[AppTest]:
    """Open the tuner, the dense model measured."""
    test = tabs.settle(tabs.open_page(tabs.new_tab(), "tune"))
    yield test
    tabs.close(test)


@pytest.fixture
def learned(model: OnBench, workplace: Workplace, at: AppTest) -> Sensitivity:
    """Let predictions be known, from curves that rise with the layer and the sparsity."""
    known = Sensitivity(
        workplace.probes.windows(protocol("probe"), lambda *_: None).evaluator,
        model.anatomy,
        lambda _sparsity: pytest.fail("there is nothing left to measure"),
        unit_places(model.anatomy),
        levels=(),
        refinements=0,
        practice=0,
    )
    rise = {site.key: 0.05 * (1 + site.key.layer) for site in model.anatomy.sites}
    known.curves = Curves(
        DENSE_LOSS, {key: Curve(((0.5, slope), (1.0, 8 * slope))) for key, slope in rise.items()}
    )
    for n in range(1, ENOUGH + 1):
        known.observe({MLP: n / ENOUGH}, n / 10)
    base = without_shape(tabs.recipe(at, model))
    workplace.sensitivities[base, protocol("probe")] = known
    return known


def predictor_of(known: Sensitivity) -> Predictor:
    """Return what is predicted with now; the next measurement may teach another one."""
    assert known.predictor is not None
    return known.predictor


def predicted(predictor: Predictor, wanted: Recipe) -> float:
    """Return the perplexity that is predicted for a recipe."""
    return math.exp(predictor.dense + predictor.increase(plan_of(wanted).reached))


def plan_of(wanted: Recipe) -> UnitPlan:
    plan = ENGINE.plan(wanted)
    assert isinstance(plan, UnitPlan)
    return plan


def open_panel(at: AppTest, name: str) -> None:
    panels = next(g for g in at.get("button_group") if g.label == "Beside the mouse")
    tabs.checked(panels.set_value(name).run())


def click(at: AppTest, key: str) -> None:
    tabs.checked(at.button(key=key).click().run())


def choose(at: AppTest, name: str, value: object) -> None:
    """Set the control of a name, of whichever kind it is."""
    (control,) = (
        c
        for c in (*at.selectbox, *at.slider, *at.number_input, *at.toggle)
        if c.key == tabs.shown(at, name)
    )
    tabs.checked(control.set_value(value).run())


def said(at: AppTest) -> str:
    """Return all captions on screen."""
    return "\n".join(caption.value for caption in at.caption)


def measured(at: AppTest) -> Measured:
    found: Measured = at.session_state["tab"].measured
    return found


def labels(at: AppTest) -> set[str]:
    return {button.label for button in at.button}


# The table.


def edits(**cells: Any) -> dict[str, Any]:
    return {"edited_rows": {1: {name.replace("_", " "): value for name, value in cells.items()}}}


@pytest.fixture
def half() -> Recipe:
    """Return a recipe of layers 3 and 4, shown in this order: half of 4.mlp, locked."""
    return replace(
        Recipe("m", "f").with_sparsity({SiteKey(4, SiteKind.MLP): 0.5}),
        locks=frozenset({SiteKey(4, SiteKind.MLP)}),
    )


def test_cells_are_read_as_percent(half: Recipe) -> None:
    sparsity, toggled, refused = read_edits(edits(attention=12.5), [3, 4], half)
    assert sparsity == {SiteKey(4, SiteKind.ATTENTION): 0.125}
    assert toggled == frozenset()
    assert refused is None


def test_locks_are_flipped_where_they_differ(half: Recipe) -> None:
    same = edits(mlp_locked=True, attention_locked=True)
    assert read_edits(same, [3, 4], half)[1] == {SiteKey(4, SiteKind.ATTENTION)}
    assert read_edits(edits(mlp_locked=False), [3, 4], half)[1] == {SiteKey(4, SiteKind.MLP)}


def test_a_locked_site_keeps_its_sparsity_unless_it_is_unlocked_with_it(half: Recipe) -> None:
    sparsity, _, refused = read_edits(edits(mlp=20.0), [3, 4], half)
    assert sparsity == {}
    assert refused == "Site 4.mlp is locked and keeps its sparsity. Unlock it to change it."
    sparsity, toggled, refused = read_edits(edits(mlp=20.0, mlp_locked=False), [3, 4], half)
    assert sparsity == {SiteKey(4, SiteKind.MLP): 0.2}
    assert toggled == {SiteKey(4, SiteKind.MLP)}
    assert refused is None


@pytest.mark.parametrize("cell", [140, -1, None, True, "half", math.nan, math.inf, [5]])
def test_what_is_no_percentage_is_refused_and_the_rest_is_taken(half: Recipe, cell: object) -> None:
    pasted = {"edited_rows": {"0": {"mlp": cell, "attention": 25}, "1": {"attention": 100}}}
    sparsity, _, refused = read_edits(pasted, [3, 4], half)
    assert sparsity == {
        SiteKey(3, SiteKind.ATTENTION): 0.25,
        SiteKey(4, SiteKind.ATTENTION): 1.0,
    }
    assert refused is not None
    assert f"for site 3.mlp ({cell}) is not the percentage" in refused


def test_exact_numbers_become_the_recipe_and_are_measured(at: AppTest, model: OnBench) -> None:
    dense = measured(at)
    open_panel(at, "table")
    before = at.data_editor[0].key
    tabs.type_in(at, {1: {"mlp": 30.0}, 2: {"mlp": 75.0, "attention locked": True}})
    present = tabs.recipe(at, model)
    assert dict(present.sparsity) == {MLP: 0.3, SiteKey(2, SiteKind.MLP): 0.75}
    assert present.locks == {SiteKey(2, SiteKind.ATTENTION)}
    # Another table, so that Streamlit does not lay the old edits over it; it shows what was made
    # of them: 19 of 64 channels are nearest to 30 %.
    assert at.data_editor[0].key != before
    table = at.data_editor[0].value.set_index("layer")
    assert table["mlp"].tolist() == [0, 100 * 19 / 64, 75, 0]
    assert table["mlp keeps"].tolist()[1:3] == ["45/64 channels", "16/64 channels"]
    assert table["attention locked"].tolist() == [False, False, True, False]
    tabs.settle(at)
    assert measured(at).recipe == present
    assert measured(at).pruned.quality != dense.pruned.quality


def test_what_the_table_refuses_is_told(at: AppTest, model: OnBench) -> None:
    open_panel(at, "table")
    tabs.type_in(at, {2: {"attention": 140}})
    assert "for site 2.attention (140) is not the percentage" in at.error[0].value
    assert tabs.recipe(at, model).sparsity == ()


# Strokes.


def test_a_stroke_is_previewed_and_becomes_the_recipe_when_it_ends(
    at: AppTest, model: OnBench
) -> None:
    dense = measured(at)
    editor = tabs.drag_editor(at)
    tabs.drag(at, editor, 1, {"1.mlp": 0.25}, final=False)
    assert not at.get("bidi_component"), "the numbers alone are drawn while the pointer is down"
    tabs.drag(at, editor, 2, {"1.mlp": 0.5, "2.mlp": 0.5}, final=False)
    assert tabs.recipe(at, model).sparsity == ()
    parameters = model.anatomy.parameters - 2 * 32 * (3 * 32)
    assert tabs.numbers(at)["Parameters"].value == words.count(parameters)
    assert tabs.numbers(at)["Perplexity"].value == "—"
    assert measured(at) == dense

    tabs.drag(at, editor, 3, {"1.mlp": 0.5, "2.mlp": 0.75})
    assert dict(tabs.recipe(at, model).sparsity) == {MLP: 0.5, SiteKey(2, SiteKind.MLP): 0.75}
    tabs.settle(at)
    assert measured(at).recipe == tabs.recipe(at, model)
    quality = measured(at).pruned.quality
    assert tabs.numbers(at)["Perplexity"].value == words.perplexity(quality.perplexity)
    click(at, "undo")
    assert tabs.recipe(at, model).sparsity == (), "a stroke is one step"


def test_a_stroke_locks_and_a_locked_site_does_not_move(at: AppTest, model: OnBench) -> None:
    editor = tabs.drag_editor(at)
    tabs.drag(at, editor, 1, {"1.mlp": 0.5}, {"1.mlp": True})
    tabs.drag(at, editor, 2, {"0.attention": 0.39, "1.mlp": 0.9})
    present = tabs.recipe(at, model)
    assert dict(present.sparsity) == {MLP: 0.5, ATTENTION: pytest.approx(0.4)}
    assert present.locks == {MLP}


def test_a_stroke_that_a_measurement_interrupts_is_not_lost(at: AppTest, model: OnBench) -> None:
    editor = tabs.drag_editor(at)
    tabs.drag(at, editor, 1, {"1.mlp": 0.25}, final=False)
    tabs.checked(at.run())  # the page is drawn anew in the middle of it
    assert tabs.numbers(at)["Parameters"].value == words.count(model.anatomy.parameters)
    tabs.drag(at, editor, 2, {"1.mlp": 0.5}, final=False)
    assert tabs.numbers(at)["Parameters"].value != words.count(model.anatomy.parameters)
    tabs.drag(at, editor, 3, {"1.mlp": 0.5})
    assert dict(tabs.recipe(at, model).sparsity) == {MLP: 0.5}


# Predictions.


def test_while_a_shape_is_dragged_it_is_predicted(
    at: AppTest, model: OnBench, learned: Sensitivity
) -> None:
    tabs.drag(at, tabs.drag_editor(at), 1, {"1.mlp": 0.5, "3.mlp": 0.3}, final=False)
    dragged = tabs.recipe(at, model).with_sparsity({MLP: 0.5, SiteKey(3, SiteKind.MLP): 0.3})
    number = tabs.numbers(at)["Perplexity, predicted"]
    foreseen = predicted(predictor_of(learned), dragged)
    assert number.value == f"≈ {words.perplexity(foreseen)}"
    assert number.delta == words.change(foreseen / math.exp(DENSE_LOSS) - 1)
    error = predictor_of(learned).error
    assert error is not None
    assert f"within {words.percent(error, 0)} of the measured ones" in said(at)


def test_on_release_prediction_and_measurement_stand_side_by_side(
    at: AppTest, model: OnBench, learned: Sensitivity
) -> None:
    predictor = predictor_of(learned)
    tabs.drag(at, tabs.drag_editor(at), 1, {"3.mlp": 0.75})
    present = tabs.recipe(at, model)
    tabs.settle(at)
    found = measured(at).pruned.quality.perplexity
    foreseen = predicted(predictor, present)
    assert tabs.numbers(at)["Perplexity"].value == words.perplexity(found)
    assert measured(at).predicted == pytest.approx(math.log(foreseen))
    off = words.change(foreseen / found - 1)
    assert f" · predicted {words.perplexity(foreseen)} ({off})" in said(at)
    # Whatever is measured teaches.
    assert learned.observed[-1].sparsity == plan_of(present).reached
    assert len(learned.observed) == ENOUGH + 1


def test_single_weights_are_not_predicted(
    at: AppTest, model: OnBench, learned: Sensitivity
) -> None:
    open_panel(at, "curves")
    assert at.get("plotly_chart")
    choose(at, "pattern", "unstructured")
    panels = next(g for g in at.get("button_group") if g.label == "Beside the mouse")
    assert panels.options == ["Sliders", "Exact numbers"]
    assert not at.get("plotly_chart")
    tabs.drag(at, tabs.drag_editor(at), 1, {"1.mlp": 0.5}, final=False)
    assert "Perplexity, predicted" not in tabs.numbers(at)


def test_curves_are_gathered_in_pieces_and_what_is_urgent_goes_between(
    at: AppTest, model: OnBench
) -> None:
    open_panel(at, "curves")
    assert "Nothing is known yet" in said(at)
    click(at, "gather")
    gathering = at.session_state["tab"].jobs["sensitivity"]
    tabs.drag(at, tabs.drag_editor(at), 1, {"1.mlp": 0.5})
    measuring = at.session_state["tab"].jobs["measure"]
    assert measuring.wait(60)
    assert not gathering.finished
    assert gathering.started < measuring.ended
    tabs.checked(at.run())
    assert measured(at).recipe == tabs.recipe(at, model)
    known = ENGINE.sensitivity(tabs.recipe(at, model), protocol("probe"))
    assert known is not None
    gathering.cancel()
    assert gathering.wait(60)

    # What was measured before it was stopped is kept, and gathering goes on from there.
    tabs.settle(at)
    assert 0 < known.done < known.done + known.left
    assert f"{known.done} of {known.done + known.left} measurements." in said(at)
    assert at.button(key="gather").label == "Go on learning to predict"
    before = known.done
    click(at, "gather")
    tabs.settle(at)
    assert known.left == 0
    assert before < known.done
    assert f"{known.done} of {known.done} measurements." in said(at)
    assert "recipes teach how sites add up" in said(at)
    assert "gather" not in {button.key for button in at.button}
    assert known.predictor is not None
    for curve in known.curves.sites.values():  # type: ignore[union-attr]
        assert curve.points[-1][0] == 1.0


# Budgets.


def test_without_curves_the_budget_says_what_it_needs(at: AppTest) -> None:
    open_panel(at, "budget")
    assert "Shapes are found by what each site costs" in said(at)
    assert at.button(key="gather").label == "Learn to predict"
    assert not [box for box in at.selectbox if box.label == "Budget"]


def test_the_best_shape_under_a_budget_is_used(
    at: AppTest, model: OnBench, learned: Sensitivity
) -> None:
    open_panel(at, "budget")
    choose(at, "multiple", 1)
    choose(at, "budget-share", 80)
    predictor = predictor_of(learned)
    offered = tabs.numbers(at)["Predicted perplexity"].value
    click(at, "use-shape")
    assert at.button(key="use-shape").disabled
    present = tabs.recipe(at, model)
    assert words.perplexity(predicted(predictor, present)) == offered
    whole = model.anatomy.parameters
    kept = whole - plan_of(present).removed_parameters
    assert 0.79 * whole < kept <= 0.8 * whole
    uniform = replace(present, sparsity=()).with_sparsity(
        {site.key: 0.25 for site in model.anatomy.sites}
    )
    assert plan_of(uniform).removed_parameters <= whole - kept
    assert predicted(predictor, present) < predicted(predictor, uniform)

    tabs.settle(at)
    assert measured(at).recipe == present
    assert measured(at).pruned.cost.parameters == kept
    click(at, "undo")
    assert tabs.recipe(at, model).sparsity == ()


def test_the_solver_goes_around_locks_and_limits(
    at: AppTest, model: OnBench, learned: Sensitivity
) -> None:
    locked = {"0.mlp": True, "3.attention": True}
    tabs.drag(at, tabs.drag_editor(at), 1, {"3.attention": 0.5}, locked)
    open_panel(at, "budget")
    choose(at, "multiple", 16)
    choose(at, "keep_mlp", 50)
    choose(at, "may-remove", False)
    choose(at, "budget-share", 75)
    assert "Locked sites stay as they are: 2." in said(at)
    click(at, "use-shape")
    present = tabs.recipe(at, model)
    assert present.at(SiteKey(0, SiteKind.MLP)) == 0.0
    assert present.at(SiteKey(3, SiteKind.ATTENTION)) == 0.5
    assert {str(site) for site in present.locks} == {*locked}
    plan = plan_of(present)
    widths = {key: site.width.units for key, site in plan.sites.items()}
    assert {widths[site] for site in widths if site.kind is SiteKind.MLP} <= {32, 48, 64}
    assert all(widths.values()), "no site has left"
    assert model.anatomy.parameters - plan.removed_parameters <= 0.75 * model.anatomy.parameters


def test_a_budget_that_cannot_be_met_is_a_sentence(
    at: AppTest, model: OnBench, learned: Sensitivity
) -> None:
    open_panel(at, "budget")
    choose(at, "budget-share", 10)
    assert at.warning[0].value.startswith("The budget is 4,329.6, but the least that this model")
    assert "use-shape" not in {button.key for button in at.button}


@pytest.mark.parametrize("kind", ["bytes", "operations"])
def test_bytes_and_operations_can_be_asked_for(
    at: AppTest, model: OnBench, learned: Sensitivity, kind: str
) -> None:
    open_panel(at, "budget")
    choose(at, "budget", kind)
    choose(at, "budget-share", 70)
    click(at, "use-shape")
    tabs.settle(at)
    cost, dense = measured(at).pruned.cost, measured(at).dense.cost
    assert 0.6 < getattr(cost, kind) / getattr(dense, kind) <= 0.7


def test_under_a_ceiling_on_perplexity_as_much_as_possible_leaves(
    at: AppTest, model: OnBench, learned: Sensitivity
) -> None:
    open_panel(at, "budget")
    choose(at, "budget", "perplexity")
    removed = {}
    for ceiling in (1.1, 2.0):
        predictor = predictor_of(learned)
        choose(at, "ceiling", ceiling)
        highest = ceiling * math.exp(DENSE_LOSS)
        assert f"At most {words.perplexity(highest)}" in said(at)
        click(at, "use-shape")
        tabs.settle(at)
        present = tabs.recipe(at, model)
        assert 0.9 * highest < predicted(predictor, present) <= highest
        removed[ceiling] = plan_of(present).removed_parameters
    assert 0 < removed[1.1] < removed[2.0]


def test_milliseconds_are_measured_before_they_are_budgeted(
    at: AppTest, model: OnBench, learned: Sensitivity
) -> None:
    open_panel(at, "budget")
    choose(at, "budget", "latency")
    assert "has not been measured on this device yet" in said(at)
    assert "use-shape" not in {button.key for button in at.button}
    click(at, "measure-latency")
    tabs.settle(at)
    tabs.settle(at)
    # The tiny model has not so many positions.
    assert "Choose a length of at most 53." in at.error[0].value
    choose(at, "length", 32)
    click(at, "measure-latency")
    tabs.settle(at)
    assert not at.error
    choose(at, "budget-share", 90)
    number = tabs.numbers(at)["Milliseconds / token"]
    assert number.delta.startswith("-")
    assert -100 <= float(number.delta.removesuffix(" %")) <= -10
    click(at, "use-shape")
    assert tabs.recipe(at, model).sparsity
    # Another workload has times of its own.
    choose(at, "batch", 2)
    assert "has not been measured on this device yet" in said(at)


def test_the_frontier_has_the_measured_runs_on_it(
    at: AppTest, model: OnBench, learned: Sensitivity
) -> None:
    open_panel(at, "budget")
    choose(at, "budget-share", 60)
    click(at, "use-shape")
    tabs.settle(at)
    line, runs = json.loads(at.get("plotly_chart")[0].proto.spec)["data"][:2]
    assert len(line["x"]) == 13
    sizes = dict(zip(line["x"], line["y"], strict=True))
    assert [sizes[x] for x in sorted(sizes)] == sorted(sizes.values(), reverse=True)
    assert set(runs["x"]) == {model.anatomy.parameters, measured(at).pruned.cost.parameters}


# Runs.


def runs(history: History, model: OnBench) -> list[SavedRun]:
    return list(history.runs(model.fingerprint))


def set_site(at: AppTest, site: SiteKey, value: int) -> None:
    choose(at, f"site-{site}", value)
    tabs.settle(at)


def test_every_measured_recipe_is_a_saved_run_that_came_of_the_one_before(
    at: AppTest, model: OnBench, history: History
) -> None:
    set_site(at, MLP, 50)
    set_site(at, MLP, 75)
    root, first, second = runs(history, model)
    assert [root.lineage, first.lineage, second.lineage] == [(), (root.id,), (root.id, first.id)]
    assert [run.recipe.at(MLP) for run in (root, first, second)] == [0.0, 0.5, 0.75]
    assert second.recipe == tabs.recipe(at, model)
    assert second.perplexity == measured(at).pruned.quality.perplexity
    assert measured(at).saved == second.id

    # Undo goes back to a run that is there already; what comes then is a branch of it.
    click(at, "undo")
    tabs.settle(at)
    assert len(runs(history, model)) == 3
    set_site(at, SiteKey(2, SiteKind.MLP), 25)
    *_, branch = runs(history, model)
    assert branch.lineage == (root.id, first.id)
    assert dict(branch.recipe.sparsity) == {MLP: 0.5, SiteKey(2, SiteKind.MLP): 0.25}


def test_a_run_keeps_what_was_predicted(
    at: AppTest, model: OnBench, history: History, learned: Sensitivity
) -> None:
    set_site(at, MLP, 50)
    *_, run = runs(history, model)
    assert run.predicted_loss == measured(at).predicted
    assert run.predicted_loss is not None


def test_a_full_disk_takes_no_measurement_off_the_screen(
    at: AppTest, model: OnBench, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root,) = runs(history, model)

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr("pruning_core.files.os.fsync", full)
        set_site(at, MLP, 50)
    assert measured(at).saved is None
    quality = measured(at).pruned.quality
    assert tabs.numbers(at)["Perplexity"].value == words.perplexity(quality.perplexity)
    (notice,) = [error.value for error in at.error]
    assert notice.startswith("Not all that is on screen could be saved. ")
    assert os.strerror(errno.ENOSPC) in notice
    assert runs(history, model) == [root]
    assert [path.stem for path in (history.folder / model.fingerprint).glob("*.json")] == [root.id]
    assert not [*(history.folder / model.fingerprint).glob("*.partial")]

    # With room again the next one is saved, as a child of the last that was.
    set_site(at, MLP, 75)
    assert not at.error
    _, child = runs(history, model)
    assert child.lineage == (root.id,)


def test_two_tabs_on_one_history_find_all_runs(
    at: AppTest, model: OnBench, history: History
) -> None:
    other = tabs.settle(tabs.open_page(tabs.new_tab(), "tune"))
    for share in (25, 50):
        choose(at, f"site-{MLP}", share)
        choose(other, f"site-{SiteKey(2, SiteKind.MLP)}", share)
        for tab in (at, other):
            tabs.settle(tab)
    root, *children = runs(history, model)
    assert len(children) == 4
    own = {
        key: [run for run in children if key in dict(run.recipe.sparsity)]
        for key in (MLP, SiteKey(2, SiteKind.MLP))
    }
    for first, second in own.values():
        assert (first.lineage, second.lineage) == ((root.id,), (root.id, first.id))
    found = {run.id for run in (root, *children)}
    for tab in (at, other):
        tabs.open_page(tab, "runs")
        (picker,) = [box for box in tab.selectbox if box.key == tabs.shown(tab, "picked")]
        assert len(picker.options) == len(found)
    # As does another process.
    assert {run.id for run in runs(History(history.folder), model)} == found
    tabs.close(other)
