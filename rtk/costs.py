"""What a run has cost so far: in this process, in the workers that it has waited for, and in earlier processes."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Cost:
    """What a part of a run has cost.

    Attributes:
        seconds: wall time.
        cpu: seconds on all cores.
        peak: most memory of one process, in bytes.
        device: most that tensors took on a GPU, in bytes.
    """

    seconds: float
    cpu: float
    peak: int
    device: int


_elsewhere = 0.0


def add_cpu(seconds: float) -> None:
    """Count what another process has done for the run of this one."""
    global _elsewhere
    _elsewhere += seconds


def cpu_seconds() -> float:
    """Time on all cores, in user and kernel mode."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system + _elsewhere


def peak_bytes() -> int:
    """Most memory that this process, or one of its workers, has held at once."""
    unit = 1 if sys.platform == "darwin" else 1024
    own, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(_high_water() or unit * own, unit * workers)


def _high_water() -> int | None:
    """Of this program alone; Linux's other figure begins with what the process that started it has held."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def device_bytes(device: torch.device) -> int:
    """Most memory that tensors have taken on a GPU at once; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
