"""Processor, memory and package versions of the machine."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from importlib import metadata
from typing import Any

PACKAGES = (
    "modiste",
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "timm",
    "transformers",
    "torchmetrics",
    "numpy",
)


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_pages() -> bool:
    """Make glibc reuse freed memory; return whether it accepted (False with other C libraries).

    By default glibc returns the memory of every large tensor to the system, and each new tensor costs a page fault per
    4 KiB, which the kernel zeroes: half the time of a convolutional network's training step on a CPU.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # numbers of malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(m_mmap_threshold, 2**30) and mallopt(m_trim_threshold, 2**31 - 1))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that an accelerator or the CPU ran out of memory.

    >>> is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 4 bytes"))
    True
    >>> is_out_of_memory(RuntimeError("shapes do not match"))
    False
    """
    import torch

    words = ("can't allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


def peak_memory_mb() -> float:
    """Peak resident memory of this process in MiB; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def processor() -> str:
    """The processor's name as reported by the system."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def has_bf16() -> bool:
    """Whether the processor has bfloat16 instructions; without them, bfloat16 is far slower than float32."""
    try:
        with open("/proc/cpuinfo") as file:
            words = set(file.read().split())
    except OSError:
        return False
    return bool(words & {"amx_bf16", "avx512_bf16", "bf16"})  # the last is Arm's


def environment() -> dict[str, Any]:
    """Return processor, cores, threads, accelerators, system and package versions as plain values."""
    import torch

    return {
        "processor": processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),  # the order of summation, and so rounding, depends on it
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := installed(name))},
    }


def installed(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
