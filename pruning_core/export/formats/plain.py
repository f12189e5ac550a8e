"""A plain checkpoint: every layer has the same width, or whole layers are left out.

Also what thinned weights are kept in: zeros are stored like any other number.
"""

from __future__ import annotations

from collections import Counter

from pruning_core.export.checkpoint import Checkpoint
from pruning_core.export.classes import foreign
from pruning_core.export.format import Format, Impossible, Loading, Subject
from pruning_core.export.layout import Layout, NoLayout, stock_layout
from pruning_core.export.shelf import Shelf
from pruning_core.export.stored import published
from pruning_core.export.widths import Room
from pruning_core.planning.plan import UnitPlan
from pruning_core.recipe import SiteKind

OPENS = ("transformers", "vLLM", "whatever reads Hugging Face checkpoints")

_ZEROS = (
    "The removed weights are zeros: they take as much room as before, and by themselves they make "
    "nothing faster."
)


def draft(subject: Subject) -> Checkpoint:
    """Return the checkpoint, if no tensor of it needs padding."""
    try:
        layout = stock_layout(subject.shelf)
    except NoLayout as reason:
        raise Impossible(str(reason)) from reason
    if uneven := _uneven(subject.shelf, layout):
        raise Impossible(uneven)
    notes = () if isinstance(subject.shelf.plan, UnitPlan) else (_ZEROS,)
    return checkpoint(subject, layout, notes)


def checkpoint(subject: Subject, layout: Layout, notes: tuple[str, ...]) -> Checkpoint:
    """Return the checkpoint of a layout."""
    model = subject.shelf.model
    if layout.dropped:
        notes += (f"{len(layout.dropped)} whole layers are left out, and the others counted anew.",)
    if layout.config.model_type != model.config.model_type:
        notes += (
            f"It is written as {layout.architecture}, which computes the same: the config of "
            f"{model.config.model_type} refuses a number of heads that does not divide the hidden "
            "size.",
        )
    return Checkpoint(
        subject,
        layout.config,
        layout.architecture,
        published(layout.tensors, model),
        Loading.TRUSTED if foreign(model) else Loading.STOCK,
        notes,
    )


def _uneven(shelf: Shelf, layout: Layout) -> str:
    """Return what keeps stock code from building the plan without zeros; empty if nothing does."""
    for kind in SiteKind:
        own = {key: shelf.rooms[key] for key in layout.rooms if key.kind is kind}
        if all(room == layout.rooms[key] for key, room in own.items()):
            continue
        counts = Counter(_told(room, kind) for room in own.values())
        few = ", ".join(f"{n} with {what}" for what, n in counts.most_common(3))
        more = ", ..." if len(counts) > 3 else ""
        why = layout.obstacle or "stock code builds every layer alike"
        return f"of the {kind} sites there are {few}{more}: {why}"
    return ""


def _told(room: Room, kind: SiteKind) -> str:
    if not room.units:
        return "nothing left"
    if kind is SiteKind.MLP:
        return f"{room.units} channels"
    return f"{room.units} key/value heads of {room.heads} query heads"


FORMAT = Format("plain", "plain checkpoint, every layer alike", OPENS, draft)
