"""How a family of models names its tensors: the words in which the files beside this one speak.

A family is data. Adding one is adding a file under `families/` that says where its layers are and
what its projections are called; `reader` checks it against the shapes of the loaded model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pruning_core.model.anatomy.structure import HeadCount


class NormSpan(StrEnum):
    """What a query or key norm averages over.

    HEAD: one head at a time, with one weight vector shared by all heads; it keeps its shape.
    WIDTH: the whole projection; its weight shrinks with the heads, and it then averages over the
    heads that are left.
    """

    HEAD = "head"
    WIDTH = "width"


LLAMA_COUNTS = (
    ("num_heads", HeadCount.QUERY),
    ("num_attention_heads", HeadCount.QUERY),
    ("num_key_value_heads", HeadCount.KV),
    ("num_key_value_groups", HeadCount.SHARED),
)
"""What attention calls its head counts in Llama and most of what followed it."""


@dataclass(frozen=True)
class AttentionNames:
    """Names inside a layer's attention.

    Attributes:
        module: the sub-layer's name in its layer.
        query, key, value, output: its projections.
        fused: the one projection in place of query, key and value: all query rows, then all key
            rows, then all value rows.
        interleaved: whether the rows of the fused projection lie group by group instead: of each
            key/value head first its query heads, then itself, key and value.
        query_norm, key_norm: norms on queries and keys, where there are any.
        norm_span: what those average over.
        head_counts: attributes that the sub-layer's code reads when it runs, with what they count;
            those that a version of the code does not have are passed over.
        head_biases: keyword arguments of the sub-layer that bring something for every query head
            of the dense model, as ALiBi does.
        reads_config: whether the code reads head counts off its config.
        removable: whether a no-op can stand in for the whole sub-layer.
    """

    module: str = "self_attn"
    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "o_proj"
    fused: str | None = None
    interleaved: bool = False
    query_norm: str | None = None
    key_norm: str | None = None
    norm_span: NormSpan = NormSpan.HEAD
    head_counts: tuple[tuple[str, HeadCount], ...] = LLAMA_COUNTS
    head_biases: tuple[str, ...] = ()
    reads_config: bool = False
    removable: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        """The projections that read the residual stream."""
        return (self.fused,) if self.fused else (self.query, self.key, self.value)


@dataclass(frozen=True)
class MlpNames:
    """Names inside a layer's MLP.

    Attributes:
        module: the sub-layer's name in its layer; empty where the projections are the layer's own.
        gate: the gate's projection, None where there is no gate.
        up, output: the other projections.
        fused: the one projection in place of gate and up: all gate rows, then all up rows.
    """

    module: str = "mlp"
    gate: str | None = "gate_proj"
    up: str = "up_proj"
    output: str = "down_proj"
    fused: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The projections that read the residual stream."""
        if self.fused:
            return (self.fused,)
        return (self.gate, self.up) if self.gate else (self.up,)


@dataclass(frozen=True)
class Family:
    """One family of decoder models.

    Attributes:
        name: how it is called on screen.
        model_types: the ``model_type`` values of configs it describes.
        layers: dotted name of the list of decoder layers.
        attention, mlp: the names inside a layer.
        projection: the class of its projections where that is a ``Linear`` by another name.
        layers_return_tuples: whether a layer returns its hidden states as the first of a tuple.
        hindrances: (switch of the config, what it does) for switches under which the model's code
            goes past the projections, so that no site can be pruned.
    """

    name: str
    model_types: tuple[str, ...]
    layers: str = "model.layers"
    attention: AttentionNames = AttentionNames()
    mlp: MlpNames = MlpNames()
    projection: str | None = None
    layers_return_tuples: bool = False
    hindrances: tuple[tuple[str, str], ...] = ()
