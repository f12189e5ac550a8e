"""Finds a config with which stock transformers builds a pruned model, and the tensors it wants.

Stock code knows one width of its MLPs and one number of heads for all layers. Layers that have gone
altogether are left out; the others get the width of the widest, with zeros around the narrower
ones. Whether stock code can be told that width is not guessed: the model is built from the config
without memory, and every one of its shapes is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import nn
from transformers import MistralConfig, PreTrainedConfig, PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.export.classes import foreign, stock_config
from pruning_core.export.shelf import Shelf, WidthMatters
from pruning_core.export.stored import Stored
from pruning_core.export.widths import Room, dense_room
from pruning_core.model.configuration import skeleton
from pruning_core.recipe import SiteKey, SiteKind

_MLP_FIELDS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
"""What configs call the width of an MLP."""

_NO_DEPTH = {
    "scale_attn_by_inverse_layer_idx": (True, "its attention is scaled by the layer's number"),
    "apply_residual_connection_post_layernorm": (True, "its residual passes through a norm"),
    "do_layer_norm_before": (False, "a norm stands in its residual stream"),
}
"""Switches of a config under which a layer without sub-layers still does something, and what."""


class NoLayout(Exception):
    """There is no config for it; the text says why."""


@dataclass(frozen=True)
class Layout:
    """A pruned model as stock code builds it.

    Attributes:
        config: says what the tensors are.
        architecture: the name of the class that it is for.
        tensors: all of them, in the order of the model.
        rooms: the width of every site of the layers that stay, by its place in the dense model.
        padding: numbers that are there for the shape only.
        dropped: layers that are left out.
        obstacle: why it is not narrower or shorter, where it could be.
    """

    config: PreTrainedConfig
    architecture: str
    tensors: tuple[Stored, ...]
    rooms: Mapping[SiteKey, Room]
    padding: int
    dropped: tuple[int, ...]
    obstacle: str


def stock_layout(shelf: Shelf) -> Layout:
    """Return the smallest layout that stock code builds.

    Raises:
        NoLayout: if there is none.
    """
    undropped = _stays(shelf)
    dropped = () if undropped else shelf.gone
    layers = [n for n in range(shelf.anatomy.layers) if n not in dropped]
    if not layers:
        raise NoLayout("every layer has gone")
    places = {layer: place for place, layer in enumerate(layers)}
    widest = {kind: _widest(shelf, kind, places) for kind in SiteKind}
    obstacle = undropped or ""
    for mlp in (True, False):
        for heads in (True, False):
            narrow = {SiteKind.MLP: mlp, SiteKind.ATTENTION: heads}
            chosen = {kind: room for kind, room in widest.items() if narrow[kind] and room}
            # A kind that is at its dense width anyway has been tried.
            if any(not narrow[kind] and widest[kind] is None for kind in SiteKind):
                continue
            try:
                layout = _built(shelf, chosen, places, dropped)
                return replace(layout, obstacle=obstacle)
            except WidthMatters as error:
                raise NoLayout(str(error)) from error
            except NoLayout as error:
                obstacle = obstacle or str(error)
    raise NoLayout(obstacle)


def _stays(shelf: Shelf) -> str | None:
    """Return why a layer that has gone cannot be left out, None if it can or none has."""
    for switch, (value, what) in _NO_DEPTH.items():
        if shelf.gone and getattr(shelf.model.config, switch, not value) is value:
            return f"no layer can be left out of this model: {what}"
    return None


def _widest(shelf: Shelf, kind: SiteKind, places: Mapping[int, int]) -> Room | None:
    """Return the narrowest width that holds every site of a kind; None where that is the dense one.

    A site that cannot be pruned has its dense width, and there is one width for all.
    """
    sites = {site.key.layer: site for site in shelf.anatomy.of_kind(kind)}
    if not sites or any(layer not in sites for layer in places):
        return None
    rooms = [shelf.rooms[sites[layer].key] for layer in places]
    room = Room(max(max(r.units for r in rooms), 1), max(r.heads for r in rooms))
    if kind is SiteKind.ATTENTION and not room.heads:
        room = Room(1, 1)
    full = {dense_room(sites[layer]) for layer in places}
    # A model whose layers differ to begin with has no dense width that stock code could build.
    alike = not shelf.model.config.get_text_config().is_heterogeneous
    return None if full == {room} and alike else room


def _built(
    shelf: Shelf,
    chosen: Mapping[SiteKind, Room],
    places: Mapping[int, int],
    dropped: tuple[int, ...],
) -> Layout:
    rooms = {
        site.key: chosen.get(site.key.kind, dense_room(site))
        for site in shelf.anatomy.sites
        if site.key.layer in places
    }
    config = _config(shelf, chosen, len(places), dropped)
    try:
        outline = skeleton(config, shelf.model.dtype, trust_remote_code=foreign(shelf.model))
    except PrunescopeError as error:
        raise NoLayout(str(error)) from error
    tensors, padding = tensors_for(shelf, outline, rooms, places)
    return Layout(config, type(outline).__name__, tensors, rooms, padding, dropped, "")


def tensors_for(
    shelf: Shelf,
    outline: PreTrainedModel,
    rooms: Mapping[SiteKey, Room],
    places: Mapping[int, int],
    without: tuple[str, ...] = (),
) -> tuple[tuple[Stored, ...], int]:
    """Return a tensor for every parameter of a model that was built, and how much is padding.

    Args:
        outline: the built model, without memory.
        rooms: the width that it gives each site.
        places: where each layer that stays comes to stand.
        without: what the names of tensors begin with that are left out.

    Raises:
        NoLayout: if its tensors are others than the pruned model's.
        WidthMatters: if zeros beside the units would change what they compute.
    """
    sources = {
        name: source
        for source in (*shelf.dense, *(_bias(shelf, key) for key in shelf.adds_bias))
        if not source.startswith(without) and (name := shelf.renamed(source, places)) is not None
    }
    wanted: dict[str, nn.Parameter] = dict(outline.named_parameters())
    tensors, own = [], 0
    for name, parameter in wanted.items():
        shape = tuple(parameter.shape)
        source = sources.pop(name, None)
        if source is None:
            if not (shelf.adds_bias and name.endswith(".bias")):
                raise NoLayout(f"its config gives it a tensor {name}, which the model has not")
            tensors.append(shelf.zeros(name, shape, shelf.model.dtype))
            continue
        stored = shelf.stored(source, name, rooms)
        if stored.shape != shape:
            raise NoLayout(
                f"its code builds {name} as {shape} where {stored.shape} is needed: that width "
                "has no place in its config"
            )
        tensors.append(stored)
        own += shelf.own_size(source)
    if sources:
        raise NoLayout(f"its config has no place for {min(sources)}")
    return tuple(tensors), sum(prod(tensor.shape) for tensor in tensors) - own


def _bias(shelf: Shelf, key: SiteKey) -> str:
    return f"{shelf.anatomy.by_key[key].output}.bias"


def _config(
    shelf: Shelf, chosen: Mapping[SiteKind, Room], layers: int, dropped: tuple[int, ...]
) -> PreTrainedConfig:
    """Return the model's config with other widths and fewer layers.

    Raises:
        NoLayout: if the model's config refuses them.
    """
    config = stock_config(shelf.model)
    text = config.get_text_config()
    changes = _fewer_layers(text, layers, dropped) if dropped else {}
    changes |= _widths(shelf, text, chosen)
    changes |= bias_switches(shelf)
    try:
        text.update(changes)
        return type(config).from_dict(config.to_dict())
    except Exception as error:  # strict configs raise classes of their own
        if text.model_type == "llama" and not (text.attention_bias or text.mlp_bias):
            return _as_mistral(text)
        raise NoLayout(" ".join(str(error).split())) from error


def bias_switches(shelf: Shelf) -> dict[str, object]:
    """Return what a config says so that output projections have the biases that a plan adds."""
    names = {SiteKind.ATTENTION: "attention_bias", SiteKind.MLP: "mlp_bias"}
    return {names[key.kind]: True for key in shelf.adds_bias}


def outlined(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Return a model without memory.

    Raises:
        NoLayout: if its code refuses its config.
    """
    try:
        with torch.device("meta"):
            return build()
    except Exception as error:  # whatever the code of a family raises over numbers it refuses
        raise NoLayout(" ".join(str(error).split())) from error


