"""On this machine: as many cells at once as it carries, each with a CUDA device where there are some."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...cli import leash
from ...progress import Progress
from ..cells import Cell
from ..store import Store
from . import devices
from .work import PAUSE, Ended, Work, arguments, end_all


def cores() -> int:
    """Processor cores of this machine."""
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Busy:
    cell: Cell
    work: Work
    device: str | None


class Local:
    """The processes of this machine."""

    def __init__(self, cells: Sequence[Cell], store: Store, progress: Progress, *, jobs: int | None, **other: Any):
        """
        Args:
            jobs: by default as many as there are CUDA devices; where there are none, half as many as cores.
        """
        self.store = store
        self.devices = devices.visible() if any(map(devices.takes_one, cells)) else []
        self.jobs = jobs or len(self.devices) or max(1, cores() // 2)
        self.busy: list[_Busy] = []
        self.leash = [*os.pipe()]  # the kernel closes it when this process is killed, which ends the cells

    def room(self) -> bool:
        return len(self.busy) < self.jobs

    def begin(self, cell: Cell) -> None:
        device = None
        if self.devices and devices.takes_one(cell):
            device = devices.freest(self.devices, [busy.device for busy in self.busy])
        typed = arguments(self.store, cell, max(1, cores() // self.jobs))
        visible = {devices.VISIBLE: device} if device else {}
        self.busy.append(
            _Busy(cell, Work(typed, {leash.HELD: "1", **self.store.environment, **visible}, self.leash[0]), device)
        )

    def ended(self) -> list[tuple[Cell, Ended]]:
        time.sleep(PAUSE)
        found = [(busy, ended) for busy in self.busy if (ended := busy.work.ended())]
        for busy, _ in found:
            self.busy.remove(busy)
            busy.work.close()
        return [(busy.cell, ended) for busy, ended in found]

    def stop(self) -> None:
        end_all([busy.work for busy in self.busy])
        self.busy = []
        while self.leash:
            os.close(self.leash.pop())
