"""Export: training of what is left, what each format would do with it, files, and their proof."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.bench import require_model, score_button
from app.components.export.form import draw_form
from app.components.export.formats import draw_formats, find_formats, formats_of
from app.components.export.proven import draw_others, draw_written, written_of
from app.components.recover.section import draw_recover
from app.engine import ENGINE
from app.results import OnBench
from app.words import count, percent, size
from pruning_core.recipe import STRUCTURED, PatternKind, Recipe


def draw_subject(model: OnBench, recipe: Recipe) -> None:
    """Draw what would be exported, in a sentence."""
    st.subheader("Take it with you")
    plan = ENGINE.plan(recipe)
    if plan is None:
        return
    if not plan.removed_parameters:
        st.info(
            "Nothing is pruned: an export would be the dense model once more. Choose what leaves "
            "on the Tune page.",
            icon=":material/info:",
        )
        return
    structured = recipe.pattern.kind is PatternKind.STRUCTURED
    st.markdown(
        f"Recipe {recipe.digest} {'takes away' if structured else 'makes zero'} "
        f"{percent(plan.sparsity)} of what can leave, {count(plan.removed_parameters)} of "
        f"{count(model.anatomy.parameters)} parameters. The dense weights take "
        f"{size(model.dense_bytes)}; this is what each format would make of them."
    )


bench = require_model()
state.follow_maps(bench)
present = state.recipe(bench)
draw_subject(bench, present)
if present.pattern == STRUCTURED and ENGINE.map(bench.fingerprint, present.scoring) is None:
    st.markdown("Which units leave is known once their importance has been scored.")
    score_button(bench, "Score", (present.scoring,))
    draw_others(bench, (present, None))
else:
    trained = draw_recover(bench, present)
    candidate = (present, trained.mark if trained else None)
    formats = formats_of(bench, candidate)
    if formats is None:
        find_formats(candidate)
    else:
        draw_formats(formats)
        draw_form(bench, present, trained, formats)
        if written := written_of(bench, candidate):
            draw_written(written)
    draw_others(bench, candidate)