def _fewer_layers(
    text: PreTrainedConfig, layers: int, dropped: tuple[int, ...]
) -> dict[str, object]:
    """Return what a config says with layers left out, its lists of one value a layer included."""
    before = text.num_hidden_layers
    changes: dict[str, object] = {"num_hidden_layers": layers}
    for name, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == before:
            changes[name] = [item for n, item in enumerate(value) if n not in dropped]
    return changes


def _widths(
    shelf: Shelf, text: PreTrainedConfig, chosen: Mapping[SiteKind, Room]
) -> dict[str, object]:
    changes: dict[str, object] = {}
    if SiteKind.MLP in chosen:
        units = chosen[SiteKind.MLP].units
        changes |= {field: units for field in _MLP_FIELDS if hasattr(text, field)}
    if SiteKind.ATTENTION in chosen:
        room = chosen[SiteKind.ATTENTION]
        changes["num_attention_heads"] = room.units * room.heads
        changes["num_key_value_heads"] = room.units
        # Explicit, since stock code would divide the hidden size by the heads that are left.
        changes["head_dim"] = shelf.anatomy.head_dim
    return changes


def _as_mistral(text: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config of the Mistral that computes what a Llama does.

    Llama's own refuses a number of heads that does not divide the hidden size.
    """
    values = {
        name: value
        for name, value in text.to_dict().items()
        if name in MistralConfig().to_dict() and name not in ("model_type", "architectures")
    }
    return MistralConfig(**values | {"sliding_window": None, "dtype": text.dtype})
