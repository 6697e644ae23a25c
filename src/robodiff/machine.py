"""What a figure was measured on."""

import os
import platform
from contextlib import suppress
from pathlib import Path


def describe_machine(device: str = "cpu") -> str:
    """Return the processor that computes, in words: that of the machine, or the GPU when ``device`` names one."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{processor()}, {os.cpu_count()} cores"


def cores() -> int:
    """Return how many cores this process may use: fewer than there are in a container or under a batch system."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_free() -> int:
    """Return the bytes of memory that can be taken without pressing others out."""
    with suppress(OSError, StopIteration), open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    return 4 * 1024**3  # not Linux: assume a small laptop


def processor() -> str:
    """Return the model of this machine's CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
