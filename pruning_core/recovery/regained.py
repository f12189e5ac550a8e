"""What a recovery has taken back of what pruning cost."""

from __future__ import annotations

import math


def regained(dense: float, pruned: float, recovered: float) -> float | None:
    """Return which share of the loss added by pruning is gone again, from three perplexities.

    None where pruning added none, or one of them overflowed.
    """
    if not math.isfinite(dense * pruned * recovered) or pruned <= dense:
        return None
    return math.log(pruned / recovered) / math.log(pruned / dense)
