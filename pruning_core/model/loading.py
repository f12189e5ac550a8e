"""Loading a model in two steps: refuse what can't work before it costs anything, then read it.

The one place where a reference becomes a model in memory. `prepare` does all that can fail without
memory, so that a model already in memory need not make way for one that can't take its place: it
looks at the config, at what could be pruned, at the memory, and fetches the weights. `read` reads
them. Every fault of the input is told as a `PrunescopeError`; weights that the files don't hold are
never made up, and only formats that can't run code while they are opened are read.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pruning_core.errors import PrunescopeError, memory_ran_out
from pruning_core.model import demo, gguf_file, headers, hub
from pruning_core.model.anatomy import read_anatomy
from pruning_core.model.configuration import needs_trust, read_config, reason, skeleton, untrusted
from pruning_core.model.device import choose_device, choose_dtype
from pruning_core.model.memory import Preflight, demand, free_per_gpu, of_skeleton
from pruning_core.model.reference import ModelRef, Source
from pruning_core.progress import Tick, silent

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
# Room on each GPU for activations, when a model is spread over several.
_GPU_SHARE = 0.85
# What transformers and its helpers raise over files that don't hold what they should.
_READING_FAILS = (
    *(OSError, ValueError, RuntimeError, KeyError, IndexError, TypeError, AttributeError),
    *(ImportError, SafetensorError, MemoryError),
)


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, ready to be looked at: dense, in eval mode, nothing requires gradients.

    Attributes:
        ref: where it came from.
        model: the transformers model.
        tokenizer: its tokenizer.
        device: where token ids go; the first GPU where the model is spread over several.
        dtype: of its weights.
        fingerprint: 16 hex digits that identify the checkpoint's weights, the same in every
            process, dtype and device; `pruning_core.model.headers.fingerprint` says from what.
        preflight: what was expected of memory before it was loaded.
        seconds: what loading took, fetching and converting included.
    """

    ref: ModelRef
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    preflight: Preflight
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """A model on this disk that can be read, pruned, and held in memory; none of it is there yet.

    Attributes:
        ref: where it came from.
        config: what its files say it is.
        folder: where its files lie; None for a GGUF, which `ref` names.
        spans: the tensors of its weight files.
        device: where it will live; ``cuda`` leaves open on which GPU, or on how many.
        dtype: what its weights will be converted to.
        preflight: what is expected of memory.
        trust_remote_code: whether Python code that the checkpoint brings may run.
        seconds: what preparing took, fetching and converting included.
    """

    ref: ModelRef
    config: PreTrainedConfig
    folder: Path | None
    spans: tuple[headers.TensorSpan, ...]
    device: torch.device
    dtype: torch.dtype
    preflight: Preflight
    trust_remote_code: bool
    seconds: float


def load(
    ref: ModelRef | str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    window: int = 256,
    tick: Tick = silent,
) -> LoadedModel:
    """Load the model and tokenizer at `ref`: `prepare`, then `read`; theirs are the arguments.

    Raises:
        PrunescopeError: the model can't be found, fetched, read, trusted, pruned, or held in
            memory.
        Cancelled: by `tick`.
    """
    prepared = prepare(
        ref,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        window=window,
        tick=tick,
    )
    return read(prepared, tick)


