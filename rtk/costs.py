"""What a run has cost so far, in this process and in the workers that it has waited for."""

from __future__ import annotations

import os
import resource
import sys

import torch


def cpu_seconds() -> float:
    """Time on all cores, in user and kernel mode."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def peak_bytes() -> int:
    """Most memory that this process, or one of its workers, has held at once."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def device_bytes(device: torch.device) -> int:
    """Most memory that tensors have taken on a GPU at once; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
