"""GGUF for llama.cpp: the llama architecture for even plans, deci where layers differ.

The deci architecture has a number of heads and a width for every layer. Whole layers are left out;
a layer without attention has no heads; one that has lost only its MLP keeps a small one of zeros,
because llama.cpp leaves such a layer altogether, its attention included. Attention of the first
layer stays too, with one head of zeros: llama.cpp reads the width of a head off it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import PreTrainedConfig

from pruning_core.errors import PrunescopeError
from pruning_core.export.classes import stock_config
from pruning_core.export.format import Draft, Format, Impossible, Loading, Subject
from pruning_core.export.gguf_vocabulary import add_vocabulary, pre_tokenizer
from pruning_core.export.layout import NoLayout, stock_layout
from pruning_core.export.shelf import Shelf
from pruning_core.export.stored import Stored
from pruning_core.export.widths import Room, dense_room
from pruning_core.progress import Tick
from pruning_core.recipe import SiteKey, SiteKind

FILE = "model.gguf"

_LEAST_MLP = 32
# Channels of an MLP that is all zeros: a multiple of what llama.cpp quantizes together.


@dataclass(frozen=True)
class GgufFile(Draft):
    """A GGUF to be written.

    Attributes:
        subject: what it is of.
        architecture: as llama.cpp calls it.
        config: of the dense model.
        layers: the width of every layer's attention and MLP; None where there are no heads.
        tensors: by their names in transformers, matrices in the model's number format.
    """

    subject: Subject
    architecture: gguf.MODEL_ARCH
    config: PreTrainedConfig
    layers: tuple[tuple[Room | None, Room], ...]
    tensors: tuple[Stored, ...]

    @property
    def loading(self) -> Loading:  # type: ignore[override]
        """See `Draft`; transformers reads the llama architecture only."""
        even = self.architecture == gguf.MODEL_ARCH.LLAMA
        return Loading.GGUF if even else Loading.NONE

    @property
    def bytes(self) -> int:
        """See `Draft`."""
        return sum(_bytes(tensor) for tensor in self.tensors)

    @property
    def notes(self) -> tuple[str, ...]:
        """See `Draft`."""
        if self.architecture == gguf.MODEL_ARCH.LLAMA:
            return ("Written under the architecture llama.",)
        return (
            "Written under the architecture deci, which has widths layer by layer. Only llama.cpp "
            "runs it, so that the proof can compare the tensors and not what they compute: try it "
            "before it is passed on.",
        )

    def write(self, folder: Path, largest: int, tick: Tick) -> None:
        """See `Draft`; a GGUF is one file."""
        tokenizer = self.subject.tokenizer
        tokenizer.save_pretrained(folder)
        writer = gguf.GGUFWriter(folder / FILE, gguf.MODEL_ARCH_NAMES[self.architecture])
        self._describe(writer)
        add_vocabulary(writer, tokenizer, folder, int(self.config.vocab_size))
        names = gguf.get_tensor_name_map(self.architecture, len(self.layers))
        for tensor in self.tensors:
            kind = _kind(tensor)
            writer.add_tensor_info(
                names.get_name(tensor.name, try_suffixes=(".weight",)),
                tensor.shape,
                np.dtype(np.uint16 if kind == gguf.GGMLQuantizationType.BF16 else np.float32),
                _bytes(tensor),
                raw_dtype=kind,
            )
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for done, tensor in enumerate(self.tensors):
                tick("writing", done, len(self.tensors), tensor.name)
                writer.write_tensor_data(self._array(tensor))
        finally:
            writer.close()

    def check(self, folder: Path) -> str:
        """See `Draft`."""
        reader = gguf.GGUFReader(folder / FILE)
        found = {tensor.name: tensor for tensor in reader.tensors}
        names = gguf.get_tensor_name_map(self.architecture, len(self.layers))
        with self.subject.shelf.carrying():
            for tensor in self.tensors:
                name = names.get_name(tensor.name, try_suffixes=(".weight",))
                data = found.pop(name).data.tobytes()
                if data != self._array(tensor).tobytes():
                    raise PrunescopeError(
                        f"The proof failed: {name} is not in the GGUF as it was to be written. "
                        "Nothing was kept."
                    )
        self.subject.shelf.bench.restore()
        return f"{len(self.tensors)} tensors, byte by byte"

    def _describe(self, writer: gguf.GGUFWriter) -> None:
        config = self.config
        head = self.subject.shelf.anatomy.head_dim
        rooms = [attention or Room(0, 0) for attention, _mlp in self.layers]
        heads = [room.units * room.heads for room in rooms]
        shared = [room.units for room in rooms]
        widths = [mlp.units for _attention, mlp in self.layers]
        each = self.architecture == gguf.MODEL_ARCH.DECI
        writer.add_name(f"{self.subject.name}, pruned")
        writer.add_block_count(len(self.layers))
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(widths if each else widths[0])
        writer.add_head_count(heads if each else heads[0])
        writer.add_head_count_kv(shared if each else shared[0])
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_rope_dimension_count(head)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)

    def _array(self, tensor: Stored) -> np.ndarray:
        """Make a tensor as llama.cpp wants it: rotary rows interleaved, vectors in fp32."""
        made = tensor.make().detach().to("cpu")
        for projection in ("q_proj", "k_proj"):
            if f".{projection}." in tensor.name:
                head = self.subject.shelf.anatomy.head_dim
                rows = made.reshape(-1, 2, head // 2, made.shape[1])
                made = rows.transpose(1, 2).reshape(made.shape)
        made = made.contiguous()
        kind = _kind(tensor)
        if kind == gguf.GGMLQuantizationType.BF16:
            return made.view(torch.uint16).numpy()
        return (made.float() if kind == gguf.GGMLQuantizationType.F32 else made).numpy()


def draft(subject: Subject) -> GgufFile:
    """Return the GGUF, of the simplest architecture that holds the plan."""
    shelf = subject.shelf
    config = stock_config(shelf.model)
    _demand_llama(shelf, config)
    pre_tokenizer(subject.tokenizer)
    try:
        layout = stock_layout(shelf)
    except NoLayout as reason:
        raise Impossible(str(reason)) from reason
    if all(shelf.rooms[key] == room for key, room in layout.rooms.items()):
        rooms = {
            SiteKey(n, key.kind): room for key, room in layout.rooms.items() for n in (key.layer,)
        }
        return _file(subject, config, gguf.MODEL_ARCH.LLAMA, rooms, layout.dropped)
    return _file(subject, config, gguf.MODEL_ARCH.DECI, _rooms(shelf), shelf.gone)


def _demand_llama(shelf: Shelf, config: PreTrainedConfig) -> None:
    family = shelf.anatomy.family
    if config.model_type not in ("llama", "mistral"):
        raise Impossible(f"only blocks like Llama's are written to GGUF, and {family} has others")
    if getattr(config, "sliding_window", None) is not None:
        raise Impossible("its attention looks at a sliding window, which llama.cpp's llama has not")
    if any(name.endswith(".bias") for name in shelf.dense) or shelf.adds_bias:
        raise Impossible("it has biases, which are not written to GGUF")
    kind = config.rope_parameters.get("rope_type", "default")
    if kind != "default":
        raise Impossible(
            f"its rotary positions are scaled ({kind}), which transformers does not read back from "
            "a GGUF: what cannot be proven is not written"
        )
    if config.hidden_act != "silu" or not isinstance(config.hidden_size, int):
        raise Impossible(f"its activation is {config.hidden_act}, and llama.cpp's llama has silu")


def _rooms(shelf: Shelf) -> dict[SiteKey, Room]:
    """Return the width of every site of the layers that stay; attention that has gone is absent."""
    first = min(layer for layer in range(shelf.anatomy.layers) if layer not in shelf.gone)
    rooms = {}
    for key, room in shelf.rooms.items():
        if key.layer in shelf.gone:
            continue
        if room.units:
            rooms[key] = room
        elif key.kind is SiteKind.MLP:
            rooms[key] = Room(min(_LEAST_MLP, dense_room(shelf.anatomy.by_key[key]).units))
        elif key.layer == first:
            rooms[key] = Room(1, 1)
    return rooms


def _file(
    subject: Subject,
    config: PreTrainedConfig,
    architecture: gguf.MODEL_ARCH,
    rooms: Mapping[SiteKey, Room],
    dropped: tuple[int, ...],
) -> GgufFile:
    shelf = subject.shelf
    kept = [layer for layer in range(shelf.anatomy.layers) if layer not in dropped]
    places = {layer: place for place, layer in enumerate(kept)}
    skipped = tuple(
        f"{shelf.anatomy.layers_path}.{layer}.{part}."
        for layer in kept
        if SiteKey(layer, SiteKind.ATTENTION) not in rooms
        for part in ("self_attn", "input_layernorm")
    )
    tensors = tuple(
        shelf.stored(source, name, rooms)
        for source in shelf.dense
        if not source.startswith(skipped) and (name := shelf.renamed(source, places)) is not None
    )
    layers = tuple(
        (rooms.get(SiteKey(layer, SiteKind.ATTENTION)), rooms[SiteKey(layer, SiteKind.MLP)])
        for layer in kept
    )
    return GgufFile(subject, architecture, config, layers, tensors)


def _kind(tensor: Stored) -> gguf.GGMLQuantizationType:
    if len(tensor.shape) > 1 and tensor.dtype == torch.bfloat16:
        return gguf.GGMLQuantizationType.BF16
    if len(tensor.shape) > 1 and tensor.dtype == torch.float16:
        return gguf.GGMLQuantizationType.F16
    return gguf.GGMLQuantizationType.F32


def _bytes(tensor: Stored) -> int:
    wide = _kind(tensor) == gguf.GGMLQuantizationType.F32
    return tensor.bytes // tensor.dtype.itemsize * (4 if wide else 2)


FORMAT = Format(
    "gguf", "one GGUF file", ("llama.cpp and what builds on it (Ollama, LM Studio)",), draft
)
