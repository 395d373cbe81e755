"""Which floating-point format the training attack computes in.

Only the gradients that a training attack climbs are ever computed in bfloat16; the loss that is minimised, selection,
criticality, every evaluation and every verdict are float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from .errors import BadValue

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Choice:
    """A format, and why it was chosen."""

    precision: Precision
    why: str

    def __str__(self) -> str:
        return f"{self.precision} ({self.why})"


FLOAT32 = Choice("float32", "asked for")


def choose(asked: Literal["auto"] | Precision, device: torch.device) -> Choice:
    """The format for training attacks on `device`; "auto" is bfloat16 where the processor multiplies in it.

    Raises:
        BadValue: bfloat16 on a device that has no instructions for it and would be slower than in float32.
    """
    name = "this GPU" if device.type == "cuda" else "this CPU"
    native = has_bfloat16(device)
    if asked == "bfloat16" and not native:
        raise BadValue(f"--precision bfloat16: {name} has no instructions for it.", "--precision auto")
    if asked != "auto":
        return Choice(asked, "asked for")
    if native:
        return Choice("bfloat16", f"{name} has instructions for it")
    return Choice("float32", f"{name} has no instructions for bfloat16")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies in bfloat16: AVX512-BF16 or AMX, or a GPU from Ampere on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # not every torch knows
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
