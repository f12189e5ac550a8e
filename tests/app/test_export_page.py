"""The Export page through Streamlit's own test runner, on a tiny model."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from app.components.export.form import run_for_card
from app.components.export.loading import loading_lines
from app.components.export.place import default_name, default_parent, place_of
from app.engine import ENGINE
from app.exports import Order, Written
from app.recent import Recent
from app.results import OnBench
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.protocol import Protocol
from pruning_core.export import folder as folders
from pruning_core.export import proof, stored
from pruning_core.export.folder import MANIFEST
from pruning_core.export.format import Loading
from pruning_core.export.proof import Answers
from pruning_core.export.witness import compare
from pruning_core.history import History
from pruning_core.jobs import Job, State
from pruning_core.progress import Tick
from pruning_core.recipe import Pattern, Recipe, Scoring, SiteKey, SiteKind
from tests.app.conftest import CALIBRATION, OWNER
from tests.app.tabs import checked, close, new_tab, open_page, recipe, settle
from tests.model import tiny_checkpoints

NAMES = ["plain", "padded", "per-layer", "gguf", "masks"]
PROBE = Protocol("probe", "Probe", "embedded", 256, 2)


@pytest.fixture(autouse=True)
def home(model: OnBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Begin with a home and a history of our own, and nothing exported."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.setattr(ENGINE, "history", History(tmp_path / "runs"))
    for name in ("formats", "written"):
        monkeypatch.setattr(ENGINE._current.exports, name, Recent(4))  # type: ignore[union-attr]
    return home


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exports stand without a proof, which starts a process; others hold that it is made."""

    def believe(_folder: Path, asked: Answers, loading: Loading, _tick: Tick) -> dict[str, Any]:
        found = compare(dict(asked.tensors), dict(asked.tensors))
        return found | {
            **{"dtype": asked.dtype, "arithmetic": "float32", "device": asked.device},
            **{"class": "Believed", "remote_code": loading is Loading.TRUSTED, "versions": {}},
        }

    monkeypatch.setattr("pruning_core.export.exporting.prove", believe)


@pytest.fixture
def at(model: OnBench) -> Iterator[AppTest]:
    at = new_tab()
    yield at
    close(at)


def pruned(model: OnBench, share: float = 0.5, **changes: object) -> Recipe:
    scoring = Scoring("magnitude", (), CALIBRATION)
    base = Recipe(model.ref, model.fingerprint, scoring, **changes)  # type: ignore[arg-type]
    return base.with_sparsity({site.key: share for site in model.anatomy.sites})


def uneven(model: OnBench) -> Recipe:
    return pruned(model).with_sparsity({SiteKey(1, SiteKind.MLP): 0.25})


def opened(at: AppTest, model: OnBench, wanted: Recipe) -> AppTest:
    """Open the page with a recipe, and wait until the formats are there."""
    at.session_state["tab"].histories.pop(model.fingerprint, None)
    open_page(at, "model")
    at.session_state["tab"].histories[model.fingerprint].change(wanted)
    return settle(open_page(at, "export"))


def export(at: AppTest) -> AppTest:
    """Press the button and wait until it has ended."""
    return settle(checked(at.button(key="export").click().run()))


def choose(at: AppTest, format: str) -> AppTest:
    (choice,) = (c for c in at.get("button_group") if c.key.startswith("export-format"))
    return checked(choice.set_value(format).run())


def target(at: AppTest) -> Path:
    """Return the folder that the button would write."""
    words = next(c.value for c in at.caption if c.value.startswith("Becomes "))
    return Path(words.removeprefix("Becomes `").removesuffix("`"))


def cards(at: AppTest) -> dict[str, bool]:
    """Return whether each format on screen can hold the plan."""
    heads = [m.value for m in at.markdown if "fits]" in m.value or "cannot hold" in m.value]
    return {head.split("**")[1]: "fits]" in head for head in heads}


def said(at: AppTest) -> str:
    kinds = ("markdown", "caption", "success", "warning", "error", "info", "text", "code")
    return "\n".join(found.value for kind in kinds for found in at.main.get(kind))


def metrics(at: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in at.metric}


# Before anything is written.


def test_every_format_says_beforehand_what_it_would_do(at: AppTest, model: OnBench) -> None:
    opened(at, model, uneven(model))
    assert cards(at) == {name: name != "plain" for name in NAMES}
    words = said(at)
    assert "stock code builds every layer alike" in words
    assert "Padding costs" in words
    assert "Opens in llama.cpp" in words
    assert not list(Path.home().iterdir())
    assert target(at).parent == Path.home() / "prunescope"


