"""Saved runs: what one is, where they lie, and how they stand to each other. No torch.

`saved` reads one run from plain values and trusts none of them; `store` keeps them in a folder that
several processes share; `standing` says which are the best for their size and which came of which.
"""

from pruning_core.history.saved import (
    FORMAT,
    Conditions,
    Pieces,
    SavedRun,
    key_recipe_of,
    parse,
    recipe_of,
)
from pruning_core.history.standing import Branch, frontier, tree
from pruning_core.history.store import History, Unreadable, history_root

__all__ = [
    "FORMAT",
    "Branch",
    "Conditions",
    "History",
    "Pieces",
    "SavedRun",
    "Unreadable",
    "frontier",
    "history_root",
    "key_recipe_of",
    "parse",
    "recipe_of",
    "tree",
]
