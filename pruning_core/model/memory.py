"""What a model will need in memory, told before it is loaded and again before it is scored.

Counts from shapes alone, so that a skeleton does as well as a model: activations by a rule that was
held against measurements of the Llama, Qwen 3 and Gemma 3 blocks. Assumes scaled dot-product
attention, which keeps no attention matrix, and one window at a time. Loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch
from transformers import PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import read_anatomy
from pruning_core.model.configuration import read_config, skeleton
from pruning_core.model.reference import ModelRef, Source
from pruning_core.progress import Tick, silent


@dataclass(frozen=True)
class Preflight:
    """Memory needed and memory there, in bytes.

    With ``s`` the bytes of one number in `dtype` and ``T`` the window in tokens:

    - ``weights = s * parameters``, tied ones counted once
    - ``load_peak = weights + 4 * largest tensor``: each is converted by itself. For a GGUF off CUDA
      ``weights + 12 * largest tensor``: unpacked to float32, copied and rounded, one by one; and
      once more ``weights`` on Metal, which shares its memory with the CPU that unpacks them
    - ``activations = T * (s * sum(rows + columns) + 12 * sum(vector lengths)
      + 3 s * vocabulary)`` over the matrices and vectors between embedding and output: what
      enters and leaves each matrix, the float32 work of the norms, and the logits, their gradient
      and the dense logits that the fusion compares them with
    - ``gradient = (s + 8) * largest matrix between embedding and output``: the gradient, its
      float32 copy and its product with the weight; stacked experts are not scored and have none
    - ``scoring_peak = weights + activations + gradient``

    Attributes:
        load_peak_bytes: the most that loading takes.
        scoring_peak_bytes: the most that one scoring pass takes, weights included.
        available_bytes: free on `device` by the time of loading; for ``cuda`` without a number, on
            all GPUs together.
        device: where the model is meant to live.
        dtype: the number format it is meant to have.
        parameters: tied ones counted once.
        window: the calibration window, in tokens.
    """

    load_peak_bytes: int
    scoring_peak_bytes: int
    available_bytes: int
    device: torch.device
    dtype: torch.dtype
    parameters: int
    window: int

    @property
    def fits_loading(self) -> bool:
        """Whether the model can be loaded in what is free."""
        return self.load_peak_bytes <= self.available_bytes

    @property
    def fits_scoring(self) -> bool:
        """Whether importance can be scored in what is free, loading included."""
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
            f"{in_gb(self.load_peak_bytes)}, scoring with windows of {self.window} tokens "
            f"{in_gb(self.scoring_peak_bytes)}; {in_gb(self.available_bytes)} are free on "
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
        PrunescopeError: the model's config can't be had or used, or nothing of it can be pruned.
        Cancelled: by `tick`.
    """
    ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
    config, _ = read_config(ref, trust_remote_code=trust_remote_code, tick=tick)
    model = skeleton(config, dtype, trust_remote_code=trust_remote_code)
    read_anatomy(model)
    return of_skeleton(model, device, dtype, window, unpacks=ref.source is Source.GGUF)


def of_skeleton(
    model: PreTrainedModel,
    device: torch.device,
    dtype: torch.dtype,
    window: int = 256,
    *,
    unpacks: bool = False,
) -> Preflight:
    """Return what a model of these shapes needs.

    Args:
        model: a skeleton or a real model; only its shapes and its config are looked at.
        device: where it is meant to live.
        dtype: the number format it is meant to have.
        window: the calibration window, in tokens.
        unpacks: whether it comes from a GGUF.
    """
    sizes = [weight.numel() for weight in model.parameters()]
    weights = dtype.itemsize * sum(sizes)
    load_peak = weights + 4 * max(sizes)
    if unpacks and device.type != "cuda":
        load_peak = weights + 12 * max(sizes)
        if device.type == "mps":
            load_peak += weights
    return Preflight(
        load_peak_bytes=load_peak,
        scoring_peak_bytes=weights + _scoring_bytes(model, dtype, window),
        available_bytes=available(device),
        device=device,
        dtype=dtype,
        parameters=sum(sizes),
        window=window,
    )


