"""The folder of a benchmark. Nothing but what lies there is state.

cells/STRATEGY-DATA-KEY/       a run directory for each cell, see rtk/rundir.py
cells/STRATEGY-DATA-KEY.toml   the options that it was made with
failures/KEY.json              why there is no result
spec.toml                      the spec as it last was
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import filelock

from .. import files, results, rundir
from ..results import Result
from .cells import Cell

State = Literal["done", "running", "failed", "waiting"]


@dataclass(frozen=True)
class Failure:
    """Why a cell has no result.

    Attributes:
        reason: the last line that its process wrote to stderr.
        exit_code: of its process; negative for a signal.
        when: UTC, ISO 8601.
        plugin: the strategy's, with distribution and version.
    """

    reason: str
    exit_code: int
    when: str
    plugin: str


@dataclass(frozen=True)
class Store:
    """The folder of one benchmark."""

    root: Path

    def directory(self, cell: Cell) -> Path:
        """The run directory of a cell."""
        return self.root / "cells" / cell.name

    def state(self, cell: Cell) -> State:
        """What became of a cell."""
        directory = self.directory(cell)
        if (directory / rundir.RESULT).exists():
            return "done"
        if _held(directory):
            return "running"
        return "failed" if self._failure(cell).exists() else "waiting"

    def result(self, cell: Cell) -> Result:
        """The result of a cell that is done; BadData when its file is damaged."""
        return results.read(self.directory(cell) / rundir.RESULT)

    def failure(self, cell: Cell) -> Failure:
        """Why a cell has failed; BadData when the file that says so is damaged."""
        return Failure(**files.read_json(self._failure(cell)))

    def fail(self, cell: Cell, failure: Failure) -> None:
        """Write down why a cell has no result."""
        files.write_json(self._failure(cell), asdict(failure))

    def forget(self, cell: Cell) -> None:
        """Let a cell that has failed wait again."""
        self._failure(cell).unlink(missing_ok=True)

    def write_options(self, cell: Cell, options: dict[str, Any]) -> Path:
        """Write the options of a cell as TOML, for `rtk finetune --config`."""
        path = self.root / "cells" / f"{cell.name}.toml"
        # a JSON text, number, boolean or list of them is TOML too
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in options.items()]
        files.write(path, lambda file: file.write("".join(lines).encode()))
        return path

    def keep_spec(self, spec: Path) -> None:
        """Copy the spec, so that the folder tells what it is."""
        text = spec.expanduser().read_bytes()
        files.write(self.root / "spec.toml", lambda file: file.write(text))

    def stale(self, cells: Iterable[Cell]) -> list[Path]:
        """Run directories that no cell of the spec names any more, sorted; they are never deleted."""
        named = {cell.name for cell in cells}
        return sorted(path for path in (self.root / "cells").glob("*/") if path.name not in named)

    def _failure(self, cell: Cell) -> Path:
        return self.root / "failures" / f"{cell.key}.json"


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
