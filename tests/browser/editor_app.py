"""A page with nothing but the drag editor, on made-up data; prints what Python has as JSON.

``?layers=128`` makes another model, ``?wait=0.5`` a page that
takes as many seconds to draw.
"""

from __future__ import annotations

import json
import time

import numpy as np
import streamlit as st

from app.components.drag_editor import Edit, SiteShape, drag_editor
from pruning_core.recipe import SiteKey, SiteKind

STEPS = tuple(n / 9 for n in range(9))

st.set_page_config(layout="wide")
layers = int(st.query_params.get("layers", 30))
time.sleep(float(st.query_params.get("wait", 0)))
kept = st.session_state.setdefault(
    "kept", {"revision": 0, "sparsity": {}, "locks": [], "finals": 0, "others": 0}
)


def importance(layer: int, kind: SiteKind, bins: int) -> np.ndarray:
    rng = np.random.default_rng((layer, bins))
    middle = 1 - abs(2 * (layer + 0.5) / layers - 1)
    worth = 90 * rng.pareto(2.5, 8 * bins) * (1.3 - 0.8 * middle)
    falling = -np.sort(-worth + (60 if kind is SiteKind.ATTENTION else 0))
    return np.clip(falling.reshape(bins, 8).mean(1) + 90 * (1 - middle), 0, 255).astype(np.uint8)


def take(edit: Edit) -> None:
    kept["revision"] += 1
    kept["finals" if edit.final else "others"] += 1
    kept["sparsity"].update({str(key): value for key, value in edit.sparsity.items()})
    kept["locks"] = sorted({*kept["locks"]} ^ {str(key) for key in edit.toggled})


def reset() -> None:
    kept["revision"] += 1
    kept["sparsity"] = {str(site): 0.25 for site in sites if site.kind is SiteKind.MLP}
    kept["locks"] = ["0.mlp"]


sites = [SiteKey(layer, kind) for layer in range(layers) for kind in SiteKind]
st.button("Reset", on_click=reset)
drag_editor(
    [
        SiteShape(
            site,
            kept["sparsity"].get(str(site), 0.0),
            str(site) in kept["locks"],
            STEPS if site.kind is SiteKind.ATTENTION else (),
            importance(site.layer, site.kind, 9 if site.kind is SiteKind.ATTENTION else 128),
        )
        for site in sites
    ],
    key="editor",
    revision=str(kept["revision"]),
    layers=layers,
    on_edit=take,
)
st.text(json.dumps(kept))
