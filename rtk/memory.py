"""How exhausted memory announces itself."""

from __future__ import annotations

import torch

SIGNS = ("out of memory", "can't allocate memory", "alloc_failed", "cannot allocate memory")
"""In messages of CUDA, cuBLAS, cuDNN and of the CPU allocator, in lower case."""


def ran_out(problem: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU."""
    if isinstance(problem, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(sign in str(problem).lower() for sign in SIGNS)
