"""The page of saved runs through Streamlit's own test runner, on a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.components.reports import reported
from app.engine import ENGINE
from app.results import Answers, OnBench
from pruning_core.evaluation.generation import Generated
from pruning_core.history import History, SavedRun
from pruning_core.recipe import Recipe, Scoring, SiteKey, SiteKind
from pruning_core.recipe_link import decode
from pruning_core.report import report_of
from tests.app.conftest import CALIBRATION
from tests.history.run_values import task, values

PAGE = Path(__file__).parents[2] / "app" / "views" / "runs.py"


def recipe(model: OnBench, share: float, layer: int = 1) -> Recipe:
    scoring = Scoring("fine", (), CALIBRATION)
    sparsity = {SiteKey(layer, SiteKind.MLP): share}
    return Recipe(model.ref, model.fingerprint, scoring).with_sparsity(sparsity)


@pytest.fixture
def family(model: OnBench, history: History) -> tuple[SavedRun, SavedRun, SavedRun]:
    """Save a run, a child of it, and a run of its own that was measured otherwise."""
    root = history.save(values(recipe(model, 0.25), perplexity=22.0, parameters=90), name="root")
    child = history.save(
        values(recipe(model, 0.5), perplexity=30.0, parameters=70), root, predicted=3.4
    )
    other = history.save(values(recipe(model, 0.5, 2), protocol="embedded", limit=None), name="far")
    return root, child, other


def open_page() -> AppTest:
    at = AppTest.from_file(PAGE, default_timeout=60).run()
    assert not at.exception
    return at


def tab(at: AppTest) -> Any:
    return at.session_state["tab"]


def shown(at: AppTest, name: str) -> str:
    return f"{name}#{tab(at).revisions[name]}"


def pick(at: AppTest, run: SavedRun) -> None:
    at.selectbox(key=shown(at, "picked")).set_value(run.id).run()
    assert not at.exception


def chart(at: AppTest, index: int = 0) -> dict[str, Any]:
    figure: dict[str, Any] = json.loads(at.get("plotly_chart")[index].proto.spec)
    return figure


def tree(at: AppTest) -> Any:
    return next(table.value for table in at.dataframe if "run" in table.value.columns)


def test_without_runs_the_page_says_how_they_come_to_be(history: History) -> None:
    at = open_page()
    assert "There are no saved runs" in at.info[0].value
    assert not at.button


def test_runs_are_a_chart_and_a_tree(family: tuple[SavedRun, ...]) -> None:
    at = open_page()
    table = tree(at)
    assert list(table["run"]) == ["root", f"└ {family[1].label}", "far"]
    assert list(table["from"]) == ["", "root", ""]
    assert list(table[""]) == ["★", "★", "★"]


def test_what_was_measured_otherwise_is_never_on_the_same_axis(
    family: tuple[SavedRun, ...],
) -> None:
    root, child, other = family
    at = open_page()
    assert chart(at)["data"][-1]["customdata"] == [other.id]
    choice = at.selectbox(key=shown(at, "conditions"))
    assert choice.label == "Measured by"
    choice.set_value(root.conditions).run()
    assert not at.exception
    assert chart(at)["data"][-1]["customdata"] == [root.id, child.id]


def test_picking_a_run_leaves_the_clickable_chart_as_it_is(family: tuple[SavedRun, ...]) -> None:
    at = open_page()
    pick(at, family[0])
    before = at.get("plotly_chart")[0].proto.spec
    pick(at, family[1])
    assert at.get("plotly_chart")[0].proto.spec == before
    assert tab(at).picked == family[1].id


def test_the_numbers_of_a_run_stand_beside_the_dense_ones(family: tuple[SavedRun, ...]) -> None:
    at = open_page()
    pick(at, family[1])
    by_label = {metric.label: metric for metric in at.metric}
    assert by_label["Perplexity"].value == "30.000"
    assert by_label["Perplexity"].delta == "+50.0 % to dense"
    assert by_label["Parameters"].delta == "-30.0 % to dense"
    assert any("predicted perplexity 29.964" in caption.value for caption in at.caption)


def test_a_run_that_overflowed_has_no_point(model: OnBench, history: History) -> None:
    history.save(values(recipe(model, 0.9), perplexity=None), predicted=1e200)
    at = open_page()
    assert chart(at)["data"][-1]["x"] == []
    assert at.metric[0].value == "overflow"
    assert any("Not drawn: 1" in caption.value for caption in at.caption)


def test_restoring_makes_the_recipe_the_present_one(
    model: OnBench, family: tuple[SavedRun, ...]
) -> None:
    at = open_page()
    pick(at, family[1])
    at.button(key="restore-run").click().run()
    assert not at.exception
    assert tab(at).histories[model.fingerprint].done[-1] == family[1].recipe
    assert tab(at).runs == {model.fingerprint: family[1].id}
    assert at.button(key="restore-run").disabled
    assert list(tree(at)[""])[1] == "▶ ★"


def test_a_recipe_that_the_model_can_not_follow_is_told(model: OnBench, history: History) -> None:
    history.save(values(recipe(model, 0.5, layer=77)))
    at = open_page()
    at.button(key="restore-run").click().run()
    assert not at.exception
    assert "77.mlp" in tab(at).notice
    assert tab(at).runs == {}


def test_a_run_gets_a_name(history: History, family: tuple[SavedRun, ...]) -> None:
    at = open_page()
    pick(at, family[1])
    at.text_input(key=shown(at, f"name-{family[1].id}")).set_value(" the good one ").run()
    assert not at.exception
    found = history.find(family[1].fingerprint, family[1].id)
    assert found is not None
    assert found.name == "the good one"
    assert "└ the good one" in list(tree(at)["run"])


def test_naming_what_another_tab_has_deleted_is_told(
    history: History, family: tuple[SavedRun, ...]
) -> None:
    at = open_page()
    pick(at, family[1])
    history.delete(family[1])
    at.text_input(key=shown(at, f"name-{family[1].id}")).set_value("too late").run()
    assert not at.exception
    assert "has been deleted" in tab(at).notice
    assert list(tree(at)["run"]) == ["root", "far"]


def test_deleting_turns_to_the_parent(
    model: OnBench, history: History, family: tuple[SavedRun, ...]
) -> None:
    root, child, other = family
    at = open_page()
    pick(at, child)
    at.button(key="restore-run").click().run()
    at.button(key="delete-run").click().run()
    assert not at.exception
    assert [run.id for run in history.runs(model.fingerprint)] == [root.id, other.id]
    assert tab(at).runs == {model.fingerprint: root.id}
    assert at.selectbox(key=shown(at, "picked")).value == root.id
    at.button(key="delete-run").click().run()
    pick(at, other)
    at.button(key="delete-run").click().run()
    assert "There are no saved runs" in at.info[0].value
    assert tab(at).runs == {}


def test_deleting_says_what_becomes_of_the_children(family: tuple[SavedRun, ...]) -> None:
    at = open_page()
    pick(at, family[0])
    assert any("What came of it (1) moves to the top" in text.value for text in at.text)


def test_the_link_carries_the_recipe(family: tuple[SavedRun, ...]) -> None:
    at = open_page()
    pick(at, family[1])
    _, _, text = at.code[0].value.partition("?recipe=")
    assert decode(text) == family[1].recipe


def test_two_runs_are_compared_layer_by_layer(family: tuple[SavedRun, ...]) -> None:
    root, child, other = family
    at = open_page()
    pick(at, child)
    assert at.selectbox(key=shown(at, "beside")).value == root.id
    bars = chart(at, 1)["data"]
    assert [bar["y"] for bar in bars[2:]] == [[0, 0.5, 0, 0], [0, 0.25, 0, 0]]
    at.selectbox(key=shown(at, "beside")).set_value(other.id).run()
    assert not at.exception
    table = next(found.value for found in at.dataframe if "difference" in found.value.columns)
    assert list(table["layer"]) == [1, 2]
    assert list(table["difference"]) == [-0.5, 0.5]
    assert any("differ in nothing but" in text.value for text in at.text)


def test_a_damaged_file_is_told_and_the_rest_is_drawn(
    history: History, family: tuple[SavedRun, ...]
) -> None:
    path = history.folder / family[0].fingerprint / f"{family[0].id}.json"
    path.write_text("{")
    at = open_page()
    assert at.expander[0].label == "Files that are no saved runs: 1"
    assert path.name in at.expander[0].text[0].value
    assert list(tree(at)["run"]) == [family[1].label, "far"]


def test_a_history_that_can_not_be_read_is_a_sentence(
    model: OnBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(ENGINE, "history", History(tmp_path / "file"))
    at = open_page()
    assert "cannot be read" in at.error[0].value


def test_without_a_model_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINE, "_current", None)
    at = open_page()
    assert "no model on the bench" in at.info[0].value


def test_hundreds_of_runs_are_drawn(model: OnBench, history: History) -> None:
    parent = None
    for number in range(200):
        run = values(
            recipe(model, (number + 1) / 1000), perplexity=20 + math.sqrt(number), parameters=number
        )
        parent = history.save(run, parent)
    at = open_page()
    assert len(tree(at)) == 200
    assert len(chart(at)["data"][-1]["customdata"]) == 200


EASY = [3.1, 3.3, 3.2, 3.4, 3.1, 3.2]
HARD = [loss + 0.2 for loss in EASY]


def test_differences_say_whether_they_are_more_than_noise(model: OnBench, history: History) -> None:
    one = history.save(values(recipe(model, 0.25), losses=EASY), name="one")
    two = history.save(values(recipe(model, 0.5), losses=HARD), one, name="two")
    far = history.save(values(recipe(model, 0.5, 2), losses=EASY, limit=None), name="far")
    at = open_page()
    pick(at, two)
    over = next(caption.value for caption in at.caption if "over dense" in caption.value)
    assert "+51.7 %" in over  # exp(sum(HARD) / 6 - 3) - 1
    assert "more than noise" in over
    said = [text.value for text in at.text]
    assert any("two against one" in text and "+22.1 %" in text for text in said)
    at.selectbox(key=shown(at, "beside")).set_value(far.id).run()
    assert any("were not measured alike" in text.value for text in at.text)
    at.selectbox(key=shown(at, "conditions")).set_value(one.conditions).run()
    spans = chart(at, 1)["data"][0]
    assert [text.split(":")[0] for text in spans["text"]] == ["one", "two"]


def test_a_report_is_of_one_run_or_of_those_measured_alike(
    family: tuple[SavedRun, ...], model: OnBench
) -> None:
    root, child, other = family
    at = open_page()
    pick(at, root)
    names = [button.label for button in at.get("download_button")]
    assert "Of root" in names
    assert "Of the 2 runs measured alike" in names
    pick(at, other)
    assert "Of the 2 runs measured alike" not in [b.label for b in at.get("download_button")]
    prompt = Generated("dense words", 2, 0.1), Generated("pruned words", 2, 0.1)
    page = report_of([reported(root, Answers(root.recipe, "Say", *prompt))])
    assert "dense words" in page
    assert "pruned words" in page
    assert "pruned words" not in report_of([reported(child, Answers(root.recipe, "Say", *prompt))])


def test_metrics_that_disagree_are_a_warning(model: OnBench, history: History) -> None:
    one = history.save(values(recipe(model, 0.25), losses=EASY), name="one")
    two = history.save(values(recipe(model, 0.5), losses=HARD), name="two")
    history.ask(one, {"piqa": task(0.4)})
    assert not any("prefers" in warning.value for warning in open_page().warning)
    history.ask(two, {"piqa": task(0.6)})
    (warning,) = (w.value for w in open_page().warning if "prefers" in w.value)
    assert "Perplexity prefers one" in warning
    assert "PIQA (acc) prefers two" in warning
