"""What a figure was measured on."""

import os
import platform
from pathlib import Path


def describe_machine(device: str = "cpu") -> str:
    """The processor that computes, in words: that of the machine, or the GPU when ``device`` names one."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """The model of this machine's CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
