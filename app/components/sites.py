"""A slider, or a switch, and a lock for every site."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components.sharing import places_of
from app.results import OnBench
from app.tables import width_words
from app.words import percent
from pruning_core.planning.plan import UnitPlan
from pruning_core.recipe import PatternKind, Recipe, SiteKey, SiteKind

if TYPE_CHECKING:
    from pruning_core.planning.allocation import Place
    from pruning_core.planning.plan import Plan, SitePlan

HEIGHT = 470


def draw_sites(model: OnBench, recipe: Recipe, plan: Plan | None) -> None:
    """Draw the controls of every site that can be pruned, layer by layer."""
    places = {place.key: place for place in places_of(model, recipe)}
    with st.container(height=HEIGHT, border=True, key="sliders"):
        for layer in range(model.anatomy.layers):
            for column, kind in zip(st.columns(2, gap="medium"), SiteKind, strict=True):
                key = SiteKey(layer, kind)
                if key in places:
                    with column:
                        _draw_site(model, recipe, places[key], plan)


def _draw_site(model: OnBench, recipe: Recipe, place: Place, plan: Plan | None) -> None:
    key = place.key
    locked = key in recipe.locks
    control, lock = st.columns([6, 1], gap="small", vertical_alignment="bottom")
    with control:
        if isinstance(plan, UnitPlan):
            _unit_control(model, plan.sites[key], locked)
        elif recipe.pattern.kind is PatternKind.N_OF_M:
            _switch(model, recipe, key, locked)
        else:
            _slider(model, key, _name(key), place.snap(recipe.at(key)), locked)
    lock.button(
        "",
        icon=":material/lock:" if locked else ":material/lock_open:",
        key=f"lock-{key}",
        help="Unlock" if locked else "Lock: masters and presets leave this site alone",
        type="tertiary",
        on_click=lambda: state.set_lock(model, key, not locked),
    )


def _unit_control(model: OnBench, plan: SitePlan, locked: bool) -> None:
    """Draw a slider over the widths that a site can have."""
    site, width = plan.site, plan.width
    label = f"{_name(site.key)} · {width_words(plan)}"
    if site.key.kind is SiteKind.MLP:
        _slider(model, site.key, label, width.sparsity, locked)
        return
    widget = f"site-{site.key}"
    st.select_slider(
        label,
        [step.sparsity for step in site.ladder],
        key=state.control(widget, width.sparsity),
        format_func=lambda share: percent(share, 0),
        on_change=state.moving(
            widget, lambda share: state.change_sparsity(model, {site.key: share})
        ),
        disabled=locked,
        help=f"{width.units} of {site.units} key/value groups, "
        f"{width.heads} of {site.heads_per_unit} query heads in each",
    )


def _slider(model: OnBench, key: SiteKey, label: str, share: float, locked: bool) -> None:
    widget = f"site-{key}"
    st.slider(
        label,
        0,
        100,
        key=state.control(widget, round(100 * share)),
        format="%d%%",
        on_change=state.moving(
            widget, lambda percentage: state.change_sparsity(model, {key: percentage / 100})
        ),
        disabled=locked,
    )


def _switch(model: OnBench, recipe: Recipe, key: SiteKey, locked: bool) -> None:
    """Draw a switch: an n:m pattern has one sparsity."""
    widget = f"site-{key}"
    share = recipe.pattern.n / recipe.pattern.m
    st.toggle(
        f"{_name(key)} · {recipe.pattern}",
        key=state.control(widget, recipe.at(key) > 0),
        on_change=state.moving(
            widget, lambda on: state.change_sparsity(model, {key: share if on else 0.0})
        ),
        disabled=locked,
    )


def _name(key: SiteKey) -> str:
    return f"{key.layer} {'attention' if key.kind is SiteKind.ATTENTION else 'MLP'}"
