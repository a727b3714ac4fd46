"""Peak memory of this process, on the host and on its GPUs."""

import ctypes
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch


@cache
def keep_freed() -> None:
    """Lets this process keep memory that it frees, up to 64 MiB, instead of giving it back at once.

    A forward pass on a CPU makes and frees the same large arrays again and again. Where glibc gives each
    back to the system, the page faults of getting it anew cost a fifth of the pass. Does nothing where
    there is no glibc, or where the environment sets glibc's own variables.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _GLIBC.items():
            mallopt(option, value)


_GLIBC = {-3: 32 << 20, -1: 64 << 20}
"""M_MMAP_THRESHOLD, which can be no larger, and M_TRIM_THRESHOLD."""


def peak_memory() -> dict[str, int]:
    """The most so far, in MiB: resident on the host, allocated on each CUDA GPU."""
    used = {"host": int(peak_host())}
    for i in range(torch.cuda.device_count()):
        most = torch.cuda.max_memory_allocated(i)
        if most:
            used[f"cuda:{i}"] = most >> 20
    return used


def free_memory(devices: Sequence[torch.device]) -> int | None:
    """Bytes that this process can have on each of some devices, what it has already counted in.

    Of several GPUs the least; on the host what Linux calls available, elsewhere None.
    """
    gpus = [d for d in devices if d.type == "cuda"]
    if gpus:
        return min(torch.cuda.mem_get_info(d)[0] + torch.cuda.memory_reserved(d) for d in gpus)
    if not Path("/proc/meminfo").is_file():
        return None
    return _kilobytes("/proc/meminfo", "MemAvailable") + _kilobytes("/proc/self/status", "RssAnon")


def _kilobytes(path: str, name: str) -> int:
    """A line of /proc in bytes."""
    lines = Path(path).read_text().splitlines()
    return int(next(x for x in lines if x.startswith(f"{name}:")).split()[1]) << 10


def peak_host() -> float:
    """The largest resident memory of this process so far, in MiB."""
    if Path("/proc/self/status").is_file():
        # ru_maxrss would include what the parent held when it started this process
        return _kilobytes("/proc/self/status", "VmHWM") / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
