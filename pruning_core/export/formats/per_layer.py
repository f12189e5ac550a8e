"""Widths layer by layer: `per_layer_config` in config.json, and a small modeling file beside it.

Keys and skip words are those of transformers; its own classes do not build such models yet, so the
code comes along. Attention of the first layer is never skipped, since the length of the cache is
read off it: it stays with one head, all zeros. What is skipped is also given widths that no stock
layer has, so that loading without the code fails loudly and never makes weights up.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import types
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel

from pruning_core.export import modeling_per_layer
from pruning_core.export.checkpoint import Checkpoint
from pruning_core.export.classes import stock_class, stock_config
from pruning_core.export.format import Format, Impossible, Loading, Subject
from pruning_core.export.layout import NoLayout, bias_switches, outlined, tensors_for
from pruning_core.export.shelf import Shelf
from pruning_core.export.stored import published
from pruning_core.export.widths import Room, dense_room
from pruning_core.planning.plan import UnitPlan
from pruning_core.recipe import SiteKey, SiteKind

CODE = "modeling_per_layer"
_CLASSES = {
    "AutoConfig": "PerLayerConfig",
    "AutoModel": "PerLayerModel",
    "AutoModelForCausalLM": "PerLayerForCausalLM",
}


def draft(subject: Subject) -> Checkpoint:
    """Return the checkpoint with a width of its own for every site."""
    shelf = subject.shelf
    stock = _demand_stock(shelf)
    overrides, rooms, skipped = _overrides(shelf)
    if not overrides:
        raise Impossible("no layer differs from the dense model's: choose plain")
    code = _code(stock, shelf.model)
    module = _imported(code)
    values = {**stock_config(shelf.model).to_dict(), **bias_switches(shelf)}
    values |= {"head_dim": shelf.anatomy.head_dim, "per_layer_config": overrides}
    try:
        config = module.PerLayerConfig.from_dict(values)
    except Exception as error:  # strict configs raise classes of their own
        raise Impossible(
            f"the config of {shelf.anatomy.family} asks for one number of heads for all layers: "
            "choose padded"
        ) from error
    try:
        outline = outlined(lambda: module.PerLayerForCausalLM(config))
        places = {layer: layer for layer in range(shelf.anatomy.layers)}
        gone = tuple(f"{shelf.anatomy.by_key[key].module}." for key in skipped)
        tensors, _padding = tensors_for(shelf, outline, rooms, places, without=gone)
    except NoLayout as reason:
        raise Impossible(f"its layers cannot be built one by one: {reason}") from reason

    files = published(tensors, shelf.model)
    if [tensor.name for tensor in files] != [tensor.name for tensor in tensors]:
        raise Impossible(
            "its experts have other names in a checkpoint than in memory, and transformers "
            "translates those for its own classes only: choose padded"
        )

    def ship(config: PreTrainedConfig, folder: Path) -> None:
        (folder / f"{CODE}.py").write_text(code, encoding="utf-8")
        config.auto_map = {auto: f"{CODE}.{name}" for auto, name in _CLASSES.items()}

    notes: tuple[str, ...] = (
        f"{len(overrides)} of {shelf.anatomy.layers} layers have widths of their own, and "
        f"{len(skipped)} sub-layers are skipped. {CODE}.py lies beside the weights: read it, it is "
        "short.",
    )
    if any(key.kind is SiteKind.ATTENTION for key in skipped):
        notes += ("vLLM refuses skipped attention; choose padded for it.",)
    return Checkpoint(
        subject,
        config,
        _CLASSES["AutoModelForCausalLM"],
        files,
        Loading.TRUSTED,
        notes,
        ship,
    )


def _demand_stock(shelf: Shelf) -> type[PreTrainedModel]:
    """Return the stock class of a model, if the shipped code fits its family.

    Raises:
        Impossible: if it does not.
    """
    if not isinstance(shelf.plan, UnitPlan):
        raise Impossible("single weights leave every layer as wide as it was: choose plain")
    stock = stock_class(shelf.model)
    if stock is None:
        raise Impossible(f"{shelf.anatomy.family} brings code of its own, which cannot be refined")
    sites = {site.key.kind: site for site in shelf.anatomy.sites}
    names = {SiteKind.ATTENTION: "self_attn", SiteKind.MLP: "mlp"}
    alike = all(site.module.endswith(f".{names[kind]}") for kind, site in sites.items())
    if shelf.anatomy.layers_path != "model.layers" or not alike:
        raise Impossible(
            f"layers of {shelf.anatomy.family} are not built as the shipped code expects, from "
            "per_layer_config with a head width of its own: choose padded"
        )
    return stock


def _overrides(
    shelf: Shelf,
) -> tuple[dict[int, dict[str, object]], dict[SiteKey, Room], frozenset[SiteKey]]:
    """Return what differs layer by layer, the width of every site, and the sites that are skipped.

    What a layer of the loaded model skips already, it goes on skipping.
    """
    nominal = stock_config(shelf.model)
    before = shelf.model.config.per_layer_config
    rooms, skipped = {}, set()
    overrides: dict[int, dict[str, object]] = {}
    for layer in range(shelf.anatomy.layers):
        own: dict[str, object] = {}
        skip: list[str] = []
        for kind in SiteKind:
            key = SiteKey(layer, kind)
            site = shelf.anatomy.by_key.get(key)
            if site is None:
                if kind in getattr(before[layer], "skip", ()):
                    skip.append(kind)
                    own |= _fields(kind, None)
                continue
            room = shelf.rooms[key]
            clock = layer == 0 and kind is SiteKind.ATTENTION
            if not room.units and key in shelf.hollow and not clock:
                skipped.add(key)
                skip.append(kind)
                own |= _fields(kind, None)
                continue
            rooms[key] = room if room.units else Room(1, min(dense_room(site).heads, 1))
            own |= _fields(kind, rooms[key])
        own = {field: value for field, value in own.items() if getattr(nominal, field) != value}
        if own or skip:
            overrides[layer] = own | ({"skip": [str(word) for word in skip]} if skip else {})
    return overrides, rooms, frozenset(skipped)


def _fields(kind: SiteKind, room: Room | None) -> dict[str, object]:
    """Return what a config says of a width; of None, what no stock layer that is there has."""
    if kind is SiteKind.MLP:
        return {"intermediate_size": room.units if room else 0}
    units, heads = (room.units, room.heads) if room else (1, 1)
    return {"num_attention_heads": units * heads, "num_key_value_heads": units}


def _code(stock: type[PreTrainedModel], model: PreTrainedModel) -> str:
    """Return the shipped file: this project's own, with the names of another family in it."""
    config = next(c for c in type(model.config).__mro__ if c.__module__.startswith("transformers."))
    base = next(
        c for c in type(model.base_model).__mro__ if c.__module__.startswith("transformers.")
    )
    text = inspect.getsource(modeling_per_layer)
    for ours, theirs in (
        ("transformers.models.llama.configuration_llama", config.__module__),
        ("transformers.models.llama.modeling_llama", stock.__module__),
        ("LlamaForCausalLM", stock.__name__),
        ("LlamaConfig", config.__name__),
        ("LlamaModel", base.__name__),
    ):
        text = text.replace(ours, theirs)
    return text


def _imported(code: str) -> types.ModuleType:
    """Return the shipped file as a module, to see whether what it builds is what is written."""
    name = f"prunescope_{CODE}_{hashlib.sha256(code.encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        module = types.ModuleType(name)
        sys.modules[name] = module
        exec(compile(code, f"{CODE}.py", "exec"), module.__dict__)
    return sys.modules[name]


FORMAT = Format(
    "per-layer",
    "checkpoint with a width for every layer, and the code that builds it",
    ("transformers 5.15 or newer with trust_remote_code=True",),
    draft,
)
