"""The drag editor on the present recipe: what it draws, and what becomes of a stroke."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import streamlit as st

from app import figures, state
from app.components.drag_editor import Edit, SiteShape, drag_editor
from app.components.numbers import NUMBERS
from app.components.sharing import places_of
from app.engine import ENGINE
from app.results import OnBench
from pruning_core.model.anatomy import Part
from pruning_core.planning.plan import UnitPlan
from pruning_core.recipe import PatternKind, Recipe, SiteKey, SiteKind

if TYPE_CHECKING:
    from pruning_core.importance.map import ImportanceMap, SiteScores
    from pruning_core.planning.plan import Plan, SitePlan

BINS = 128
NOTHING = np.zeros(0, np.uint8)


def draw_shape(model: OnBench, recipe: Recipe, plan: Plan | None) -> None:
    """Draw the sparsity of every layer as one shape, to be dragged."""
    pictures = _pictures(plan) if isinstance(plan, UnitPlan) else {}
    sites = [
        SiteShape(
            place.key,
            place.snap(recipe.at(place.key)),
            place.key in recipe.locks,
            _steps(recipe, plan, place.key),
            pictures.get(place.key, NOTHING),
        )
        for place in places_of(model, recipe)
    ]

    def take(edit: Edit) -> None:
        if edit.final or edit.toggled:
            state.take_stroke(model, edit.sparsity, edit.toggled)
        else:
            state.set_draft(edit.sparsity)
            # What it would cost is all that has to be drawn while the pointer is down.
            st.rerun(NUMBERS)

    drag_editor(
        sites, key="shape", revision=recipe.digest, layers=model.anatomy.layers, on_edit=take
    )


def _steps(recipe: Recipe, plan: Plan | None, key: SiteKey) -> tuple[float, ...]:
    """Return the few sparsities a site can have; nothing where it can have nearly any."""
    if recipe.pattern.kind is PatternKind.N_OF_M:
        return (0.0, recipe.pattern.n / recipe.pattern.m)
    if isinstance(plan, UnitPlan) and key.kind is SiteKind.ATTENTION:
        return tuple(width.sparsity for width in plan.sites[key].site.ladder)
    return ()


def _pictures(plan: UnitPlan) -> dict[SiteKey, npt.NDArray[np.uint8]]:
    """Return every site's units as the editor draws them: those that stay before those that go."""
    scores: ImportanceMap | None = ENGINE.map(plan.recipe.fingerprint, plan.recipe.scoring)
    if scores is None:
        return {}
    ordered = [_kept_first(scores.sites[key], site) for key, site in plan.sites.items()]
    return dict(zip(plan.sites, figures.levels(ordered, BINS), strict=True))


def _kept_first(scores: SiteScores, plan: SitePlan) -> npt.NDArray[np.float32]:
    """Return a site's scores, those that stay before those that go, each falling."""
    values = scores.ranked.numpy()
    stays = np.zeros(len(values), bool)
    stays[plan.kept[Part.CHANNEL if scores.heads is None else Part.QUERY_HEAD].numpy()] = True
    return np.concatenate([-np.sort(-values[stays]), -np.sort(-values[~stays])])