def test_the_formats_are_those_of_the_present_recipe(at: AppTest, model: OnBench) -> None:
    opened(at, model, pruned(model))
    assert cards(at) == dict.fromkeys(NAMES, True)
    first = target(at)
    opened(at, model, uneven(model))
    assert not cards(at)["plain"]
    assert target(at) != first
    assert uneven(model).digest in target(at).name


def test_a_dense_recipe_is_told_to_be_one(at: AppTest, model: OnBench) -> None:
    opened(at, model, pruned(model, 0.0))
    assert "Nothing is pruned" in at.info[0].value


def test_single_weights_are_chosen_when_that_is_asked_for(at: AppTest, model: OnBench) -> None:
    wanted = pruned(model, pattern=Pattern.parse("2:4"))
    opened(at, model, wanted)
    assert not cards(at)
    at.button(key="look-at-formats").click().run()
    settle(checked(at))
    assert [name for name, fits in cards(at).items() if fits] == ["plain", "gguf", "masks"]
    assert "as large as dense" in said(at)


def test_without_a_map_there_is_one_to_make(at: AppTest, model: OnBench) -> None:
    wanted = Recipe(model.ref, model.fingerprint, Scoring("flap", (), CALIBRATION))
    opened(at, model, wanted)
    assert not cards(at)
    assert [b.label for b in at.main.button] == ["Score"]


def test_what_failed_is_asked_for_again_by_hand_only(
    at: AppTest, model: OnBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_any: object) -> None:
        raise PrunescopeError("No such luck.")

    monkeypatch.setattr(ENGINE._current.exports, "look", fails)  # type: ignore[union-attr]
    opened(at, model, pruned(model))
    assert at.error[0].value == "No such luck."
    settle(at)
    assert "formats" not in at.session_state["tab"].jobs
    monkeypatch.undo()
    settle(checked(at.button(key="look-at-formats").click().run()))
    assert set(cards(at)) == set(NAMES)


# The export and its proof.


def test_an_export_is_proven_for_all_to_see(at: AppTest, model: OnBench, home: Path) -> None:
    opened(at, model, pruned(model))
    folder = target(at)
    export(at)
    assert at.success[0].value.startswith("**Proven.** A fresh process")
    found = metrics(at)
    assert found["Greatest logit difference"] == "0, exact"
    assert found["Greedy tokens"] == "equal"
    assert found["Opened as"] == "LlamaForCausalLM"
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert found["On the disk"] == f"{total / 1000:.0f} kB"
    texts = [code.value for code in at.code]
    assert texts[0] == str(folder)
    assert f"from_pretrained({str(folder)!r}" in texts[1]
    assert str(torch.__version__) in said(at)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert json.loads((folder / proof.NAME).read_text())["passed"]


