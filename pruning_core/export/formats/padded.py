"""Pad to the widest: every layer as wide as the widest needs to be, zeros where it is narrower.

It loads wherever the dense model did and computes what the pruned one does; what zeros take is said
beforehand.
"""

from __future__ import annotations

from pruning_core.export.checkpoint import Checkpoint
from pruning_core.export.format import Format, Impossible, Subject
from pruning_core.export.formats.plain import OPENS, checkpoint
from pruning_core.export.layout import NoLayout, stock_layout
from pruning_core.planning.plan import UnitPlan


def draft(subject: Subject) -> Checkpoint:
    """Return the checkpoint, padded where the plan needs it."""
    shelf = subject.shelf
    if not isinstance(shelf.plan, UnitPlan):
        raise Impossible("single weights leave no tensor narrower: there is nothing to pad")
    try:
        layout = stock_layout(shelf)
    except NoLayout as reason:
        raise Impossible(str(reason)) from reason
    size = layout.padding * shelf.model.dtype.itemsize
    total = sum(tensor.bytes for tensor in layout.tensors)
    said = (
        f"Padding costs {size / 1e6:,.1f} MB, {size / total:.1%} of the weights: zeros beside the "
        "units of narrower layers, which are multiplied like any other number."
        if layout.padding
        else "Nothing needs padding: it equals the plain format."
    )
    return checkpoint(subject, layout, (said,))


FORMAT = Format("padded", "checkpoint padded to the widest layer", OPENS, draft)
