"""The folder of a benchmark. Nothing but what lies there is state.

cells/STRATEGY-DATA-KEY/       a run directory for each cell, see rtk/rundir.py
cells/STRATEGY-DATA-KEY.toml   the options that it was made with
failures/KEY.json              why there is no result
sources/                       verdicts of what cells start from; may be deleted, see rtk/evaluation/shared.py
spec.toml                      the spec as it last was
index.json                     what the results say; may be deleted, see rtk/bench/index.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import filelock

from .. import files, results, rundir
from ..errors import BadData
from ..evaluation.shared import PLACE
from ..results import Result
from .cells import Cell
from .index import Index, Said
from .records import Record
from .spec import KEPT

State = Literal["done", "running", "failed", "waiting"]
LEFT = 3600.0
"""Seconds for which nobody writes a file; a clock may jump meanwhile, but hardly by so much while one is written."""


@dataclass(frozen=True)
class Failure:
    """Why a cell has no result that can be used.

    Attributes:
        reason: the last line that its process wrote to stderr, or what is wrong with the file that it left.
        exit_code: of its process; negative for a signal; None where a file cannot be read.
        when: UTC, ISO 8601; empty where a file cannot be read.
        plugin: the strategy's, with distribution and version.
    """

    reason: str
    exit_code: int | None
    when: str
    plugin: str


@dataclass(frozen=True)
class Missing:
    """A cell without a result.

    Attributes:
        reason: why it has failed; empty where it has not.
    """

    cell: str
    state: State
    reason: str


@dataclass(frozen=True)
class Store:
    """The folder of one benchmark."""

    root: Path

    @cached_property
    def index(self) -> Index:
        """What the results say; each is read once, and again when its file has changed."""
        return Index(self.root / "cells", self.root / "index.json")

    def directory(self, cell: Cell) -> Path:
        """The run directory of a cell."""
        return self.root / "cells" / cell.name

    def state(self, cell: Cell) -> State:
        """What became of a cell; one whose result cannot be read has failed."""
        said = self._said(cell)
        if said is not None:
            return "failed" if isinstance(said, str) else "done"
        if _held(self.directory(cell)):
            return "running"
        return "failed" if self._failure(cell).exists() else "waiting"

    def begun(self, cell: Cell) -> bool:
        """Whether a process has begun with a cell."""
        return (self.directory(cell) / rundir.CONFIG).exists()

    def record(self, cell: Cell) -> Record | None:
        """What the result of a cell says, as far as tables need it; None unless the cell is done."""
        said = self._said(cell)
        return said if isinstance(said, Record) else None

    def result(self, cell: Cell) -> Result:
        """The whole result of a cell that is done; BadData when its file is damaged."""
        return results.read(self.directory(cell) / rundir.RESULT)

    def failure(self, cell: Cell) -> Failure:
        """Why a cell has failed."""
        plugin = str(cell.request.plugin)
        said = self._said(cell)
        if isinstance(said, str):
            return Failure(said, None, "", plugin)
        try:
            return Failure(**files.read_json(self._failure(cell)))
        except (BadData, TypeError, ValueError):
            return Failure(f"{self._failure(cell)}: cannot be read.", None, "", plugin)

    def missing(self, cells: Iterable[Cell]) -> list[Missing]:
        """Those of the cells that have no result."""
        states = ((cell, self.state(cell)) for cell in cells)
        return [
            Missing(str(cell), state, self.failure(cell).reason if state == "failed" else "")
            for cell, state in states
            if state != "done"
        ]

    def fail(self, cell: Cell, failure: Failure) -> None:
        """Write down why a cell has no result."""
        files.write_json(self._failure(cell), asdict(failure))

    def forget(self, cell: Cell) -> bool:
        """Let a cell wait again, whatever kept it from being run.

        A result that cannot be read is put aside, not deleted. What another version of rtk has left unfinished is
        cleared, since this version would not go on with it; unless a process works on it.

        Returns:
            Whether unfinished work was cleared.
        """
        self._failure(cell).unlink(missing_ok=True)
        directory = self.directory(cell)
        if isinstance(self._said(cell), str):
            with suppress(FileNotFoundError):
                (directory / rundir.RESULT).replace(directory / f"{rundir.RESULT}.unreadable")
        if not (directory / rundir.CONFIG).exists() or _version(directory) == metadata.version("rtk"):
            return False
        with suppress(filelock.Timeout), filelock.FileLock(directory / rundir.LOCK, timeout=0):
            if not (directory / rundir.RESULT).exists():
                rundir.clear(directory)
                return True
        return False

    def write_options(self, cell: Cell, options: dict[str, Any]) -> Path:
        """Write the options of a cell as TOML, for `rtk finetune --config`."""
        path = self.root / "cells" / f"{cell.name}.toml"
        # a JSON text, number, boolean or list of them is TOML too
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in options.items()]
        files.write_bytes(path, "".join(lines).encode())
        return path

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which the cells' processes begin."""
        return {PLACE: str((self.root / "sources").resolve())}

    def keep_spec(self, spec: Path) -> None:
        """Copy the spec, so that the folder tells what it is."""
        files.write_bytes(self.root / KEPT, spec.expanduser().read_bytes())

    def sweep(self) -> None:
        """Delete what killed processes left half written beside the run directories; see rtk/rundir.py for these."""
        shared = (path for path in (self.root / "sources").glob("*/*/") if path.is_dir())
        for folder in (self.root, self.root / "cells", self.root / "failures", *shared):
            for path in filter(files.is_leftover, folder.glob(".*")):
                with suppress(OSError):  # another process may be at work here: what is new is left alone
                    if abs(time.time() - path.stat().st_mtime) > LEFT:
                        path.unlink()

    def stale(self, cells: Iterable[Cell]) -> list[Path]:
        """Run directories that no cell of the spec names any more, sorted; they are never deleted."""
        named = {cell.name for cell in cells}
        return sorted(path for path in (self.root / "cells").glob("*/") if path.name not in named)

    def _said(self, cell: Cell) -> Said | None:
        """What the result in the folder of a cell says; that it is another cell's, where it is."""
        said = self.index.look(cell.name)
        if not isinstance(said, Record):
            return said
        own = cell.request.strategy.name, cell.request.options.seed, cell.code
        if (said.strategy, said.seed, said.code) == own:
            return said
        path = self.directory(cell) / rundir.RESULT
        return f"{path}: not of this cell, but of {said.strategy}, seed {said.seed}, or of other code."

    def _failure(self, cell: Cell) -> Path:
        return self.root / "failures" / f"{cell.key}.json"


def _version(directory: Path) -> str | None:
    """Of the rtk that began a run; None where that is not said."""
    try:
        found = files.read_json(directory / rundir.CONFIG)
        return str(found["inputs"]["rtk"])
    except (BadData, KeyError, TypeError):
        return None


def _held(directory: Path) -> bool:
    """Whether a process works in a run directory."""
    if not (directory / rundir.LOCK).exists():
        return False
    try:
        with filelock.FileLock(directory / rundir.LOCK, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # it went while we looked, or it is not ours to write
        return False
