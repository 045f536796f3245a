"""The machine that a benchmark runs on: which it is, and how much of it its own host took away meanwhile."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """What it ran on, and how busy that was before."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return f"{os.cpu_count()} x {model}, load average {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"


def stolen() -> float:
    """Seconds in which this machine's cores had work and the host ran something else; 0 where it does not tell."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / os.sysconf("SC_CLK_TCK")