def test_the_folder_of_the_moment_is_written(
    at: AppTest, model: OnBench, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    opened(at, model, uneven(model))
    choose(at, "masks")
    assert target(at).name == default_name(uneven(model), "masks")
    at.text_input(key="export-parent").set_value("~/mine")
    at.text_input(key=f"export-name-{uneven(model).digest}-masks").set_value("small")
    # Typed and pressed at once: both come with one message of the browser.
    at.button(key="export").click().run()
    settle(checked(at))
    assert (home / "mine" / "small" / "masks.safetensors").is_file()
    assert "Read back and found equal" in at.success[0].value


def test_choices_outlast_another_page(at: AppTest, model: OnBench, tmp_path: Path) -> None:
    opened(at, model, uneven(model))
    choose(at, "per-layer")
    checked(at.text_input(key="export-parent").set_value(str(tmp_path / "else")).run())
    open_page(at, "runs")
    open_page(at, "export")
    assert target(at) == tmp_path / "else" / default_name(uneven(model), "per-layer")


def test_exports_of_other_recipes_are_not_forgotten(at: AppTest, model: OnBench) -> None:
    opened(at, model, pruned(model))
    choose(at, "masks")
    folder = target(at)
    export(at)
    opened(at, model, uneven(model))
    assert not at.success
    assert str(folder) in at.expander[-1].text[0].value


def test_the_numbers_of_a_measured_run_go_into_the_card(at: AppTest, model: OnBench) -> None:
    wanted = pruned(model)
    opened(at, model, wanted)
    assert "has not been measured here yet" in said(at)
    job = ENGINE.measure(OWNER, wanted, PROBE, allow_leak=False)
    assert job.wait(60)
    assert job.result is not None, job.error
    quality = job.result.pruned.quality
    checked(at.run())
    assert f"perplexity {quality.perplexity:.1f}" in said(at) or (
        f"perplexity {quality.perplexity:.3f}" in said(at)
    )
    choose(at, "masks")
    folder = target(at)
    export(at)
    card = (folder / "README.md").read_text()
    assert f"{quality.perplexity:.3f}" in card
    assert "Measured under: Probe" in card


def test_only_runs_that_were_measured_alike_go_into_the_card(at: AppTest, model: OnBench) -> None:
    wanted = pruned(model)
    for asked in (uneven(model), wanted):
        assert ENGINE.measure(OWNER, asked, PROBE, allow_leak=False).wait(60)
    opened(at, model, wanted)
    runs = ENGINE.history.runs(model.fingerprint)
    assert len(runs) == 2
    assert f"the numbers of {runs[1].label}" in said(at)
    elsewhere = OnBench(**{**vars(model), "dtype": "bfloat16"})
    assert run_for_card(elsewhere, wanted) is None


def test_the_model_is_as_before(at: AppTest, model: OnBench, unproven: None) -> None:
    bench = ENGINE._current.bench  # type: ignore[union-attr]
    before = [parameter.clone() for parameter in bench.model.parameters()]
    opened(at, model, uneven(model))
    export(at)
    assert at.success
    assert all(map(torch.equal, before, bench.model.parameters()))
    again = ENGINE.measure(OWNER, pruned(model, 0.0), PROBE, allow_leak=False)
    assert again.wait(60)
    assert again.result is not None
    assert again.result.pruned.quality == again.result.dense.quality


# What goes wrong, and loses nothing.


def test_an_earlier_export_is_replaced_only_when_asked(at: AppTest, model: OnBench) -> None:
    opened(at, model, pruned(model))
    choose(at, "masks")
    assert not at.checkbox
    folder = target(at)
    export(at)
    assert at.button(key="export").disabled
    (box,) = at.checkbox
    assert f"an earlier export (masks, recipe {pruned(model).digest})" in box.label
    (folder / "masks.safetensors").write_bytes(b"old")
    checked(box.check().run())
    assert not at.button(key="export").disabled
    export(at)
    assert (folder / "masks.safetensors").stat().st_size > 3


def test_a_folder_of_other_things_is_never_overwritten(
    at: AppTest, model: OnBench, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    opened(at, model, pruned(model))
    checked(at.text_input(key="export-parent").set_value(str(tmp_path)).run())
    name = f"export-name-{pruned(model).digest}-plain"
    checked(at.text_input(key=name).set_value("thesis").run())
    assert "holds other things" in at.warning[0].value
    assert at.button(key="export").disabled
    assert not at.checkbox


def test_the_folder_of_the_model_is_never_overwritten(
    at: AppTest, model: OnBench, tiny_folder: Path
) -> None:
    opened(at, model, pruned(model))
    checked(at.text_input(key="export-parent").set_value(str(tiny_folder.parent)).run())
    name = f"export-name-{pruned(model).digest}-plain"
    checked(at.text_input(key=name).set_value(tiny_folder.name).run())
    assert "where the model was read from" in at.warning[0].value
    assert at.button(key="export").disabled


def test_what_came_into_being_meanwhile_stays(model: OnBench, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    job = ENGINE.export(OWNER, Order(pruned(model), "masks", tmp_path / "out"))
    assert job.wait(60)
    assert "has come into being meanwhile" in str(job.error)
    assert not list((tmp_path / "out").iterdir())


def test_a_proof_that_fails_is_loud_and_leaves_nothing(
    at: AppTest, model: OnBench, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(at, model, pruned(model))
    true = stored.raw

    def wrong(tensor: stored.Stored) -> object:
        return true(tensor) ^ (0x40 if tensor.name.endswith("1.mlp.up_proj.weight") else 0)

    monkeypatch.setattr(stored, "raw", wrong)
    export(at)
    assert at.error[0].value.startswith("The proof failed")
    assert at.error[1].value == f"**Not exported.** {at.error[0].value}"
    assert not at.success
    assert not [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_nothing_is_told_and_the_old_export_stays(
    at: AppTest, model: OnBench, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    opened(at, model, pruned(model))
    choose(at, "masks")
    folder = target(at)
    export(at)
    before = (folder / "masks.safetensors").read_bytes()

    def refuses(_tensor: stored.Stored) -> object:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(stored, "raw", refuses)
    checked(at.checkbox[0].check().run())
    export(at)
    assert f"could not be written: {os.strerror(number)}" in at.error[0].value
    assert (folder / "masks.safetensors").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_too_little_room_is_told_until_there_is_enough(
    at: AppTest,
    model: OnBench,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    home: Path,
    unproven: None,
) -> None:
    opened(at, model, pruned(model))
    with monkeypatch.context() as small:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        small.setattr(folders.shutil, "disk_usage", lambda _path: usage)
        export(at)
    assert "its disk has 0 MB free" in at.error[0].value
    assert not [path for path in home.rglob("*") if path.is_file()]
    export(at)
    assert not at.error
    assert at.success


def test_stopping_leaves_nothing(
    at: AppTest, model: OnBench, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    true = stored.raw

    def slow(tensor: stored.Stored) -> object:
        reached.set()
        assert go_on.wait(60)
        return true(tensor)

    monkeypatch.setattr(stored, "raw", slow)
    opened(at, model, pruned(model))
    checked(at.button(key="export").click().run())
    assert reached.wait(60)
    job: Job[Written] = at.session_state["tab"].jobs["export"]
    checked(at.run())
    assert at.button(key="export").disabled
    at.button(key=f"stop-export-{job.id}").click().run()
    go_on.set()
    settle(at)
    assert job.state is State.CANCELLED
    assert not [path for path in home.rglob("*") if path.is_file()]
    assert not at.success
    assert "nothing of it was kept" in at.info[0].value
    assert not at.button(key="export").disabled
    assert ENGINE._current.bench.plan is None  # type: ignore[union-attr]


def test_without_a_model_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINE, "_current", None)
    monkeypatch.setattr("app.state.autoload", lambda: None)
    assert "no model on the bench" in open_page(new_tab(), "export").info[0].value


# Where it goes.


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("demo", "demo"),
        ("org/Big-Model.1@main", "Big-Model.1"),
        ("/models/my model", "my-model"),
        ("/models/q4.gguf", "q4"),
        ("/models/...", "model"),
    ],
)
def test_an_export_is_named_after_model_recipe_and_format(ref: str, name: str) -> None:
    recipe = Recipe(ref, "abc")
    assert default_name(recipe, "plain") == f"{name}-pruned-{recipe.digest}-plain"
    assert place_of(default_parent(), default_name(recipe, "plain"), None).folder.is_absolute()


@pytest.mark.parametrize(
    ("parent", "name", "said"),
    [
        ("", "x", "needs a folder"),
        ("~", " ", "needs a folder"),
        ("~", "a/b", "leave out slashes"),
        ("~", "..", "leave out slashes"),
        ("~", "a\x00b", "do not print"),
        ("~nobody-of-that-name", "x", "cannot be looked into"),
    ],
)
def test_what_is_no_place_is_told(parent: str, name: str, said: str) -> None:
    with pytest.raises(PrunescopeError, match=said):
        place_of(parent, name, None)


def test_what_lies_there_is_told(tmp_path: Path) -> None:
    parent = str(tmp_path)
    assert place_of(parent, "new", None).replaces == ""
    (tmp_path / "empty").mkdir()
    assert place_of(parent, "empty", None).replaces == "an empty folder"
    (tmp_path / "file").write_text("")
    with pytest.raises(PrunescopeError, match="no folder"):
        place_of(parent, "file", None)
    with pytest.raises(PrunescopeError, match="cannot be looked into: File name too long"):
        place_of(parent, "long" * 100, None)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / MANIFEST).write_text("{}")
    assert place_of(parent, "old", None).replaces == "an earlier export"


# How it is opened again.


@pytest.mark.parametrize("format", NAMES)
def test_the_lines_that_are_shown_open_the_export(
    model: OnBench, tmp_path: Path, unproven: None, format: str
) -> None:
    wanted = uneven(model) if format in ("padded", "per-layer") else pruned(model)
    job = ENGINE.export(OWNER, Order(wanted, format, tmp_path / "its own"))
    assert job.wait(60)
    assert job.result is not None, job.error
    done = job.result.done
    lines, language = loading_lines(format, done.folder, done.proof, model.ref)
    assert language == "python"
    found: dict[str, Any] = {}
    exec(lines, found)
    plan = ENGINE.plan(wanted)
    assert plan is not None
    again = found["loaded"].model if format == "masks" else found["model"]
    expected = done.preflight.bytes // 4 if format == "padded" else plan.parameters
    assert sum(parameter.numel() for parameter in again.parameters()) == expected
    assert format == "masks" or len(found["tokenizer"]) == len(tiny_checkpoints.tokenizer())


def test_a_gguf_that_only_llama_cpp_runs_is_opened_with_it(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("")
    lines, language = loading_lines("gguf", tmp_path, {"passed": True, "read_back": "x"}, "demo")
    assert language == "bash"
    assert f'"{tmp_path / "model.gguf"}"' in lines


def test_the_recipe_of_a_tab_is_not_touched(at: AppTest, model: OnBench) -> None:
    opened(at, model, uneven(model))
    choose(at, "masks")
    export(at)
    assert recipe(at, model) == uneven(model)
