"""Where an export goes: a default, and what lies there already. Looks, and writes nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pruning_core.errors import PrunescopeError
from pruning_core.export.folder import MANIFEST
from pruning_core.recipe import Recipe


@dataclass(frozen=True)
class Place:
    """A folder that an export may become.

    Attributes:
        folder: absolute.
        replaces: what lies there and would be replaced, in words; empty where nothing does.
    """

    folder: Path
    replaces: str = ""


def default_parent() -> str:
    """Return the folder that exports go into where nobody says otherwise."""
    return str(Path.home() / "prunescope")


def default_name(recipe: Recipe, format: str, *, trained: bool = False) -> str:
    """Return what an export is called where nobody says otherwise: ``demo-pruned-3f2a…-plain``.

    Args:
        recipe: what is pruned.
        format: its name.
        trained: whether what was left has been trained.
    """
    model = Path(recipe.model.partition("@")[0]).name.removesuffix(".gguf")
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip(".-") or "model"
    return f"{model}-pruned-{recipe.digest}-{'trained-' if trained else ''}{format}"


def place_of(parent: str, name: str, source: Path | None) -> Place:
    """Return the place that two texts name.

    Args:
        parent: the folder it goes into; ``~`` is the user's own.
        name: what it is called there.
        source: the folder that the model was read from.

    Raises:
        PrunescopeError: if that is no place for an export, in words for the app's users.
    """
    parent, name = parent.strip(), name.strip()
    if not parent or not name:
        raise PrunescopeError("An export needs a folder to go into and a name.")
    if not (parent + name).isprintable():
        raise PrunescopeError("The folder holds characters that do not print. Type it anew.")
    if name in (".", "..") or re.search(r"[/\\]", name):
        raise PrunescopeError(
            f"{name!r} is no name for a folder: leave out slashes, they belong into the field "
            "before it."
        )
    try:
        folder = Path(parent).expanduser().absolute() / name
        return Place(folder, _lying(folder, source))
    except (OSError, RuntimeError) as error:  # no such user, no right to look
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PrunescopeError(
            f"{parent}/{name} cannot be looked into: {why}. Choose another folder."
        ) from error


def _lying(folder: Path, source: Path | None) -> str:
    """Return what lies at a folder, in words, if it may be replaced; empty where nothing does."""
    if source is not None and folder.resolve() == source.resolve():
        raise PrunescopeError(
            f"{folder} is where the model was read from; an export never overwrites that. Choose "
            "another folder."
        )
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise PrunescopeError(f"{folder} is there already and no folder. Choose another name.")
    if not folder.exists():
        return ""
    if next(folder.iterdir(), None) is None:
        return "an empty folder"
    if not (folder / MANIFEST).is_file():
        raise PrunescopeError(
            f"{folder} holds other things than an export, and those are never overwritten. Choose "
            "another name."
        )
    return f"an earlier export{_described(folder / MANIFEST)}"


def _described(manifest: Path) -> str:
    """Return the format and the recipe of an earlier export in words, as far as it says."""
    try:
        values = json.loads(manifest.read_text(encoding="utf-8"))
        return f" ({values['format']}, recipe {values['recipe']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
