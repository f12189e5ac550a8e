"""Reads a loaded model's anatomy and checks the family's description against the real shapes.

Nothing is guessed: a sub-layer whose parameters the description does not account for, one by one,
is refused with the reason, and the rest of the model stays prunable.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy.families import FAMILIES
from pruning_core.model.anatomy.family import AttentionNames, Family, MlpNames, NormSpan
from pruning_core.model.anatomy.structure import (
    Anatomy,
    Coupling,
    Linear,
    Part,
    Refusal,
    Segment,
    Site,
)
from pruning_core.recipe import SiteKey, SiteKind


class _CannotPrune(Exception):
    """Why one sub-layer is refused."""


def read_anatomy(model: PreTrainedModel) -> Anatomy:
    """Return the layers, sites and units of a model.

    Raises:
        PrunescopeError: if the family is unknown, or no site of the model can be pruned.
    """
    model_type = model.config.model_type
    family = FAMILIES.get(model_type)
    if family is None:
        raise PrunescopeError(
            f"Models of type {model_type!r} are not supported. Supported types: "
            f"{', '.join(sorted(FAMILIES))}. A new family is one small file in "
            "pruning_core/model/anatomy/families."
        )
    layers = model.get_submodule(family.layers)
    assert isinstance(layers, nn.ModuleList)
    sites: list[Site] = []
    refusals: list[Refusal] = []
    linears: list[Linear] = []
    for index in range(len(layers)):
        prefix = f"{family.layers}.{index}"
        for kind, read in ((SiteKind.ATTENTION, _attention), (SiteKind.MLP, _mlp)):
            key = SiteKey(index, kind)
            try:
                _check_switches(model, family)
                sites.append(read(model, family, prefix, key))
            except _CannotPrune as reason:
                refusals.append(Refusal(key, str(reason)))
            linears += _linears(model, family, prefix, key)
    if not sites:
        raise PrunescopeError(
            f"No site of this model can be pruned: {refusals[0].reason}"
            if refusals
            else "This model has no decoder layers."
        )
    return Anatomy(
        family=family.name,
        layers_path=family.layers,
        layers=len(layers),
        hidden_size=int(model.config.get_text_config().hidden_size),
        head_dim=_head_dim(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights_per_token=_weights_per_token(model, family),
        element_size=model.get_parameter(sites[0].couplings[0].tensor).element_size(),
        sites=tuple(sites),
        refusals=tuple(refusals),
        layers_return_tuples=family.layers_return_tuples,
        linears=tuple(linears),
    )


def _head_dim(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    explicit = getattr(config, "head_dim", None)
    return int(explicit or config.hidden_size // config.num_attention_heads)


def _weights_per_token(model: PreTrainedModel, family: Family) -> int:
    """Return how many matrix weights the products of one text token take.

    An embedding is a look-up; the head is a product, even with the embedding's own weight. Experts
    are stacked in one tensor [experts, out, in], of which a token meets a few.
    """
    decoder = model.get_submodule(family.layers.rpartition(".")[0])
    chosen = getattr(model.config.get_text_config(), "num_experts_per_tok", None)
    total = 0
    for module in (*decoder.modules(), model.get_output_embeddings()):
        if isinstance(module, nn.Embedding):
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 2:
                total += parameter.numel()
            elif parameter.ndim == 3:
                experts = len(parameter)
                total += parameter.numel() // experts * (chosen or experts)
    return total


def _check_switches(model: PreTrainedModel, family: Family) -> None:
    for switch, what in family.hindrances:
        if getattr(model.config, switch, False):
            raise _CannotPrune(f"the model's config sets {switch}: {what}")


def _linears(model: PreTrainedModel, family: Family, prefix: str, key: SiteKey) -> Iterator[Linear]:
    """Yield the matrices of one sub-layer that are there and plain, the output projection last."""
    names = family.attention if key.kind is SiteKind.ATTENTION else family.mlp
    module_name = _inside(prefix, names.module)
    for name in (*names.inputs, names.output):
        try:
            linear = _linear(_submodule(model, module_name), name, family)
        except _CannotPrune:
            continue
        is_output = name == names.output
        made_by = None if key.kind is SiteKind.ATTENTION else 0
        yield Linear(
            f"{module_name}.{name}.weight",
            key,
            f"{module_name}.{name}",
            linear.weight.numel(),
            transposed=isinstance(linear, Conv1D),
            channel_axis=1 if is_output and made_by == 0 else made_by,
            is_output=is_output,
        )


def _attention(model: PreTrainedModel, family: Family, prefix: str, key: SiteKey) -> Site:
    names: AttentionNames = family.attention
    module_name = _inside(prefix, names.module)
    module = _submodule(model, module_name)
    builder = _SiteBuilder(module, module_name, family)
    width = int(getattr(module, "head_dim", _head_dim(model)))
    columns = builder.sizes(names.output)[1]
    heads = _divide(columns, width, f"{names.output} columns", "the head width")
    if names.fused:
        rows = builder.sizes(names.fused)[0]
        groups = _divide(rows - heads * width, 2 * width, f"{names.fused} rows", "the head width")
    else:
        key_rows = builder.sizes(names.key)[0]
        groups = _divide(key_rows, width, f"{names.key} rows", "the head width")
    shared_by = _divide(heads, groups, "the query heads", "the key/value heads")

    query, shared = Segment(Part.QUERY_HEAD, heads, width), Segment(Part.KV_HEAD, groups, width)
    # The rows of a single group are query, key, value whichever way they are laid.
    whole_groups = names.interleaved and groups > 1
    if names.fused and whole_groups:
        builder.rows(names.fused, (Segment(Part.KV_HEAD, groups, (shared_by + 2) * width),))
    elif names.fused:
        builder.rows(names.fused, (query, shared, shared))
    else:
        for name, segment in ((names.query, query), (names.key, shared), (names.value, shared)):
            builder.rows(name, (segment,))
    builder.columns(names.output, (query,))
    for norm, segment in ((names.query_norm, query), (names.key_norm, shared)):
        if norm and names.norm_span is NormSpan.WIDTH:
            builder.vector(f"{norm}.weight", (segment,))
        elif norm:
            builder.keep(f"{norm}.weight", torch.Size([width]))
    couplings, fixed = builder.finish()
    return Site(
        key,
        module_name,
        f"{module_name}.{names.output}",
        couplings,
        fixed,
        reads_config=names.reads_config,
        head_counts=names.head_counts,
        head_biases=names.head_biases,
        whole_groups=whole_groups,
        removable=names.removable,
    )


def _mlp(model: PreTrainedModel, family: Family, prefix: str, key: SiteKey) -> Site:
    names: MlpNames = family.mlp
    module_name = _inside(prefix, names.module)
    module = _submodule(model, module_name)
    if any(hasattr(module, name) for name in ("experts", "router")):
        raise _CannotPrune(
            f"the MLP of layer {key.layer} is a mixture of experts ({type(module).__name__}); "
            "experts are not pruned"
        )
    own = (*names.inputs, names.output)
    builder = _SiteBuilder(module, module_name, family, () if names.module else own)
    channels = Segment(Part.CHANNEL, builder.sizes(names.output)[1], 1)
    for name in names.inputs:
        builder.rows(name, (channels, channels) if names.fused else (channels,))
    builder.columns(names.output, (channels,))
    couplings, fixed = builder.finish()
    return Site(
        key,
        module_name,
        f"{module_name}.{names.output}",
        couplings,
        fixed,
        stood_in_for=() if names.module else tuple(f"{module_name}.{name}" for name in own),
    )


class _SiteBuilder:
    """Collects a sub-layer's couplings and sees to it that every parameter is accounted for."""

    def __init__(
        self, module: nn.Module, name: str, family: Family, only: tuple[str, ...] = ()
    ) -> None:
        """Take a sub-layer, or of a whole layer `only` some modules."""
        self._module, self._name, self._family = module, name, family
        self._left = {
            parameter: value
            for parameter, value in module.named_parameters()
            if not only or parameter.partition(".")[0] in only
        }
        self._couplings: list[Coupling] = []
        self._fixed: list[tuple[str, int]] = []

    def sizes(self, linear: str) -> tuple[int, int]:
        """Return the rows and columns of a projection, however it is stored."""
        module = _linear(self._module, linear, self._family)
        first, second = module.weight.shape
        return (second, first) if isinstance(module, Conv1D) else (first, second)

    def rows(self, linear: str, segments: tuple[Segment, ...]) -> None:
        """Couple the output rows of a projection, and its bias."""
        out_features, in_features = self.sizes(linear)
        self._expect(f"{linear} rows", out_features, segments)
        self._couple(f"{linear}.weight", self._axis(linear, 0), in_features, segments)
        if f"{linear}.bias" in self._left:
            self._couple(f"{linear}.bias", 0, 1, segments)

    def columns(self, linear: str, segments: tuple[Segment, ...]) -> None:
        """Couple the input columns of a projection; its bias keeps its shape."""
        out_features, in_features = self.sizes(linear)
        self._expect(f"{linear} columns", in_features, segments)
        self._couple(f"{linear}.weight", self._axis(linear, 1), out_features, segments)
        if f"{linear}.bias" in self._left:
            self.keep(f"{linear}.bias", torch.Size([out_features]))

    def vector(self, name: str, segments: tuple[Segment, ...]) -> None:
        """Couple a vector, such as the weight of a norm over the whole projection."""
        if name not in self._left:
            raise _CannotPrune(f"{self._name}.{name} is missing")
        self._expect(name, self._left[name].numel(), segments)
        self._couple(name, 0, 1, segments)

    def keep(self, name: str, shape: torch.Size) -> None:
        """Account for a tensor that keeps its shape."""
        if name not in self._left:
            raise _CannotPrune(f"{self._name}.{name} is missing")
        if self._left[name].shape != shape:
            raise _CannotPrune(
                f"{self._name}.{name} has shape {tuple(self._left[name].shape)}, "
                f"expected {tuple(shape)}"
            )
        self._fixed.append((f"{self._name}.{name}", self._left.pop(name).numel()))

    def finish(self) -> tuple[tuple[Coupling, ...], tuple[tuple[str, int], ...]]:
        """Return couplings and fixed tensors; refuse if a parameter was left over."""
        if self._left:
            raise _CannotPrune(
                f"{self._name} has parameters that its family's description does not know: "
                f"{', '.join(self._left)}"
            )
        return tuple(self._couplings), tuple(self._fixed)

    def _axis(self, linear: str, axis: int) -> int:
        """Return where an axis of the [out, in] matrix lies in the stored one."""
        return 1 - axis if isinstance(getattr(self._module, linear), Conv1D) else axis

    def _couple(self, name: str, axis: int, size: int, segments: tuple[Segment, ...]) -> None:
        del self._left[name]
        self._couplings.append(Coupling(f"{self._name}.{name}", axis, size, segments))

    def _expect(self, what: str, found: int, segments: tuple[Segment, ...]) -> None:
        expected = sum(segment.size for segment in segments)
        if found != expected:
            raise _CannotPrune(f"{self._name}: {found} {what} where {expected} were expected")


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise _CannotPrune(f"there is no {name}") from error


def _inside(prefix: str, module: str) -> str:
    return f"{prefix}.{module}" if module else prefix


def _linear(module: nn.Module, name: str, family: Family) -> nn.Linear | Conv1D:
    linear = getattr(module, name, None)
    renamed = isinstance(linear, nn.Linear) and type(linear).__name__ == family.projection
    if type(linear) not in (nn.Linear, Conv1D) and not renamed:
        found = "missing" if linear is None else f"a {type(linear).__name__}"
        raise _CannotPrune(f"{name} is {found}; only plain linear layers can be sliced")
    return linear


def _divide(value: int, by: int, what: str, what_by: str) -> int:
    if by <= 0 or value <= 0 or value % by:
        raise _CannotPrune(f"{what} ({value}) are not a multiple of {what_by} ({by})")
    return value // by
