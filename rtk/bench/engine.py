"""Running the cells of a benchmark on this machine, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO

from ..errors import Interrupted
from ..progress import Progress
from .cells import Cell
from .store import Failure, Store

THREADS = "2"
"""Of one cell, unless OMP_NUM_THREADS is set; not as many as are free, since the order of a sum can change its bits."""

PATIENCE = 10.0
"""Seconds that a process is given to end by itself before it is killed."""

PAUSE = 0.1
"""Seconds between two looks at the processes."""


def cores() -> int:
    """Processor cores of this machine."""
    return os.cpu_count() or 1


def run(
    cells: Iterable[Cell], store: Store, progress: Progress, *, jobs: int | None = None, retry: bool = False
) -> None:
    """Run the cells that have no result, `jobs` at once; a cell that fails stops no other.

    A cell that another process works on, such as one that was left when an earlier `run` was killed, is waited for.

    Args:
        jobs: processes at once; by default half as many as there are cores.
        retry: run those again that have failed.

    Raises:
        Interrupted: Ctrl-C; the processes have ended and what they finished is kept.
    """
    cells = list(cells)
    engine = _Engine(store, progress, jobs or max(1, cores() // 2), len(cells))
    for cell in cells:
        state = store.state(cell)
        if state == "done" or (state == "failed" and not retry):
            engine.report(cell)
        else:
            store.forget(cell)
            engine.waiting.append(cell)
    try:
        engine.run()
    except KeyboardInterrupt:
        done = sum(store.state(cell) == "done" for cell in cells)
        raise Interrupted(
            f"Interrupted; {done} of {len(cells)} cells are done, what was finished of the rest is in {store.root}.",
            "the same command goes on from there",
        ) from None
    finally:
        engine.stop()


@dataclass(frozen=True)
class _Child:
    """A cell at work."""

    cell: Cell
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]
    begun: float

    def last_line(self) -> str:
        """What it wrote to stderr at the end, or how it ended."""
        code = self.process.returncode
        if code < 0:
            want = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
            return f"ended by {signal.Signals(-code).name}{want}"
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("rtk: ") if lines else f"ended with exit code {code} and no word"


class _Engine:
    """The cells that wait and those at work."""

    def __init__(self, store: Store, progress: Progress, jobs: int, total: int):
        self.store, self.progress, self.jobs, self.total = store, progress, jobs, total
        self.waiting: list[Cell] = []
        self.children: list[_Child] = []
        self.reported = 0
        self.bar = progress.stage("cells", total)

    def run(self) -> None:
        """Until nothing waits and nothing is at work."""
        while self.waiting or self.children:
            for child in [child for child in self.children if child.process.poll() is not None]:
                self.children.remove(child)
                self._finished(child)
            for cell in list(self.waiting):
                self._look_at(cell)
            time.sleep(PAUSE)

    def report(self, cell: Cell, seconds: float | None = None) -> None:
        """One line about a cell that is done or has failed."""
        self.reported += 1
        took = "before" if seconds is None else f"{seconds:.0f} s"
        line = f"[{self.reported}/{self.total}] {cell}: "
        if self.store.state(cell) == "done":
            self.progress.say(f"{line}done, {took}")
        else:
            self.progress.say(f"{line}failed, {took}: {self.store.failure(cell).reason}")
        self.bar.advance()

    def stop(self) -> None:
        """End the processes as Ctrl-C does, so that each keeps what it has finished."""
        for child in self.children:
            _signal(child, signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        for child in self.children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(child, signal.SIGKILL)
                child.process.wait()
            child.stderr.close()

    def _look_at(self, cell: Cell) -> None:
        state = self.store.state(cell)
        if state in ("done", "failed"):  # another process has been quicker
            self.waiting.remove(cell)
            self.report(cell)
        elif state == "waiting" and len(self.children) < self.jobs:
            self.waiting.remove(cell)
            self.children.append(self._start(cell))

    def _start(self, cell: Cell) -> _Child:
        options = {"workers": max(1, cores() // self.jobs), **cell.settings.all}
        directory = self.store.directory(cell)
        config = self.store.write_options(cell, options)
        command = [sys.executable, "-m", "rtk.cli", "finetune", "--config", str(config), "--out", str(directory)]
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        process = subprocess.Popen(
            [*command, "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={"OMP_NUM_THREADS": THREADS, **os.environ},
            start_new_session=True,  # so that Ctrl-C reaches it once, through `stop`
        )
        return _Child(cell, process, stderr, time.monotonic())

    def _finished(self, child: _Child) -> None:
        cell, code = child.cell, child.process.returncode
        state = self.store.state(cell)
        if state == "running" and code >= 0:  # it found another process at work there, and ended; not: it was killed
            self.waiting.append(cell)
        else:
            if state != "done":
                now = datetime.now(UTC).isoformat(timespec="seconds")
                self.store.fail(cell, Failure(child.last_line(), code, now, str(cell.request.plugin)))
            self.report(cell, time.monotonic() - child.begun)
        child.stderr.close()


def _signal(child: _Child, number: signal.Signals) -> None:
    """To a process and to all that it has started."""
    try:
        os.killpg(child.process.pid, number)
    except ProcessLookupError:
        return
