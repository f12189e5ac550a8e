"""What a model will need in memory, told before it is loaded.

Counts from the config alone: parameters on the meta device, activations by a rule that was held
against measurements of the Llama, Qwen 3 and Gemma 3 blocks. Assumes scaled dot-product attention,
which keeps no attention matrix, and one window at a time. Loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch
from transformers import PreTrainedConfig

from pruning_core.errors import PrunescopeError
from pruning_core.model.configuration import read_config, skeleton
from pruning_core.model.reference import ModelRef, Source
from pruning_core.progress import Tick, silent


@dataclass(frozen=True)
class Preflight:
    """Memory needed and memory there, in bytes.

    With ``s`` the bytes of one number in `dtype` and ``T`` the window in tokens:

    - ``weights = s * parameters``, tied ones counted once
    - ``load_peak = weights + 4 * largest tensor``: each is converted by itself; once more
      ``weights`` for a GGUF on the CPU, whose tensors are all unpacked before they are placed
    - ``activations = T * (s * sum(rows + columns) + 12 * sum(vector lengths)
      + (2 s + 12) * vocabulary)`` over the matrices and vectors between embedding and output: what
      enters and leaves each matrix, the float32 work of the norms, and the logits with their
      float32 copy, softmax and gradient
    - ``gradient = (s + 8) * largest matrix between embedding and output``: the gradient, its
      float32 copy and its product with the weight
    - ``scoring_peak = weights + activations + gradient``

    Attributes:
        weights_bytes: the weights at rest.
        load_peak_bytes: the most that loading takes.
        scoring_peak_bytes: the most that one scoring pass takes, weights included.
        available_bytes: free now on `device`; for ``cuda`` without a number, on all GPUs together.
        device: where the model is meant to live.
        dtype: the number format it is meant to have.
        parameters: tied ones counted once.
        window: the calibration window, in tokens.
    """

    weights_bytes: int
    load_peak_bytes: int
    scoring_peak_bytes: int
    available_bytes: int
    device: torch.device
    dtype: torch.dtype
    parameters: int
    window: int

    @property
    def fits_loading(self) -> bool:
        """Whether the model can be loaded in what is free now."""
        return self.load_peak_bytes <= self.available_bytes

    @property
    def fits_scoring(self) -> bool:
        """Whether importance can be scored in what is free now, loading included."""
        return max(self.load_peak_bytes, self.scoring_peak_bytes) <= self.available_bytes

    def sentence(self) -> str:
        """Say the figures in words, in GB of 10^9 bytes."""
        dtype = str(self.dtype).removeprefix("torch.")
        verdict = (
            "Both fit."
            if self.fits_scoring
            else "It can be loaded, but scoring will not fit."
            if self.fits_loading
            else "It does not fit."
        )
        return (
            f"{_count(self.parameters)} parameters in {dtype}: loading needs "
            f"{_gb(self.load_peak_bytes)}, scoring with windows of {self.window} tokens "
            f"{_gb(self.scoring_peak_bytes)}; {_gb(self.available_bytes)} are free on "
            f"{self.device}. {verdict}"
        )


def preflight(
    ref: ModelRef | str,
    device: torch.device,
    dtype: torch.dtype,
    window: int = 256,
    *,
    trust_remote_code: bool = False,
    tick: Tick = silent,
) -> Preflight:
    """Return what the model at `ref` needs. From the hub only its configuration is fetched.

    Raises:
        PrunescopeError: the model's config can't be had or used.
        Cancelled: by `tick`.
    """
    ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
    config, _ = read_config(ref, trust_remote_code=trust_remote_code, tick=tick)
    return of_config(
        config,
        device,
        dtype,
        window,
        unpacks=ref.source is Source.GGUF,
        trust_remote_code=trust_remote_code,
    )


def of_config(
    config: PreTrainedConfig,
    device: torch.device,
    dtype: torch.dtype,
    window: int = 256,
    *,
    unpacks: bool = False,
    trust_remote_code: bool = False,
) -> Preflight:
    """Return what the model described by `config` needs; `unpacks` says it comes from a GGUF.

    Raises:
        PrunescopeError: no causal language model can be built from the config.
    """
    model = skeleton(config, dtype, trust_remote_code=trust_remote_code)
    ends = {
        id(module.weight)
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
    }
    every = list(model.parameters())
    inner = [weight for weight in every if id(weight) not in ends]
    matrices = [weight for weight in inner if weight.dim() > 1]
    vectors = sum(weight.numel() for weight in inner if weight.dim() == 1)
    # Stacked experts count as one: a token passes through few of them.
    widths = sum(sum(matrix.shape[-2:]) for matrix in matrices)
    vocabulary = int(config.get_text_config().vocab_size)

    size = dtype.itemsize
    parameters = sum(weight.numel() for weight in every)
    weights = size * parameters
    activations = window * (size * widths + 12 * vectors + (2 * size + 12) * vocabulary)
    gradient = (size + 8) * max((matrix.numel() for matrix in matrices), default=0)
    load_peak = weights + 4 * max(weight.numel() for weight in every)
    if unpacks and device.type == "cpu":
        load_peak += weights
    return Preflight(
        weights_bytes=weights,
        load_peak_bytes=load_peak,
        scoring_peak_bytes=weights + activations + gradient,
        available_bytes=available(device),
        device=device,
        dtype=dtype,
        parameters=parameters,
        window=window,
    )


def demand(check: Preflight) -> None:
    """Refuse a model that can't be loaded.

    Raises:
        PrunescopeError: with what is needed and what is there.
    """
    if check.fits_loading:
        return
    halve = " or a dtype of two bytes such as bfloat16" if check.dtype.itemsize > 2 else ""
    raise PrunescopeError(
        f"The model is too large for {check.device}: loading its {_count(check.parameters)} "
        f"parameters needs {_gb(check.load_peak_bytes)}, and {_gb(check.available_bytes)} are "
        f"free. Close what else uses memory, or choose a smaller model{halve}."
    )


def available(device: torch.device) -> int:
    """Return the bytes free on `device`: on all GPUs for ``cuda``, on one for ``cuda:1``."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)  # Metal GPUs share the machine's memory
    return sum(free_per_gpu(device).values())


def free_per_gpu(device: torch.device) -> dict[int, int]:
    """Return the free bytes of each GPU that `device` stands for, by its number."""
    numbers = range(torch.cuda.device_count()) if str(device) == "cuda" else [device.index]
    # What torch has reserved and not given out is free to us, though the driver counts it as used.
    return {
        number: torch.cuda.mem_get_info(number)[0]
        + torch.cuda.memory_reserved(number)
        - torch.cuda.memory_allocated(number)
        for number in numbers
    }


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def _count(parameters: int) -> str:
    for unit, word in ((10**9, "billion"), (10**6, "million")):
        if parameters >= unit:
            return f"{parameters / unit:,.1f} {word}"
    return f"{parameters:,}"
