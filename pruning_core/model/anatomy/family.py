"""How a family of models names its tensors: the words in which the files beside this one speak.

A family is data. Adding one is adding a file under `families/` that says where its layers are and
what its projections are called; `reader` checks it against the shapes of the loaded model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NormSpan(StrEnum):
    """What a query or key norm averages over.

    HEAD: one head at a time, with one weight vector shared by all heads; it keeps its shape.
    WIDTH: the whole projection; its weight shrinks with the heads, and it then averages over the
    heads that are left.
    """

    HEAD = "head"
    WIDTH = "width"


@dataclass(frozen=True)
class AttentionNames:
    """Names inside a layer's attention. Fused families give `fused` (rows q, then k, then v)."""

    module: str = "self_attn"
    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "o_proj"
    fused: str | None = None
    query_norm: str | None = None
    key_norm: str | None = None
    norm_span: NormSpan = NormSpan.HEAD
    reads_config: bool = False


@dataclass(frozen=True)
class MlpNames:
    """Names inside a layer's gated MLP. Fused families give `fused` (rows gate, then up)."""

    module: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    fused: str | None = None


@dataclass(frozen=True)
class Family:
    """One family of decoder models.

    Attributes:
        name: how it is called on screen.
        model_types: the ``model_type`` values of configs it describes.
        layers: dotted name of the list of decoder layers.
    """

    name: str
    model_types: tuple[str, ...]
    layers: str = "model.layers"
    attention: AttentionNames = AttentionNames()
    mlp: MlpNames = MlpNames()
