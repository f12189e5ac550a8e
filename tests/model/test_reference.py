"""A reference is read from text and written back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.model.reference import ModelRef, Source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("demo", ModelRef(Source.DEMO)),
        (" demo ", ModelRef(Source.DEMO)),
        ("gpt2", ModelRef(Source.HUB, "gpt2")),
        ("org/some-Model_1.5", ModelRef(Source.HUB, "org/some-Model_1.5")),
        ("org/name@main", ModelRef(Source.HUB, "org/name", "main")),
        ("org/name@refs/pr/7", ModelRef(Source.HUB, "org/name", "refs/pr/7")),
    ],
)
def test_a_name_is_read_and_written_back(text: str, expected: ModelRef) -> None:
    assert ModelRef.parse(text) == expected
    assert str(expected) == text.strip()


def test_a_folder_is_read_and_written_back_as_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my model@home"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    ref = ModelRef.parse("my model@home")
    assert ref == ModelRef(Source.FOLDER, str(folder))
    monkeypatch.chdir("/")
    assert ModelRef.parse(str(ref)) == ref


def test_a_gguf_file_is_read_and_written_back(tmp_path: Path) -> None:
    path = tmp_path / "Model.Q4_0.GGUF"
    path.write_bytes(b"GGUF")
    ref = ModelRef.parse(str(path))
    assert ref == ModelRef(Source.GGUF, str(path))
    assert ModelRef.parse(str(ref)) == ref


def test_a_folder_of_the_demos_name_needs_a_dot_slash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert ModelRef.parse("demo").source is Source.DEMO
    assert ModelRef.parse("./demo").source is Source.FOLDER


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "No model was named"),
        ("   ", "No model was named"),
        ("/no/such/folder", "There is no file or folder"),
        ("./model", "There is no file or folder"),
        ("~/model", "There is no file or folder"),
        ("model.gguf", "There is no file or folder"),
        ("a/b/c", "There is no file or folder"),
        ("org/name with spaces", "neither a folder"),
        ("org/-name", "neither a folder"),
        ("org/a..b", "neither a folder"),
        ("@main", "neither a folder"),
        ("org/name@", "can't be a revision"),
        ("org/name@../x", "can't be a revision"),
        ("a\0b", "neither a folder"),
        ("x" * 5000, "can't be a model|neither a folder"),
    ],
)
def test_bad_text_is_told_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(PrunescopeError, match=said):
        ModelRef.parse(text)


def test_a_folder_without_a_config_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(PrunescopeError, match=r"config\.json.*\*\.safetensors"):
        ModelRef.parse(str(tmp_path))
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    with pytest.raises(PrunescopeError, match=r"name the file: .*small\.gguf"):
        ModelRef.parse(str(tmp_path))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(PrunescopeError, match="name the folder"):
        ModelRef.parse(str(tmp_path / "model.safetensors"))


def test_a_reference_needs_no_torch() -> None:
    code = (
        "import sys, pruning_core.model.reference; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
