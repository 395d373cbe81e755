"""Running the cells of a benchmark: what all engines share, and which there are.

work.py     a cell's process
local.py    on this machine; devices.py: its GPUs
cluster.py  on a Ray cluster; nodes.py: its nodes; tasks.py: what they do
"""

from __future__ import annotations

import importlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from ... import files, rundir
from ...errors import BadValue, Interrupted, RunFailed
from ...progress import Progress
from ..cells import Cell
from ..store import Failure, Store
from .work import Ended

ENGINES = {"local": "local:Local", "ray": "cluster:Cluster"}
"""By name, where they are."""


class Engine(Protocol):
    """Has cells worked on, each by a process of its own; knows nothing of what became of them."""

    def room(self) -> bool:
        """Whether another cell can begin."""

    def begin(self, cell: Cell) -> None:
        """Have a cell worked on."""

    def ended(self) -> list[tuple[Cell, Ended]]:
        """The cells that nobody works on any more; waits a moment for one."""

    def stop(self) -> None:
        """End all work as Ctrl-C does, so that what is finished is kept."""


def run(
    cells: Iterable[Cell],
    store: Store,
    progress: Progress,
    *,
    engine: str = "local",
    address: str | None = None,
    jobs: int | None = None,
    retry: bool = False,
) -> None:
    """Run the cells that have no result; a cell that fails stops no other.

    A cell that another process works on, such as one that was left when an earlier `run` was killed, is waited for.

    Args:
        engine: of `ENGINES`.
        address: of the Ray cluster.
        jobs: cells at once; by default as many as the machine or the cluster carries.
        retry: run those again that have failed.

    Raises:
        BadValue: there is no such cluster, its nodes cannot work on these cells, or an address without a cluster.
        RunFailed: the disk is full or cannot be written, which is no cell's failure; what was finished is kept.
        Interrupted: Ctrl-C; the processes have ended and what they finished is kept.
    """
    if address is not None and engine != "ray":
        raise BadValue(f"--address {address}: the engine '{engine}' has none.", "--engine ray")
    cells = list(cells)
    store.sweep()
    bench = _Bench(cells, store, progress, retry)
    if not bench.waiting:
        return
    module, _, name = ENGINES[engine].partition(":")
    opened: type = getattr(importlib.import_module(f".{module}", __name__), name)
    worker: Engine = opened(tuple(bench.waiting), store, progress, jobs=jobs, address=address)
    try:
        bench.run(worker)
    except KeyboardInterrupt:
        worker.stop()  # before the count, since what is about to end may have been finished
        done = sum(store.state(cell) == "done" for cell in cells)
        raise Interrupted(
            f"Interrupted; {done} of {len(cells)} cells are done, what was finished of the rest is in {store.root}.",
            "the same command goes on from there",
        ) from None
    finally:
        worker.stop()


class _Bench:
    """The cells that wait and those at work."""

    def __init__(self, cells: Sequence[Cell], store: Store, progress: Progress, retry: bool):
        self.store, self.progress, self.total = store, progress, len(cells)
        self.waiting: deque[Cell] = deque()
        self.begun: dict[str, float] = {}
        self.elsewhere: set[str] = set()
        self.reported = 0
        self.bar = progress.stage("cells", self.total)
        for cell in cells:
            state = store.state(cell)
            if state == "done" or (state == "failed" and not retry):
                self._report(cell)
            else:
                if store.forget(cell):
                    progress.say(f"{cell}: begins anew; another version of rtk had not finished it")
                self.waiting.append(cell)

    def run(self, engine: Engine) -> None:
        """Until nothing waits and nothing is at work."""
        while self.waiting or self.begun:
            for _ in range(len(self.waiting)):
                if not engine.room():
                    break
                self._look_at(self.waiting.popleft(), engine)
            for cell, ended in engine.ended():
                self._ended(cell, ended)

    def _look_at(self, cell: Cell, engine: Engine) -> None:
        state = self.store.state(cell)
        if state in ("done", "failed"):  # another process has been quicker
            self._report(cell)
        elif state == "running":  # by another process
            self.waiting.append(cell)
            if cell.key not in self.elsewhere:
                self.elsewhere.add(cell.key)
                who = rundir.holder(self.store.directory(cell))
                self.progress.say(f"{cell}: another process works on it{who}, and is waited for")
        else:
            self.begun[cell.key] = time.monotonic()
            engine.begin(cell)

    def _ended(self, cell: Cell, ended: Ended) -> None:
        begun = self.begun.pop(cell.key)
        done = self.store.state(cell) == "done"
        if not done and any(found in ended.reason for found in (rundir.IN_USE, files.GONE)):
            self.waiting.append(cell)
            return
        if not done and ended.reason.startswith((files.FULL, files.REFUSED)):
            message, _, hint = ended.reason.partition(" Try: ")
            raise RunFailed(message, hint or None)
        if not done and ended.code != Interrupted.exit_code:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.store.fail(cell, Failure(ended.reason, ended.code, now, str(cell.request.plugin)))
        self._report(cell, time.monotonic() - begun)

    def _report(self, cell: Cell, seconds: float | None = None) -> None:
        """One line about a cell that is done, has failed, or was interrupted by somebody else."""
        self.reported += 1
        took = "before" if seconds is None else f"{seconds:.0f} s"
        line = f"[{self.reported}/{self.total}] {cell}: "
        state = self.store.state(cell)
        if state == "done":
            self.progress.say(f"{line}done, {took}")
        elif state == "failed":
            self.progress.say(f"{line}failed, {took}: {self.store.failure(cell).reason}")
        else:
            self.progress.say(f"{line}interrupted, {took}; the same command goes on with it")
        self.bar.advance()
