"""Where a model lives and in which number format.

Chooses from what this machine has; moves nothing.
"""

from __future__ import annotations

import torch

from pruning_core.errors import PrunescopeError, unknown_name

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; ``auto`` takes the first there is of cuda, mps, cpu.

    ``cuda`` leaves open which GPU, and lets a model spread over several; ``cuda:1`` is that one.

    Raises:
        PrunescopeError: the name is unknown, or this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if kind not in DEVICES[1:] or (colon and not (kind == "cuda" and number.isdecimal())):
        raise unknown_name("device", name, [*DEVICES, "cuda:0"])
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise PrunescopeError(
                f"This machine offers torch no CUDA GPU, so {name!r} can't be used. Choose 'auto' "
                "or 'cpu', or install a CUDA build of torch and its driver."
            )
        if colon and int(number) >= count:
            raise PrunescopeError(
                f"There is no GPU {number}: this machine has {count}, counted from 0."
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise PrunescopeError("This machine has no Metal GPU ('mps'). Choose 'auto' or 'cpu'.")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype called `name`; ``auto`` takes bfloat16 wherever `device` computes in it.

    Where it doesn't, ``auto`` is float32, never float16: activations of current models overflow it.

    Raises:
        PrunescopeError: the name is unknown, or the device can't compute in it.
    """
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise unknown_name("dtype", name, ["auto", *DTYPES])
    if name == "float64" and device.type == "mps":
        raise PrunescopeError("Metal GPUs can't compute in float64. Choose float32.")
    return DTYPES[name]


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            # Emulated bfloat16 computes correctly, at a fraction of float32's speed.
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    return True
