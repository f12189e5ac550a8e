"""Recovery on the command line: trained, resumed, exported, refused in sentences."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

Run = Callable[..., tuple[int, str, str]]
CHOSEN = ("--windows", "2", "--length", "32", "--estimator", "wanda-sp", "--sparsity", "0.3")
THINNED = ("--windows", "2", "--length", "32", "--estimator", "wanda", "--pattern", "2:4")
MEASURED = ("--protocol", "probe", "--limit", "2")
SHORT = (
    *("--preset", "quick", "--text", "embedded", "--steps", "3", "--length", "32"),
    *("--rank", "4", "--lr", "0.01", "--probe-every", "2", "--save-every", "1"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recoveries")


@pytest.fixture
def recipe(place: Path, folder: Path, json_of: Callable[..., dict[str, Any]]) -> Path:
    """A saved run, measured once."""
    path = place / "run.json"
    if not path.exists():
        path.write_text(json.dumps(json_of("prune", folder, *CHOSEN, *MEASURED)))
    return path


@pytest.fixture
def trained(
    place: Path, folder: Path, recipe: Path, json_of: Callable[..., dict[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    """A finished recovery and what the command said, made once."""
    out, said = place / "trained", place / "said.json"
    if not said.exists():
        words = ("recover", folder, "--recipe", recipe, "--out", out, *SHORT, *MEASURED)
        said.write_text(json.dumps(json_of(*words)))
    return out, json.loads(said.read_text())


def test_dense_pruned_and_recovered_are_told(
    trained: tuple[Path, dict[str, Any]], recipe: Path
) -> None:
    out, told = trained
    run = json.loads(recipe.read_text())
    assert told["digest"] == run["digest"]
    for side in ("dense", "pruned"):
        assert told[side]["quality"]["perplexity"] == pytest.approx(
            run[side]["quality"]["perplexity"], rel=1e-3
        )
    assert told["recovered"]["quality"]["perplexity"] != told["pruned"]["quality"]["perplexity"]
    assert told["recovered"]["parameters"] == told["pruned"]["parameters"]
    assert not told["leaked"]
    record = json.loads((out / "recovery.json").read_text())
    assert record == told["recovery"]
    assert record["measured"]["recovered"] == told["recovered"]
    steps = [step for step, _loss, perplexity in record["curve"] if perplexity is not None]
    assert steps == [0, 2, 3]


def test_what_is_told_is_printed(
    folder: Path, recipe: Path, trained: tuple[Path, dict[str, Any]], run: Run
) -> None:
    """Resuming a finished recovery trains nothing, and measures and tells all the same."""
    out, told = trained
    before = (out / "adapter_model.safetensors").read_bytes()
    words = ("recover", folder, "--recipe", recipe, "--out", out, *SHORT, *MEASURED, "--resume")
    code, said, err = run(*words)
    assert code == 0, err
    assert "step 1/3" not in err
    rows = [line.split() for line in said.splitlines()]
    for side in ("dense", "pruned", "recovered"):
        quality = told[side]["quality"]
        row = next(row for row in rows if row[:1] == [side])
        assert row[1] == f"{quality['perplexity']:.3f}"
    assert "3 steps of 4 samples" in said
    assert said.endswith(f"Written: {out}; export --recover takes it\n")
    assert (out / "adapter_model.safetensors").read_bytes() == before


def test_a_recovery_is_exported_and_the_card_says_so(
    folder: Path,
    recipe: Path,
    trained: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    run: Run,
    json_of: Callable[..., dict[str, Any]],
) -> None:
    out, told = trained
    words = ("--recipe", recipe, "--format", "plain")
    code, said, err = run("export", folder, *words, "--recover", out, "--out", tmp_path / "with")
    assert code == 0, err
    assert "logits differ by at most 0," in said
    assert run("export", folder, *words, "--out", tmp_path / "without")[0] == 0
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("with", "without")]
    changed = {name for name in weights[0] if not weights[0][name].equal(weights[1][name])}
    assert changed == {name for name in weights[0] if "_proj." in name}
    card = (tmp_path / "with" / "README.md").read_text()
    assert "Trained after that: LoRA of rank 4 (alpha 32, dropout 0.05) on" in card
    assert f"| recovered | {told['recovered']['quality']['perplexity']:.3f} |" in card
    assert "Before the training:" in card
    assert "Trained" not in (tmp_path / "without" / "README.md").read_text()
    # What was exported measures as what was trained.
    magnitude = ("--estimator", "magnitude", "--sparsity", "0")
    again = json_of("prune", tmp_path / "with", *magnitude, *MEASURED)
    assert again["dense"]["quality"] == told["recovered"]["quality"]


def test_masks_survive_to_the_export(
    folder: Path, tmp_path: Path, run: Run, json_of: Callable[..., dict[str, Any]]
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(json_of("prune", folder, *THINNED, *MEASURED)))
    out = tmp_path / "trained"
    words = ("recover", folder, "--recipe", recipe, "--out", out, *SHORT, *MEASURED)
    assert json_of(*words, "--distill", "0.5")["recovery"]["masked"]
    for name, more in (("with", ("--recover", out)), ("without", ())):
        target = ("--format", "plain", "--out", tmp_path / name)
        assert run("export", folder, "--recipe", recipe, *target, *more)[0] == 0
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("with", "without")]
    matrices = [name for name in weights[0] if "_proj." in name]
    assert matrices
    for name in matrices:
        kept = weights[0][name] != 0
        assert kept.equal(weights[1][name] != 0)
        assert (kept.reshape(-1, 4).sum(-1) == 2).all()
        assert not weights[0][name].equal(weights[1][name])
    code, said, _err = run(
        *("export", folder, "--recipe", recipe, "--recover", out, "--check-only")
    )
    assert code == 0
    assert "masks hold none" in " ".join(said.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--preset", "slow"), "Unknown preset 'slow'"),
        (("--steps", "0"), "Recovery's steps is 0"),
        (("--distill", "2"), "Recovery's distill is 2.0: it must lie between 0 and 1"),
        (("--lr", "nan"), "Recovery's rate is nan"),
        (("--steps", "3", "--epochs", "2"), "give one of them"),
        (("--probe", "nothing"), "Unknown protocol 'nothing'"),
        (("--probe-every", "0"), "must be 1 or more"),
        (("--protocol", "nothing"), "Unknown protocol 'nothing'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_loaded(
    recipe: Path, refused: Callable[..., str], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    given = ("recover", "nowhere/at-all", "--recipe", recipe, "--out", tmp_path / "new")
    assert said in refused(*given, *words)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_before_the_model_is_loaded(
    recipe: Path,
    trained: tuple[Path, dict[str, Any]],
    refused: Callable[..., str],
    tmp_path: Path,
) -> None:
    words = ("recover", "nowhere/at-all", "--recipe", recipe, "--out")
    assert "Say --resume to go on" in refused(*words, trained[0])
    (tmp_path / "mine.txt").write_text("mine")
    assert "other things than a recovery" in refused(*words, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "Unknown corpus 'nothing'"),
        ("file:none.jsonl", "does not exist"),
    ],
)
def test_a_text_that_cannot_be_had_is_refused(
    folder: Path, recipe: Path, refused: Callable[..., str], tmp_path: Path, text: str, said: str
) -> None:
    out = tmp_path / "new"
    words = ("--recipe", recipe, "--out", out, "--preset", "quick", "--text", text, *MEASURED)
    assert said in refused("recover", folder, *words)


def test_measuring_what_was_trained_on_is_refused(
    folder: Path, recipe: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    from pruning_core.calibration import Split, load_text

    stolen = tmp_path / "stolen.txt"
    stolen.write_text(load_text("embedded", Split.MEASUREMENT).joined)
    words = ("--recipe", recipe, "--out", tmp_path / "new", *SHORT, "--text", f"file:{stolen}")
    assert "they overlap" in refused("recover", folder, *words, *MEASURED)


def test_an_export_of_another_recipe_s_recovery_is_refused(
    folder: Path,
    trained: tuple[Path, dict[str, Any]],
    recipe: Path,
    refused: Callable[..., str],
    tmp_path: Path,
    json_of: Callable[..., dict[str, Any]],
) -> None:
    words = ("--format", "plain", "--out", tmp_path / "out")
    assert "holds no finished recovery" in refused(
        "export", "nowhere/at-all", "--recipe", recipe, *words, "--recover", tmp_path
    )
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json_of("prune", folder, *THINNED, *MEASURED)))
    assert "is of another recipe" in refused(
        "export", folder, "--recipe", other, *words, "--recover", trained[0]
    )
    damaged = tmp_path / "damaged"
    shutil.copytree(trained[0], damaged)
    (damaged / "adapter_model.safetensors").write_bytes(b"")
    assert "not those that its record is of" in refused(
        "export", folder, "--recipe", recipe, *words, "--recover", damaged
    )
    record = json.loads((damaged / "recovery.json").read_text())
    del record["measured"]["pruned"]
    (damaged / "recovery.json").write_text(json.dumps(record))
    assert "lacks a number" in refused(
        "export", "nowhere/at-all", "--recipe", recipe, *words, "--recover", damaged
    )
    assert not (tmp_path / "out").exists()
