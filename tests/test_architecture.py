"""The rooms of the house and the directions between them, held by reading every import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "pruning_core").rglob("*.py"))
APP = sorted((ROOT / "app").rglob("*.py"))

ROOMS = (
    *(
        "errors",
        "progress",
        "files",
        "peak",
        "repair",
        "recipe",
        "history",
        "recipe_link",
        "model",
        "calibration",
        "importance",
        "planning",
    ),
    *("surgery", "evaluation", "recovery", "runs", "export", "report", "pipeline"),
    *("printing", "commands", "__main__"),
)
"""The rooms of the core in the order in which the data walks through them."""

BESIDE = {"__init__": set(ROOMS), "jobs": {"errors", "progress"}}
"""What stands outside the walk, and what it may import: the façade everything, jobs hardly any."""

LEARNERS = {"pruning_core/importance/fusion.py"}
"""Where parameters are made that are not the model's: the fusion trains attention of its own."""

LONGEST = 450


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, anywhere in it, relative ones made absolute."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            home = ".".join((*base, *([node.module] if node.module else [])))
            yield from (f"{home}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def room(dotted: str) -> str:
    """Return the room of ``pruning_core.model.loading.load``: ``model``."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def assigned(path: Path) -> Iterator[ast.Attribute]:
    """Yield every attribute that a file assigns to, ``x.weight[0] = 1`` included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        for target in chain.from_iterable(ast.walk(target) for target in targets):
            if isinstance(target, ast.Attribute):
                yield target


def test_there_is_something_to_read() -> None:
    assert {"pipeline.py", "workbench.py", "live.py"} <= {path.name for path in CORE}


def test_the_core_knows_no_screen() -> None:
    for path in CORE:
        assert packages(path).isdisjoint({"streamlit", "plotly", "app", "tests"}), where(path)


def test_the_app_stands_on_the_core_and_nothing_on_the_app() -> None:
    for path in APP:
        assert "tests" not in packages(path), where(path)
    others = (path for path in ROOT.glob("*.py") if path.name != "app.py")
    for path in (*CORE, *others):
        assert "app" not in packages(path), where(path)


@pytest.mark.parametrize("path", CORE, ids=where)
def test_a_room_imports_only_rooms_above_it(path: Path) -> None:
    here = room(module(path))
    allowed = BESIDE.get(here) or {*ROOMS[: ROOMS.index(here) + 1]}
    reached = {room(name) for name in imports(path) if name.startswith("pruning_core")}
    assert reached <= allowed


def test_anatomy_knows_nothing_of_how_a_model_was_loaded() -> None:
    for path in (ROOT / "pruning_core/model/anatomy").rglob("*.py"):
        inside = {n for n in imports(path) if n.startswith("pruning_core.model")}
        assert all(name.startswith("pruning_core.model.anatomy") for name in inside), where(path)


def test_estimators_know_tensors_and_not_models() -> None:
    for path in (ROOT / "pruning_core/importance/estimators").glob("*.py"):
        assert "transformers" not in packages(path), where(path)


def test_jobs_know_no_model() -> None:
    assert packages(ROOT / "pruning_core/jobs.py").isdisjoint({"torch", "transformers"})


def test_only_the_state_module_touches_the_session() -> None:
    touching = {
        where(path)
        for path in APP
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and node.attr == "session_state")
        or (isinstance(node, ast.alias) and node.name == "session_state")
    }
    assert touching <= {"app/state.py"}


def test_only_the_engine_and_its_store_make_threads_locks_and_job_services() -> None:
    makers = {"Thread", "Lock", "RLock", "Condition", "Semaphore", "Event", "Timer", "JobService"}
    makers |= {"ThreadPoolExecutor", "ProcessPoolExecutor"}
    making = {
        where(path)
        for path in APP
        if any(call.rpartition(".")[2] in makers for call in calls(path))
    }
    assert making <= {"app/engine.py", "app/recent.py"}


def test_only_one_component_makes_fragments() -> None:
    making = {where(path) for path in APP if any(c.endswith("fragment") for c in calls(path))}
    assert making == {"app/components/polling.py"}


def test_figures_are_pure() -> None:
    names = ("figures", "comparison_figures", "run_figures", "recovery_figures", "task_figures")
    for name in (*names, "palette"):
        path = ROOT / f"app/{name}.py"
        assert "streamlit" not in packages(path), where(path)


def elsewhere() -> Iterator[Path]:
    """Yield every file that must not write weights."""
    yield from (p for p in (*CORE, *APP) if not where(p).startswith("pruning_core/surgery/"))


def test_only_surgery_writes_weights() -> None:
    for path in elsewhere():
        for target in assigned(path):
            assert target.attr != "data", f"{where(path)}:{target.lineno}"
            # Its own attributes an object may name as it likes; another's weights it may not set.
            own = isinstance(target.value, ast.Name) and target.value.id == "self"
            assert own or target.attr not in ("weight", "bias"), f"{where(path)}:{target.lineno}"


def test_only_surgery_makes_parameters_and_sets_attributes_by_name() -> None:
    for path in elsewhere():
        if "torch" not in packages(path):
            continue
        makers = {"nn.Parameter", "torch.nn.Parameter"}
        if "torch.nn.Parameter" in imports(path):
            makers.add("Parameter")
        made = set(calls(path))
        assert made.isdisjoint(makers) or where(path) in LEARNERS, where(path)
        assert "setattr" not in made, where(path)


@pytest.mark.parametrize("path", [*CORE, *APP], ids=where)
def test_every_module_opens_with_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "a module without a docstring"


@pytest.mark.parametrize("path", [*CORE, *APP], ids=where)
def test_every_module_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("name", ["recipe", "history", "recipe_link", "jobs", "model.reference"])
def test_light_modules_stay_light(name: str) -> None:
    code = f"import sys, pruning_core.{name}; print({{'torch', 'transformers'}} & {{*sys.modules}})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
