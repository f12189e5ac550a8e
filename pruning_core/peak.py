"""How much memory work has taken at its most, and the count started anew where that can be done."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def peak_memory() -> dict[str, int]:
    """Return the peak memory of this process in bytes: main memory, and all GPUs' together.

    Since the process began or, on Linux and for GPUs, since `restart_peak`.
    """
    import torch

    memory = {"main": _peak_main_memory()}
    if torch.cuda.is_available():
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        memory["gpu"] = sum(torch.cuda.max_memory_allocated(gpu) for gpu in gpus)
    return memory


def restart_peak() -> None:
    """Let the peak begin at what is in use now, where the system allows that."""
    import torch

    # Before anything was put on a GPU there is no count, and asking for a new one is an error.
    if torch.cuda.is_initialized():
        for gpu in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(gpu)
    # Where the system has no such file or does not let us write it, the old peak stays.
    with suppress(OSError):
        _RESET.write_text("5")  # proc(5): the peak becomes the present


def _peak_main_memory() -> int:
    if sys.platform == "win32":  # which has no `resource`
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    if _STATUS.exists():
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        # Some containers leave it out.
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in kilobytes, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024
