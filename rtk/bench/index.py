"""What the results of a benchmark say, in one file, so that ten thousand of them need not be read each time.

A cache that may be deleted: what it says about a run counts only while the size and the time of change of its
result.json are those that it was made from.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .. import files, results, rundir
from ..errors import RtkError
from .records import Cost, Network, Protocol, Record, Tally

FORM = 2
"""Raised when a record is written in another way, or says something else."""

WRITTEN = 0.05
"""The index is written again when at least this share of it is new, so that a long benchmark is not all writing."""

Said = Record | str
"""What a result says, or why it says nothing."""


class Index:
    """The results below a folder, each read once.

    Args:
        root: holds a run directory for each cell.
        path: where the index is kept.
    """

    def __init__(self, root: Path, path: Path):
        self.root, self.path = root, path
        self.said, self.stamps = _read(path)
        self.new = 0

    def look(self, name: str) -> Said | None:
        """What became of the run in a folder; None where there is no result yet."""
        place = f"{self.root}/{name}/{rundir.RESULT}"
        try:
            state = os.stat(place)  # noqa: PTH116 - making ten thousand paths takes longer
        except OSError:
            return None
        stamp = (state.st_size, state.st_mtime_ns)
        if self.stamps.get(name) != stamp:
            self.said[name], self.stamps[name] = _said(Path(place)), stamp
            self.new += 1
        return self.said[name]

    def save(self) -> None:
        """Keep what was read, when it is much; a folder that cannot be written is read again next time."""
        if self.new and self.new >= WRITTEN * len(self.said):
            try:
                _write(self.path, self.said, self.stamps)
                self.new = 0
            except RtkError:
                pass


def _said(path: Path) -> Said:
    """The result at `path`, or what is wrong with it."""
    try:
        return Record.of(results.read(path))
    except RtkError as problem:
        return problem.message
    except (KeyError, TypeError, ValueError) as problem:  # in what the schema leaves open, or no UTF-8
        return f"{path}: not a result of schema version {results.SCHEMA_VERSION} ({type(problem).__name__}: {problem})."


_Shared = dict[str, dict[str, Any]]
"""What many runs have in common, by its digest, so that it stands once: protocols, environments and sources."""


def _write(path: Path, said: dict[str, Said], stamps: dict[str, tuple[int, int]]) -> None:
    shared: _Shared = {"protocols": {}, "environments": {}, "networks": {}}
    runs = {}
    for name, found in said.items():
        content: str | list[Any] = found if isinstance(found, str) else _packed(found, shared)
        runs[name] = [*stamps[name], content]
    whole = {"form": [FORM, results.SCHEMA_VERSION], "shared": shared, "runs": runs}
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    files.write_bytes(path, text.encode())


def _packed(record: Record, shared: _Shared) -> list[Any]:
    """A record as JSON, but for what it shares with others."""
    protocol, environment = record.protocol.digest, files.digest(record.environment)
    shared["protocols"][protocol] = [record.protocol.items, record.protocol.identity]
    shared["environments"][environment] = record.environment
    source = None
    if record.source is not None:
        source = files.digest(record.source)
        shared["networks"][source] = record.source
    return [*record._replace(protocol=protocol, environment=environment, source=source)]  # type: ignore[arg-type]


def _read(path: Path) -> tuple[dict[str, Said], dict[str, tuple[int, int]]]:
    """What an index says, and of which files; nothing where there is none that can be used."""
    try:
        found = json.loads(path.read_bytes())
        if found["form"] != [FORM, results.SCHEMA_VERSION]:
            return {}, {}
        shared = found["shared"]
        shared["networks"] = {key: _network(value) for key, value in shared["networks"].items()}
        shared["protocols"] = {
            key: Protocol({item: (label, n) for item, (label, n) in items.items()}, identity)
            for key, (items, identity) in shared["protocols"].items()
        }
        said = {name: _unpacked(content, shared) for name, (_, _, content) in found["runs"].items()}
        return said, {name: (size, changed) for name, (size, changed, _) in found["runs"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}, {}


def _unpacked(content: str | list[Any], shared: _Shared) -> Said:
    if isinstance(content, str):
        return content
    record = Record._make(content)
    return record._replace(
        protocol=shared["protocols"][str(record.protocol)],
        environment=shared["environments"][str(record.environment)],
        source=None if record.source is None else shared["networks"][str(record.source)],
        tuned=_network(record.tuned),
        changes={key: (value, low, high, p) for key, (value, low, high, p) in record.changes.items()},
        cost=Cost._make(record.cost),
    )


def _network(content: Any) -> Network:
    weights, scores, warnings = content
    return Network(weights, {key: Tally._make(score) for key, score in scores.items()}, tuple(warnings))