def prepare(
    ref: ModelRef | str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    window: int = 256,
    reclaimable: int = 0,
    tick: Tick = silent,
) -> Prepared:
    """Do everything about the model at `ref` that can fail before its weights take memory.

    A model that can't be pruned, or can't be held, is refused before its weights are fetched or
    opened.

    Args:
        ref: a reference, or text for `ModelRef.parse`.
        device: for `choose_device`; ``cuda`` spreads a model that one GPU can't hold and score.
        dtype: for `choose_dtype`; the weights are converted, whatever the files hold.
        trust_remote_code: run Python code that the checkpoint brings.
        window: the calibration window that the pre-flight speaks of, in tokens.
        reclaimable: bytes on that device that the caller will free before `read`; they count as
            available.
        tick: told of the stages ``fetching ...``, ``converting``, ``loading``.

    Raises:
        PrunescopeError: the model can't be found, fetched, trusted, pruned, or held in memory, or
            its files are not whole.
        Cancelled: by `tick`.
    """
    started = time.perf_counter()
    # Files may have gone since a reference was made, so those are looked for again.
    if isinstance(ref, str) or ref.source in (Source.FOLDER, Source.GGUF):
        ref = ModelRef.parse(str(ref))
    place = choose_device(device)
    number = choose_dtype(dtype, place)

    tick("loading", 0, 3, "configuration")
    config, folder = read_config(ref, trust_remote_code=trust_remote_code, tick=tick)
    shapes = skeleton(config, number, trust_remote_code=trust_remote_code)
    read_anatomy(shapes)
    check = of_skeleton(shapes, place, number, window, unpacks=ref.source is Source.GGUF)
    check = replace(check, available_bytes=check.available_bytes + reclaimable)
    demand(check)

    folder = _with_weights(ref, folder, tick)
    spans = headers.read_gguf(Path(ref.location)) if folder is None else _safetensors(ref, folder)
    return Prepared(
        ref=ref,
        config=config,
        folder=folder,
        spans=tuple(spans),
        device=place,
        dtype=number,
        preflight=check,
        trust_remote_code=trust_remote_code,
        seconds=time.perf_counter() - started,
    )


def read(prepared: Prepared, tick: Tick = silent) -> LoadedModel:
    """Read the weights and the tokenizer of what was prepared.

    Raises:
        PrunescopeError: they can't be read, don't belong together, or memory ran out after all.
        Cancelled: by `tick`.
    """
    started = time.perf_counter()
    ref, folder, check = prepared.ref, prepared.folder, prepared.preflight
    tick("loading", 1, 3, "weights")
    try:
        model, report = (
            gguf_file.unpack(Path(ref.location), prepared.config, prepared.dtype, prepared.device)
            if folder is None
            else _read_folder(folder, prepared.dtype, check, prepared.trust_remote_code)
        )
    except _READING_FAILS as error:
        if memory_ran_out(error):
            raise PrunescopeError(
                f"{prepared.device} ran out of memory while {ref} was loaded: {check.sentence()} "
                "Close what else uses it and try again."
            ) from error
        raise _explain_weights(ref, error) from error
    _demand_complete(ref, report)

    tick("loading", 2, 3, "tokenizer")
    tokenizer = _read_tokenizer(ref, folder, prepared.config, prepared.trust_remote_code)
    model.eval()
    model.requires_grad_(False)
    tick("loading", 3, 3)
    return LoadedModel(
        ref=ref,
        model=model,
        tokenizer=tokenizer,
        device=model.device,
        dtype=prepared.dtype,
        fingerprint=headers.fingerprint(_identity(folder, prepared.spans), prepared.spans),
        preflight=check,
        seconds=prepared.seconds + time.perf_counter() - started,
    )


def _with_weights(ref: ModelRef, folder: Path | None, tick: Tick) -> Path | None:
    """Return the checkpoint's folder once its weights are there; None for a GGUF."""
    if ref.source is Source.DEMO:
        return demo.folder(tick)
    if ref.source is Source.HUB and folder:
        return hub.fetch_weights(ref, folder, tick)
    return folder


def _safetensors(ref: ModelRef, folder: Path) -> list[headers.TensorSpan]:
    names = hub.weight_files(folder)
    absent = [name for name in names if not (folder / name).is_file()]
    if not absent:
        return [span for name in names for span in headers.read_safetensors(folder / name)]
    if len(absent) < len(names):
        raise PrunescopeError(
            f"{ref} is incomplete: of the {len(names)} files of its weights, {len(absent)} are "
            f"missing, the first {absent[0]}. Fetch or copy them again."
        )
    if ref.source is Source.HUB or any(next(folder.glob(p), None) for p in _PICKLED):
        raise PrunescopeError(
            f"{ref} has no safetensors weights. Pickled ones (.bin, .pt) are not opened, because "
            "unpickling can run any code: convert them where you trust them, with "
            "`AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder)`, and load that."
        )
    raise PrunescopeError(
        f"The folder {folder} has a config.json but no weights: {absent[0]} is missing. Copy the "
        "*.safetensors files, and their index if there are several, beside it."
    )


