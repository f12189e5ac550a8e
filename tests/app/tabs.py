"""A tab of the app through Streamlit's own test runner: open it, wait for it, look into it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from streamlit.proto.WidgetStates_pb2 import WidgetState, WidgetStates
from streamlit.testing.v1 import AppTest

from app.engine import ENGINE
from app.results import OnBench
from app.tab import Tab
from pruning_core.recipe import Recipe
from tests.app.conftest import CALIBRATION

MAIN = Path(__file__).parents[2] / "app" / "main.py"

# `streamlit run` puts the script's folder on the path for good. The test runner takes it off again
# after every run, and a job that just then walks along the path overlooks an entry.
if str(MAIN.parent) not in sys.path:
    sys.path.append(str(MAIN.parent))


def new_tab(**address: str) -> AppTest:
    """Open the app in a tab that calibrates on little text.

    Args:
        address: what stands behind the ``?``.
    """
    at = AppTest.from_file(MAIN, default_timeout=60)
    at.query_params.update(address)
    at.session_state["tab"] = Tab(calibration=CALIBRATION)
    return checked(at.run())


def close(at: AppTest) -> None:
    """Stop what the tab has asked for."""
    ENGINE.jobs.cancel_owner(at.session_state["tab"].owner)


def checked(at: AppTest) -> AppTest:
    """Return a tab whose last run raised nothing."""
    assert not at.exception, at.exception[0].message
    return at


def open_page(at: AppTest, name: str) -> AppTest:
    return checked(at.switch_page(f"views/{name}.py").run())


def settle(at: AppTest) -> AppTest:
    """Wait for this tab's jobs and draw again, as the polling fragment does."""
    for job in list(at.session_state["tab"].jobs.values()):
        assert job.wait(60)
    return checked(at.run())


def shown(at: AppTest, name: str) -> str:
    """Return the key of the widget that stands for a controlled value at the moment."""
    return f"{name}#{at.session_state['tab'].revisions[name]}"


def recipe(at: AppTest, model: OnBench) -> Recipe:
    present: Recipe = at.session_state["tab"].histories[model.fingerprint].present
    return present


def send(at: AppTest, widget: str, **value: str) -> AppTest:
    """Hand over what a widget's JavaScript sends, and draw what Streamlit then draws.

    The test runner has no setters for components and for tables that are edited.
    """
    return checked(at._run(WidgetStates(widgets=[WidgetState(id=widget, **value)])))


def drag_editor(at: AppTest) -> str:
    """Return the id of the drag editor on screen."""
    widget: str = at.get("bidi_component")[0].proto.id
    return widget


def drag(
    at: AppTest,
    editor: str,
    n: int,
    sparsity: dict[str, float],
    locks: dict[str, bool] | None = None,
    *,
    final: bool = True,
) -> AppTest:
    """Send the drag editor's edit number `n`."""
    edit = {"editor": "a", "n": n, "final": final, "sparsity": sparsity, "locks": locks or {}}
    return send(at, editor, json_value=json.dumps({"edit": edit}))


def type_in(at: AppTest, rows: dict[int, dict[str, object]]) -> AppTest:
    """Fill in cells of the one table that can be edited."""
    edits = {"edited_rows": rows, "added_rows": [], "deleted_rows": []}
    return send(at, at.data_editor[0].proto.id, string_value=json.dumps(edits))


def numbers(at: AppTest) -> dict[str, Any]:
    """Return the metrics on screen by their labels."""
    return {metric.label: metric for metric in at.metric}
