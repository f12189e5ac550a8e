"""A model's configuration, and what follows from it before any weight is read.

Finds the config wherever the model comes from, says whether it describes a model that can be opened
here, and builds its skeleton without memory. Decides nothing about weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pruning_core.errors import PrunescopeError
from pruning_core.model import demo, gguf_file, headers, hub
from pruning_core.model.reference import ModelRef, Source
from pruning_core.progress import Tick, silent

# What transformers raises over a config that it doesn't know, or that contradicts itself.
_CONFIG_FAILS = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError),
    StrictDataclassError,
)
# Some of transformers' messages list every model type it knows.
_REASON_LENGTH = 300


def read_config(
    ref: ModelRef, *, trust_remote_code: bool = False, tick: Tick = silent
) -> tuple[PreTrainedConfig, Path | None]:
    """Return the config of the model at `ref`, and the folder that it lies in.

    From the hub, everything but the weights is fetched. There is no folder for a GGUF, nor for the
    demo model, whose config is known without fetching it.

    Raises:
        PrunescopeError: there is none, it can't be read, it needs code that is not trusted, or it
            describes something else than an unquantized causal language model.
        Cancelled: by `tick`.
    """
    if ref.source is Source.DEMO:
        return demo.architecture(), None
    if ref.source is Source.GGUF:
        headers.read_gguf(Path(ref.location))
        try:
            config = gguf_file.read_config(Path(ref.location))
        except (OSError, *_CONFIG_FAILS) as error:
            raise PrunescopeError(
                f"transformers can't read the GGUF {ref}: {reason(error)} Use a GGUF of a "
                "supported architecture, or the model's safetensors checkpoint."
            ) from error
        _demand_causal(ref, config)
        return config, None
    folder = Path(ref.location)
    if ref.source is Source.HUB:
        folder = hub.fetch_configuration(ref, trust_remote_code=trust_remote_code, tick=tick)
    try:
        config = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ImportError, *_CONFIG_FAILS) as error:
        raise _explain(ref, error) from error
    _demand_causal(ref, config)
    return config, folder


def skeleton(
    config: PreTrainedConfig, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Return the model that `config` describes, on the meta device: all shapes, no memory.

    Raises:
        PrunescopeError: transformers has no causal language model for it, or the config
            contradicts itself.
    """
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=trust_remote_code
            )
    except ImportError as error:
        raise PrunescopeError(
            f"This model's code needs a package that is not installed: {reason(error)}"
        ) from error
    except (RuntimeError, *_CONFIG_FAILS) as error:
        if needs_trust(error):
            raise untrusted(str(config.name_or_path or config.model_type)) from error
        raise PrunescopeError(
            f"A model of type {config.model_type!r} can't be built as a causal language model from "
            f"this config: {reason(error)}"
        ) from error


def needs_trust(error: Exception) -> bool:
    """Say whether transformers refused because code from the checkpoint would have to run."""
    return "trust_remote_code" in str(error)


def untrusted(name: str) -> PrunescopeError:
    """Return the error for a checkpoint whose own code would have to run."""
    return PrunescopeError(
        f"{name} brings its own Python code, which would run with all your rights. Read it, and if "
        "you trust who wrote it, load again with remote code allowed (trust_remote_code=True)."
    )


def _explain(ref: ModelRef, error: Exception) -> PrunescopeError:
    """Return the error for a config that transformers refuses, with the reason in its words."""
    if needs_trust(error):
        return untrusted(str(ref))
    if isinstance(error, ImportError):
        return PrunescopeError(
            f"{ref} needs a package that is not installed: {reason(error)} Install it and try "
            "again."
        )
    return PrunescopeError(
        f"The config.json of {ref} can't be used: {reason(error)} Check that the checkpoint is "
        "whole and that this version of transformers knows its model type."
    )


def reason(error: Exception) -> str:
    """Return an error's text on one line, cut to a readable length and ended like a sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) > _REASON_LENGTH:
        text = text[:_REASON_LENGTH].rsplit(" ", 1)[0] + " ..."
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _demand_causal(ref: ModelRef, config: PreTrainedConfig) -> None:
    if getattr(config, "quantization_config", None) is not None:
        raise PrunescopeError(
            f"The weights of {ref} are quantized, and pruning needs them dense. Load the "
            "checkpoint that this one was quantized from, or a GGUF, which is dequantized."
        )
    names: list[str] = list(getattr(config, "architectures", None) or [])
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    foreign = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if (known or foreign) and (
        not names or any(name in causal or name.endswith("ForCausalLM") for name in names)
    ):
        return
    what = ", ".join(names) or f"a model of type {config.model_type!r}"
    raise PrunescopeError(
        f"{ref} holds {what}, which is not a causal language model. Prunescope prunes models that "
        "predict the next token, such as LlamaForCausalLM."
    )
