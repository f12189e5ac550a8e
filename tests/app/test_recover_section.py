"""Training on the Export page through Streamlit's own test runner, on a tiny model."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from app.engine import ENGINE
from app.recent import Recent
from app.recoveries import Curve, Trained, Training, recovery_root
from app.results import OnBench
from pruning_core.calibration import Split, load_text
from pruning_core.evaluation.protocol import Protocol
from pruning_core.export import proof
from pruning_core.history import History
from pruning_core.jobs import Job, State
from pruning_core.recipe import Pattern, Recipe, Scoring
from pruning_core.recovery import course
from pruning_core.recovery.settings import PRESETS, QUICK, Settings
from tests.app.conftest import CALIBRATION, OWNER
from tests.app.tabs import checked, close, new_tab, open_page, settle
from tests.recovery.subjects import assert_same, state_of

STEPS = 4
PROBE = Protocol("probe", "Probe", "embedded", 64, 2)
SHORT = replace(PRESETS[QUICK], text="embedded", steps=STEPS, rank=4, rate=0.01, length=32, batch=2)


@pytest.fixture(autouse=True)
def root(model: OnBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Begin with a home and a root for trainings of our own, and nothing trained or exported."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(ENGINE, "history", History(tmp_path / "runs"))
    monkeypatch.setenv("PRUNESCOPE_RECOVERY", str(tmp_path / "recovery"))
    current = ENGINE._current
    assert current is not None
    for name in ("formats", "written"):
        monkeypatch.setattr(current.exports, name, Recent(4))
    monkeypatch.setattr(current, "_thinned", Recent(2))
    monkeypatch.setattr(current.recoveries, "results", Recent(4))
    monkeypatch.setattr(current.recoveries, "_plans", Recent(2))
    monkeypatch.setitem(PRESETS, QUICK, SHORT)  # type: ignore[arg-type]
    return tmp_path / "recovery"


@pytest.fixture
def at(model: OnBench) -> Iterator[AppTest]:
    at = new_tab()
    yield at
    close(at)


class Gate:
    """Stops training before a step until it is let through."""

    def __init__(self, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._reached, self._open = threading.Event(), threading.Event()
        true = course.Course.step

        def gated(own: course.Course, number: int, between: Any) -> float:
            if number == step:
                self._reached.set()
                assert self._open.wait(60)
            return true(own, number, between)

        monkeypatch.setattr(course.Course, "step", gated)

    def reached(self) -> None:
        assert self._reached.wait(60)

    def let_through(self) -> None:
        self._open.set()


def pruned(model: OnBench, share: float = 0.5, **changes: object) -> Recipe:
    scoring = Scoring("magnitude", (), CALIBRATION)
    base = Recipe(model.ref, model.fingerprint, scoring, **changes)  # type: ignore[arg-type]
    return base.with_sparsity({site.key: share for site in model.anatomy.sites})


def opened(at: AppTest, model: OnBench, wanted: Recipe) -> AppTest:
    """Open the page with a recipe, and wait until the formats are there."""
    open_page(at, "model")
    at.session_state["tab"].histories[model.fingerprint].change(wanted)
    return settle(open_page(at, "export"))


def start(at: AppTest) -> Job[Trained]:
    """Press the button and return the job."""
    checked(at.button(key="recover").click().run())
    owner = at.session_state["tab"].owner
    return [job for job in ENGINE.jobs.jobs(owner) if job.kind == "recover"][-1]


def train(at: AppTest) -> AppTest:
    """Press the button, and wait for the training and for what the formats make of it."""
    start(at)
    return settle(settle(at))


def training(model: OnBench, recipe: Recipe, **changes: object) -> Training:
    settings = replace(SHORT, **changes)  # type: ignore[arg-type]
    return Training(recipe, settings, PROBE, model.dtype)


def name_text(at: AppTest, kind: str, name: str) -> AppTest:
    """Choose a text that has a field for its name, and fill that in."""
    checked(at.selectbox(key=f"recover-text-{QUICK}").set_value(kind).run())
    return checked(at.text_input(key=f"recover-name-{kind}-{QUICK}").set_value(name).run())


def leaking(folder: Path) -> Path:
    """Return a file of the text that probes measure on."""
    path = folder / "leak.txt"
    path.write_text(load_text("embedded", Split.MEASUREMENT).joined)
    return path


def done(job: Job[Trained]) -> Trained:
    assert job.wait(60)
    assert job.result is not None, job.error
    return job.result


def said(at: AppTest) -> str:
    kinds = ("markdown", "caption", "success", "warning", "error", "info", "text", "code")
    return "\n".join(found.value for kind in kinds for found in at.main.get(kind))


def metrics(at: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in at.metric}


def charts(at: AppTest) -> list[dict[str, Any]]:
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def numbers(at: AppTest) -> dict[str, float]:
    return {name: float(metrics(at)[name]) for name in ("Dense", "Pruned", "Trained")}


def section(at: AppTest) -> Any:
    return next(found for found in at.expander if found.label.startswith("Train what is left"))


def switch(at: AppTest) -> Any:
    return next(found for found in at.toggle if found.label == "Export what was trained")


def fits(at: AppTest, format: str) -> bool:
    (head,) = (m.value for m in at.markdown if m.value.startswith(f"**{format}** "))
    return "fits]" in head


def export(at: AppTest) -> Path:
    """Press the button of the export, and return the folder when it has ended."""
    words = next(c.value for c in at.caption if c.value.startswith("Becomes "))
    settle(checked(at.button(key="export").click().run()))
    return Path(words.removeprefix("Becomes `").removesuffix("`"))


# The whole way.


def test_trained_told_and_exported(at: AppTest, model: OnBench, root: Path) -> None:
    bench = ENGINE._current.bench  # type: ignore[union-attr]
    bench.restore()
    before = state_of(bench.model)
    opened(at, model, pruned(model))
    assert not section(at).proto.expanded
    assert fits(at, "masks")
    train(at)
    assert section(at).proto.expanded
    found = numbers(at)
    assert found["Trained"] != found["Pruned"] != found["Dense"]
    assert len(charts(at)[0]["data"]) == 4
    assert f"{STEPS} steps on Python " in said(at)
    assert "of the **trained** model" in said(at)
    assert not fits(at, "masks")
    assert "has changed the weights that stay" in said(at)

    folder = export(at)
    assert folder.name.endswith("-trained-plain")
    assert at.success[0].value.startswith("**Proven.**")
    assert json.loads((folder / proof.NAME).read_text())["passed"]
    card = (folder / "README.md").read_text()
    assert "Trained after that: LoRA of rank 4" in card
    trained = ENGINE._current.recoveries.results[pruned(model)]  # type: ignore[union-attr]
    assert found["Trained"] == pytest.approx(trained.perplexity("recovered"), rel=1e-3)
    assert f"| recovered | {trained.perplexity('recovered'):.3f} |" in card
    bench.restore()
    assert_same(before, state_of(bench.model))

    checked(switch(at).set_value(False).run())
    settle(at)
    assert fits(at, "masks")
    assert not at.success
    assert "of the plan **without** training" in said(at)
    assert str(folder) in at.expander[-1].text[0].value
    (choice,) = (c for c in at.get("button_group") if c.key.startswith("export-format"))
    checked(choice.set_value("masks").run())
    bare = export(at)
    assert bare.name.endswith(f"{pruned(model).digest}-masks")
    assert "Trained after that" not in (bare / "README.md").read_text()


def test_points_arrive_while_it_runs(
    at: AppTest, model: OnBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(at, model, pruned(model))
    gate = Gate(2, monkeypatch)
    job = start(at)
    gate.reached()
    checked(at.run())
    assert isinstance(job.partial, Curve)
    assert [step for step, _ in job.partial.losses] == [1, 2]
    assert section(at).proto.expanded
    *_others, loss = charts(at)[0]["data"]
    assert loss["x"] == [1, 2]
    assert charts(at)[0]["layout"]["xaxis"]["range"] == [0, STEPS]
    assert not [button for button in at.main.button if button.key == "recover"]
    gate.let_through()
    assert done(job).record["steps"] == STEPS


def test_enough_keeps_what_was_learned_by_then(
    at: AppTest, model: OnBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(at, model, pruned(model))
    gate = Gate(2, monkeypatch)
    job = start(at)
    gate.reached()
    checked(at.run())
    at.button(key=f"enough-{job.id}").click().run()
    assert job.keeping
    gate.let_through()
    assert done(job).record["steps"] == 2
    settle(settle(at))
    assert f"2 steps of {STEPS}, ended early" in said(at)
    assert math.isfinite(numbers(at)["Trained"])


def test_what_was_stopped_goes_on_when_it_is_started_again(
    at: AppTest, model: OnBench, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(at, model, pruned(model))
    with monkeypatch.context() as patched:
        gate = Gate(2, patched)
        job = start(at)
        gate.reached()
        checked(at.run())
        at.button(key=f"stop-recover-{job.id}").click().run()
        gate.let_through()
        assert job.wait(60)
    assert job.state is State.CANCELLED
    settle(at)
    assert "The training was stopped" in said(at)
    assert at.button(key="recover").label == "Go on from step 2"
    assert "Trained" not in metrics(at)
    gone_on = start(at)
    interrupted = done(gone_on).record
    assert interrupted["steps"] == STEPS
    for folder in root.iterdir():
        folder.rename(folder.with_name("elsewhere"))
    straight = done(ENGINE.recover(OWNER, gone_on.result.training)).record  # type: ignore[union-attr]
    assert interrupted["adapters"] == straight["adapters"]
    assert interrupted["curve"] == straight["curve"]


def test_what_is_trained_is_trained_anew_only_when_asked(at: AppTest, model: OnBench) -> None:
    train(opened(at, model, pruned(model)))
    assert at.button(key="recover").disabled
    assert "This is trained" in said(at)
    (anew,) = (box for box in at.checkbox if box.label.startswith("Begin anew"))
    checked(anew.check().run())
    assert not at.button(key="recover").disabled
    train(at)
    assert at.button(key="recover").disabled
    checked(at.number_input(key=f"recover-rank-{QUICK}").set_value(2).run())
    assert at.button(key="recover").label == "Train"
    assert not at.button(key="recover").disabled


def test_a_training_of_an_earlier_visit_is_taken_up(at: AppTest, model: OnBench) -> None:
    train(opened(at, model, pruned(model)))
    before = numbers(at)
    ENGINE._current.recoveries.results.clear()  # type: ignore[union-attr]
    checked(at.run())
    assert "Trained" not in metrics(at)
    assert at.button(key="recover").label == "Take it up again"
    train(at)
    assert numbers(at) == before


def test_another_recipe_is_not_taken_for_trained(at: AppTest, model: OnBench) -> None:
    train(opened(at, model, pruned(model)))
    opened(at, model, pruned(model, 0.25))
    assert "Trained" not in metrics(at)
    assert fits(at, "masks")
    assert at.button(key="recover").label == "Train"


# What is kept, and where.


def test_zeros_stay_zero(model: OnBench, tmp_path: Path) -> None:
    wanted = pruned(model, pattern=Pattern.parse("2:4"))
    trained = done(ENGINE.recover(OWNER, training(model, wanted)))
    current = ENGINE._current
    assert current is not None
    plan, record = current.demand_candidate(wanted, trained.mark, lambda *_any: None)
    bare, none = current.demand_candidate(wanted, None, lambda *_any: None)
    assert record == trained.record
    assert none is None
    with current.bench.applied(bare):
        zeros = {n: p == 0 for n, p in current.bench.model.named_parameters()}
    with current.bench.applied(plan):
        assert all(torch.equal(zeros[n], p == 0) for n, p in current.bench.model.named_parameters())


def test_a_plan_that_was_forgotten_is_merged_again(model: OnBench) -> None:
    wanted = pruned(model)
    trained = done(ENGINE.recover(OWNER, training(model, wanted)))
    current = ENGINE._current
    assert current is not None
    known, _ = current.demand_candidate(wanted, trained.mark, lambda *_any: None)
    current.recoveries._plans.clear()
    again, _ = current.demand_candidate(wanted, trained.mark, lambda *_any: None)
    assert again is not known
    assert again.signatures == known.signatures
    with current.bench.applied(known):
        expected = [p.clone() for p in current.bench.model.parameters()]
    with current.bench.applied(again):
        assert all(map(torch.equal, expected, current.bench.model.parameters()))


def test_what_decides_the_numbers_decides_the_folder(model: OnBench, root: Path) -> None:
    first = training(model, pruned(model))
    others = [
        training(model, pruned(model, 0.25)),
        training(model, pruned(model), rank=2),
        replace(first, protocol=replace(PROBE, limit=1)),
        replace(first, dtype="bfloat16"),
    ]
    assert len({other.folder for other in (first, *others)}) == 5
    assert first.folder == replace(first, anew=True).folder
    assert first.folder.parent == root


def test_the_root_is_among_what_is_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PRUNESCOPE_RECOVERY")
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path))
    assert recovery_root() == tmp_path / "recovery"


# What goes wrong, and loses nothing.


def test_a_text_without_a_name_is_refused_in_its_place(at: AppTest, model: OnBench) -> None:
    opened(at, model, pruned(model))
    name_text(at, "file:", " ")
    assert "the field 'Path of the file' is empty" in at.warning[0].value
    assert not [button for button in at.main.button if button.key == "recover"]
    checked(at.selectbox(key=f"recover-text-{QUICK}").set_value("embedded").run())
    assert not at.warning
    assert fits(at, "masks")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "gone.txt"), (b"a few words", "use a longer text"), (b"\xff\xfe\x00", "UTF-8")],
)
def test_a_text_that_cannot_be_used_is_told_beside_the_button(
    at: AppTest, model: OnBench, tmp_path: Path, root: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "gone.txt"
    if content is not None:
        path.write_bytes(content)
    opened(at, model, pruned(model))
    name_text(at, "file:", str(path))
    train(at)
    assert at.error[-1].value.startswith("**Not trained.** ")
    assert sentence in at.error[-1].value
    assert not root.exists()
    assert not at.button(key="recover").disabled
    assert fits(at, "masks")


def test_a_probe_that_is_trained_on_is_refused(at: AppTest, model: OnBench, tmp_path: Path) -> None:
    path = leaking(tmp_path)
    opened(at, model, pruned(model))
    name_text(at, "file:", str(path))
    train(at)
    assert "they overlap" in at.error[-1].value
    at.session_state["tab"].allow_leak = True
    checked(at.run())
    train(at)
    assert "these numbers flatter" in said(at)


def test_a_probe_that_was_calibrated_on_is_refused_or_marked(
    model: OnBench, tmp_path: Path
) -> None:
    scoring = Scoring("fine", (), replace(CALIBRATION, corpus=f"file:{leaking(tmp_path)}"))
    assert ENGINE.score(OWNER, model.fingerprint, (scoring,)).wait(60)
    wanted = training(model, replace(pruned(model), scoring=scoring))
    job = ENGINE.recover(OWNER, wanted)
    assert job.wait(60)
    assert "they overlap" in str(job.error)
    allowed = done(ENGINE.recover(OWNER, replace(wanted, allow_leak=True)))
    assert allowed.record["measured"]["leaked"]
    assert not allowed.record["leaked"]


def test_a_model_in_float16_is_told_so(
    at: AppTest, model: OnBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = replace(model, dtype="float16")
    monkeypatch.setattr(ENGINE._current, "seen", half)
    opened(at, half, pruned(model))
    assert "float16 can't be trained" in at.warning[0].value
    assert not [button for button in at.main.button if button.key == "recover"]


def test_a_plan_that_leaves_nothing_is_told_so(model: OnBench) -> None:
    job = ENGINE.recover(OWNER, training(model, pruned(model, 1.0)))
    assert job.wait(60)
    assert "There is nothing to train" in str(job.error)


def test_a_damaged_checkpoint_is_told_and_can_be_left(
    at: AppTest, model: OnBench, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(opened(at, model, pruned(model)))
    (folder,) = root.iterdir()
    (folder / "recovery.json").write_text("{}")
    checked(at.run())
    assert "recovery.json" in at.warning[0].value
    assert at.button(key="recover").disabled
    (anew,) = (box for box in at.checkbox if box.label.startswith("Begin anew"))
    checked(anew.check().run())
    train(at)
    assert not at.warning
    assert not at.error


def test_a_dense_recipe_has_nothing_to_train(at: AppTest, model: OnBench) -> None:
    opened(at, model, pruned(model, 0.0))
    assert not [found for found in at.expander if found.label.startswith("Train")]


def test_presets_begin_with_their_own_settings(at: AppTest, model: OnBench) -> None:
    opened(at, model, pruned(model))
    usual = Settings()
    (preset,) = (c for c in at.get("button_group") if c.key == "recover-preset")
    checked(preset.set_value("llm-pruner").run())
    named = at.text_input(key="recover-name-hub:-llm-pruner").value
    assert at.selectbox(key="recover-text-llm-pruner").value + named == usual.text
    assert at.number_input(key="recover-steps-llm-pruner").value is None
    assert at.number_input(key="recover-rank-llm-pruner").value == usual.rank
    assert f"{usual.batch} a step" in said(at)
