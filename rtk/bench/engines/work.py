"""A cell's process: `rtk finetune` with the options of the cell, on whatever machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ..cells import Cell
from ..store import Store

THREADS = "2"
"""Of one cell, unless OMP_NUM_THREADS is set; not as many as are free, since the order of a sum can change its bits."""

PATIENCE = 10.0
"""Seconds that a process is given to end by itself before it is killed."""

PAUSE = 0.1
"""Seconds between two looks at a process."""


@dataclass(frozen=True)
class Ended:
    """How the work on a cell ended.

    Attributes:
        code: exit code of its process; negative for a signal.
        reason: the last line that it wrote to stderr, or how it ended.
    """

    code: int
    reason: str


def arguments(store: Store, cell: Cell, workers: int) -> list[str]:
    """Write the options of a cell; what comes after `rtk` in its command.

    Args:
        workers: evaluation processes, unless the cell has its own number.
    """
    config = store.write_options(cell, {"workers": workers, **cell.settings.all})
    directory = store.directory(cell)
    limit = [] if cell.settings.time_limit is None else ["--time-limit", f"{cell.settings.time_limit:g}"]
    return ["finetune", "--config", str(config), "--out", str(directory), "--quiet", *limit]


class Work:
    """A cell's process, at work."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], stdin: int = subprocess.DEVNULL):
        """
        Args:
            arguments: what comes after `rtk`.
            environment: variables beside those of this process.
        """
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rtk.cli", *arguments],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=self.stderr,
            env={"OMP_NUM_THREADS": THREADS, **os.environ, **environment},
            start_new_session=True,  # so that Ctrl-C reaches it once, through `interrupt`
        )

    def ended(self) -> Ended | None:
        """How it ended; None while it is at work."""
        code = self.process.poll()
        return None if code is None else Ended(code, self._last_line(code))

    def interrupt(self) -> None:
        """Ask it, and all that it has started, to end as Ctrl-C does."""
        self._signal(signal.SIGTERM)  # as Ctrl-C, also where a script has Ctrl-C ignored

    def close(self, patience: float = PATIENCE) -> None:
        """Wait for its end, and kill it when that takes longer than `patience` seconds."""
        try:
            self.process.wait(max(0.0, patience))
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
        if self.process.wait() < 0:  # what it has started would go on without it, and holds its lock until it has gone
            for _ in range(10):
                if not self._signal(signal.SIGKILL):
                    break
                time.sleep(PAUSE)
        self.stderr.close()

    def _signal(self, number: signal.Signals) -> bool:
        """Whether anybody was left to be told."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _last_line(self, code: int) -> str:
        if code < 0:
            want = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
            return f"ended by {signal.Signals(-code).name}{want}"
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("rtk: ") if lines else f"ended with exit code {code} and no word"


def end_all(work: list[Work]) -> None:
    """End processes together, so that their patience runs at the same time."""
    for one in work:
        one.interrupt()
    deadline = time.monotonic() + PATIENCE
    for one in work:
        one.close(deadline - time.monotonic())