def _read_folder(
    folder: Path, dtype: torch.dtype, check: Preflight, trust_remote_code: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    device_map, max_memory = _placement(check)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map=device_map,
        max_memory=max_memory,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # they are in the report
        output_loading_info=True,
    )
    if any(weight.is_meta for weight in model.parameters()):
        # Offloaded weights live on the meta device, where they can be neither scored nor changed.
        raise PrunescopeError(f"The model does not fit the GPUs whole. {check.sentence()}")
    return model, report


def _placement(check: Preflight) -> tuple[str | dict[str, torch.device], dict[int, int] | None]:
    """Return transformers' device map and memory limits: one device if it can hold the work."""
    device = check.device
    if str(device) == "cuda":
        free = free_per_gpu(device)
        if len(free) > 1 and check.scoring_peak_bytes > free[torch.cuda.current_device()]:
            return "auto", {number: int(_GPU_SHARE * size) for number, size in free.items()}
    return {"": device}, None


def _read_tokenizer(
    ref: ModelRef, folder: Path | None, config: PreTrainedConfig, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    cure = (
        "A checkpoint needs its tokenizer's files (tokenizer.json, or tokenizer.model, and "
        "tokenizer_config.json) beside config.json; copy them from where the model was published."
    )
    # Asked for a tokenizer that isn't there, transformers complains about missing packages instead.
    if (
        folder
        and not trust_remote_code
        and not any(next(folder.glob(p), None) for p in _TOKENIZERS)
    ):
        raise PrunescopeError(f"{ref} has no tokenizer. {cure}")
    try:
        if folder is None:
            tokenizer = gguf_file.read_tokenizer(Path(ref.location))
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
    except Exception as error:  # tokenizers raises nothing more special over a damaged file
        if needs_trust(error):
            raise untrusted(str(ref)) from error
        raise PrunescopeError(
            f"The tokenizer of {ref} can't be read: {reason(error)} {cure}"
        ) from error
    # Tokens added on top are not counted: Gemma 3 and GGUF files have some the model never learnt.
    vocabulary = int(config.get_text_config().vocab_size)
    if not 0 < tokenizer.vocab_size <= vocabulary:
        raise PrunescopeError(
            f"The tokenizer of {ref} belongs to another model: it has {tokenizer.vocab_size} "
            f"tokens, and the model knows {vocabulary}. {cure}"
        )
    return tokenizer


def _demand_complete(ref: ModelRef, report: dict[str, Any]) -> None:
    """Refuse a model of which transformers had to make up a part."""
    if mismatched := report["mismatched_keys"]:
        name, stored, wanted = min(mismatched)
        raise PrunescopeError(
            f"The weights of {ref} have other shapes than its config says: {name} is "
            f"{tuple(stored)} in the file and {tuple(wanted)} by the config. The two don't belong "
            "together: fetch the checkpoint again."
        )
    if missing := report["missing_keys"]:
        raise PrunescopeError(
            f"{ref} lacks {len(missing)} of the model's weights, among them {min(missing)}; they "
            "would have to be made up at random. The files belong to another config or another "
            "kind of model: fetch the checkpoint again, or choose its causal language model."
        )


def _identity(folder: Path | None, spans: Sequence[headers.TensorSpan]) -> dict[str, object]:
    """Return what besides the tensors makes this model: its config, or a GGUF's metadata."""
    if folder is not None:
        config: dict[str, object] = json.loads((folder / "config.json").read_text())
        return config
    with spans[0].file.open("rb") as file:
        metadata = file.read(min(span.start for span in spans))
    return {"gguf": hashlib.sha256(metadata).hexdigest()}


def _explain_weights(ref: ModelRef, error: Exception) -> PrunescopeError:
    if needs_trust(error):
        return untrusted(str(ref))
    return PrunescopeError(
        f"The weights of {ref} can't be read: {reason(error)} Fetch or convert the checkpoint "
        "again."
    )
