"""The CUDA devices of this machine, one for each cell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence

from ..cells import Cell

VISIBLE = "CUDA_VISIBLE_DEVICES"

COUNT = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
"""Asked of torch, which the cells use: nvidia-smi counts devices that torch cannot use and in another order."""


def visible() -> list[str]:
    """The usable CUDA devices, as CUDA_VISIBLE_DEVICES names them; asked in another process, which imports torch."""
    asked = subprocess.run([sys.executable, "-c", COUNT], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    count = int(asked.stdout) if asked.stdout.strip().isdecimal() else 0  # else the cells say what is wrong with torch
    named = os.environ.get(VISIBLE)
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def takes_one(cell: Cell) -> bool:
    """Whether a cell is given a device: not on the CPU, and not where it names the device itself."""
    return cell.request.options.device in ("auto", "cuda")


def freest(devices: Sequence[str], taken: Iterable[str | None]) -> str:
    """The first device that the fewest have taken."""
    uses = list(taken)
    return min(devices, key=uses.count)
