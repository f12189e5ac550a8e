"""An estimator that was added as one file can be chosen in the app, which has not been told of it.

The files are those of the guide beside the estimators; `tests/importance/` holds what else they do.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from app.engine import ENGINE
from app.results import OnBench
from tests.app.tabs import new_tab, open_page, recipe, settle, shown
from tests.app.test_pages import choose
from tests.importance.test_adding_an_estimator import UNITS, WEIGHTS, add


@pytest.mark.parametrize(("example", "pattern"), [(UNITS, "structured"), (WEIGHTS, "unstructured")])
def test_it_can_be_chosen_and_prunes(
    model: OnBench,
    example: str,
    pattern: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = add(example, tmp_path, monkeypatch)
    at = open_page(new_tab(), "tune")
    if pattern != "structured":
        choose(at, pattern)
    box = at.selectbox(key=shown(at, "ranked-by"))
    assert method.title in box.options
    box.set_value(method.name).run()
    settle(at)
    assert recipe(at, model).scoring.estimator == method.name  # type: ignore[attr-defined]
    assert any(method.title in e.label for e in at.expander) == bool(method.parameters)
    if method.score is not None:
        next(b for b in at.button if b.label == f"Score {method.title}").click().run()
        settle(at)
    at.slider(key=shown(at, "master")).set_value(40).run()
    settle(at)
    measured = at.session_state["tab"].measured
    assert measured.sparsity == pytest.approx(0.4, abs=0.03)
    assert measured.pruned.quality.perplexity != measured.dense.quality.perplexity
    ENGINE.jobs.cancel_owner(at.session_state["tab"].owner)