def _scoring_bytes(model: PreTrainedModel, dtype: torch.dtype, window: int) -> int:
    """Return what a scoring pass takes beside the weights, by the rule in `Preflight`."""
    ends = {
        id(module.weight)
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
    }
    inner = [weight for weight in model.parameters() if id(weight) not in ends]
    matrices = [weight for weight in inner if weight.dim() > 1]
    vectors = sum(weight.numel() for weight in inner if weight.dim() == 1)
    # Stacked experts count as one: a token passes through few of them.
    widths = sum(sum(matrix.shape[-2:]) for matrix in matrices)
    vocabulary = int(model.config.get_text_config().vocab_size)

    size = dtype.itemsize
    activations = window * (size * widths + 12 * vectors + 3 * size * vocabulary)
    scored = (matrix.numel() for matrix in matrices if matrix.dim() == 2)
    gradient = (size + 8) * max(scored, default=0)
    return activations + gradient


def demand(check: Preflight) -> None:
    """Refuse a model that can't be loaded.

    Raises:
        PrunescopeError: with what is needed and what is there.
    """
    if check.fits_loading:
        return
    raise PrunescopeError(
        f"The model is too large for {check.device}: loading its {_count(check.parameters)} "
        f"parameters needs {in_gb(check.load_peak_bytes)}, and {in_gb(check.available_bytes)} are "
        f"free. Close what else uses memory, or choose a smaller model{_or_halve(check.dtype)}."
    )


def demand_scoring(model: PreTrainedModel, window: int) -> None:
    """Refuse to score a loaded model whose gradients won't fit beside it, before that is tried.

    What a pass takes is held against what is free now: the weights are there already. On a CPU the
    alternative is not an error but a machine that swaps, or a process that is killed.

    Args:
        model: as it will be scored, on its device.
        window: the tokens of one calibration window.

    Raises:
        PrunescopeError: with what is needed, what is there, and what would fit.
    """
    device = whereabouts(model)
    needed, free = _scoring_bytes(model, model.dtype, window), available(device)
    if needed <= free:
        return
    raise PrunescopeError(
        f"Scoring with windows of {window} tokens does not fit on {device}: beside the weights it "
        f"needs {in_gb(needed)}, and {in_gb(free)} are free. Choose shorter calibration windows, "
        f"close what else uses memory, or load a smaller model{_or_halve(model.dtype)}."
    )


def demand_thinning(model: PreTrainedModel, weights: int, *, gradients: bool) -> None:
    """Refuse to choose single weights where there is no room for the matrices that come of it.

    Args:
        model: dense, on its device; its weights stay beside the thinned ones.
        weights: how many weights the thinned matrices have.
        gradients: whether the method keeps a number in fp32 for every one of them besides.

    Raises:
        PrunescopeError: with what is needed, what is there, and what would fit.
    """
    device = whereabouts(model)
    needed = weights * (model.dtype.itemsize + 4 * gradients)
    free = available(device)
    if needed <= free:
        return
    raise PrunescopeError(
        f"Single weights can't be chosen on {device}: the thinned matrices need {in_gb(needed)} "
        f"beside the dense ones, and {in_gb(free)} are free. Prune fewer layers, close what else "
        f"uses memory, or load a smaller model{_or_halve(model.dtype)}."
    )


def demand_moments(model: PreTrainedModel, products: int) -> None:
    """Refuse to gather products of inputs at every site at once where there is no room for them.

    Args:
        model: dense, on its device.
        products: how many there are, in fp32.

    Raises:
        PrunescopeError: with what is needed, what is there, and what would fit.
    """
    device = whereabouts(model)
    needed, free = 4 * products, available(device)
    if needed <= free:
        return
    raise PrunescopeError(
        f"The second moments of every site's inputs need {in_gb(needed)} on {device}, and "
        f"{in_gb(free)} are free. A repair with prefix=pruned holds one site's at a time; or close "
        "what else uses memory."
    )


def whereabouts(model: PreTrainedModel) -> torch.device:
    """Return the device of a model; spread over several GPUs, all that comes of it is as well."""
    places = {weight.device for weight in model.parameters()}
    return places.pop() if len(places) == 1 else torch.device("cuda")


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


def _or_halve(dtype: torch.dtype) -> str:
    return " or a dtype of two bytes such as bfloat16" if dtype.itemsize > 2 else ""


def in_gb(size: int) -> str:
    """Return bytes in words: ``1.2 GB``, of 10^9 bytes."""
    return f"{size / 1e9:,.1f} GB"


def _count(parameters: int) -> str:
    for unit, word in ((10**9, "billion"), (10**6, "million")):
        if parameters >= unit:
            return f"{parameters / unit:,.1f} {word}"
    return f"{parameters:,}"
