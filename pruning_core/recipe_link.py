"""A recipe as a short text that fits in a link, and back.

The text is a version, a dot, and the recipe's compact JSON, deflated, in the alphabet that links
allow. It comes from anywhere: nothing in it is trusted, and it cannot unfold to much.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib

from pruning_core.errors import PrunescopeError
from pruning_core.history import key_recipe_of, parse
from pruning_core.recipe import Recipe

PARAMETER = "recipe"
"""The name under which the app takes the text: ``http://localhost:8501/?recipe=1.eJx...``."""

LONGEST = 16_000
"""Characters; browsers and servers take that much, and no recipe of 200 layers needs it."""

_VERSION = "1."
_LARGEST = 400_000
"""Bytes of JSON that a text may unfold to."""


def encode(recipe: Recipe) -> str:
    """Return a recipe as a text of letters, digits, ``-``, ``_`` and one dot.

    Raises:
        PrunescopeError: if it is too large for a link.
    """
    compact = json.dumps(recipe.as_dict(), separators=(",", ":")).encode()
    text = _VERSION + base64.urlsafe_b64encode(zlib.compress(compact, 9)).decode().rstrip("=")
    if len(text) > LONGEST or len(compact) > _LARGEST:
        raise PrunescopeError("The recipe is too large for a link: save it as a file instead.")
    return text


def decode(text: str) -> Recipe:
    """Return the recipe in a text that `encode` made.

    Raises:
        PrunescopeError: if there is none, or one that cannot be.
    """
    text = text.strip()
    if len(text) > LONGEST:
        raise _broken(f"it has {len(text):,} characters, and no link has more than {LONGEST:,}")
    if not text.startswith(_VERSION):
        raise _broken("it is of another version, or none")
    body = text.removeprefix(_VERSION)
    try:
        packed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        unfolding = zlib.decompressobj()
        compact = unfolding.decompress(packed, _LARGEST)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise _broken("a part is missing or was changed") from error
    if not unfolding.eof or unfolding.unused_data:
        raise _broken("a part is missing, or too much is in it")
    try:
        return key_recipe_of(parse(compact.decode()))
    except UnicodeDecodeError as error:
        raise _broken("a part was changed") from error


def _broken(why: str) -> PrunescopeError:
    return PrunescopeError(
        f"The link holds no recipe that can be read: {why}. Copy it again, whole, or ask for the "
        "recipe as a file."
    )
