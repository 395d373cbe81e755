"""What the page of one run says: numbers, origin of each option, curves, checks, hashes, and how to make it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import config
from ..bench.cells import Cell
from ..bench.standings import started
from ..charts import Chart, charts_of
from ..checks import Check
from ..errors import BadData, BadValue
from ..report.folder import chosen
from ..results import Result, class_names, facts
from ..threat import Threat
from .figures import Figure, classes, of_chart
from .numbers import memory, percent, signed

LOG = "log.jsonl"


@dataclass(frozen=True)
class Option:
    """One option of a run.

    Attributes:
        flag: as it is typed.
        value: as it is typed.
        origin: "the benchmark's file", or where the default comes from.
        given: whether the benchmark's file gives it.
        help: what it is.
    """

    flag: str
    value: str
    origin: str
    given: bool
    help: str


@dataclass(frozen=True)
class Measured:
    """One item of the suite.

    Attributes:
        source: accuracy of the source with its interval, or "" without a source row.
        tuned: that of the run.
        difference: with its interval, p-value and counts, or "".
    """

    label: str
    n: int
    source: str
    tuned: str
    difference: str


@dataclass(frozen=True)
class Run:
    """One run as its page shows it.

    Attributes:
        cell: what was asked.
        result: what came of it.
        folder: of the run directory.
        names: of the classes, None where they are not known.
    """

    cell: Cell
    result: Result
    folder: Path
    names: Sequence[str] | None = None

    @property
    def start(self) -> str:
        """The network that it started from."""
        return started((self.result.backbone["uri"], self.cell.request.options.weights))

    @property
    def threat(self) -> str:
        """Of the run itself, for a reader."""
        return Threat(**self.result.threat).label

    @property
    def command(self) -> str:
        """What makes this run again in a folder of its own."""
        request = self.cell.request
        fields = {**type(request.options).model_fields, **type(request.config).model_fields}
        given = self.cell.settings.all
        switches = {name for name in given if name in fields and fields[name].annotation is bool}
        typed = [part for name, value in given.items() for part in _typed(name, value, name in switches)]
        return shlex.join(["rtk", "finetune", *typed, "--out", f"runs/{self.cell.name}"])

    @property
    def measured(self) -> list[Measured]:
        """Every item of the suite."""
        result = self.result
        tuned, source = result.rows[-1], result.rows[0] if len(result.rows) > 1 else None
        found = []
        for key, score in tuned.scores.items():
            difference = ""
            if change := result.changes.get(key):
                difference = (
                    f"{signed(change.value)} [{signed(change.low)}, {signed(change.high)}], p = {change.p:.2g};"
                    f" {change.gained} gained, {change.lost} lost"
                )
            before = _accuracy(source.scores[key]) if source else ""
            found.append(Measured(score.label, score.n, before, _accuracy(score), difference))
        return found

    @property
    def options(self) -> list[tuple[str, list[Option]]]:
        """The strategy's options, and those that every run has."""
        request = self.cell.request
        return [
            (f"Options of {request.strategy.name}", [*self._options(request.config)]),
            ("Options of every run", [*self._options(request.options)]),
        ]

    def _options(self, values: config.Config) -> Iterator[Option]:
        given = self.cell.settings.all
        for name, field in type(values).model_fields.items():
            if name == "out":
                continue
            value = _show(given[name]) if name in given else _show(getattr(values, name))
            default = f"default: {config.origin(field)}".removesuffix(": ")
            origin = "the benchmark's file" if name in given else default
            yield Option(config.flag(name), value, origin, name in given, field.description or "")

    @property
    def own(self) -> tuple[list[Figure], str]:
        """The strategy's charts, and why there are none where they are damaged."""
        try:
            return [of_chart(chart) for chart in charts_of(self.result.report)], ""
        except BadData as problem:
            return [], problem.message

    @property
    def training(self) -> list[Figure]:
        """Loss and validation score over the epochs of each phase, from the log."""
        phases: dict[str, dict[int, Mapping[str, Any]]] = {}
        for event in _events(self.folder / LOG):
            if event.get("event") == "epoch" and isinstance(event.get("epoch"), int):
                phases.setdefault(str(event.get("phase")), {})[event["epoch"]] = event  # one that was resumed, the last
        selection = self.result.report.get("selection")
        return [
            figure
            for phase, epochs in phases.items()
            for figure in _curves(phase, epochs, selection.get(phase) if isinstance(selection, dict) else None)
        ]

    @property
    def classes(self) -> Figure | None:
        """Accuracy of each class, clean and under the strongest attack at the run's own threat."""
        key = chosen(self.result)
        return (
            None if key is None else classes(self.result.rows[-1], key, class_names(self.result.dataset) or self.names)
        )

    @property
    def checks(self) -> list[tuple[str, list[Check]]]:
        """By network."""
        return [(row.name, row.checks) for row in self.result.rows]

    @property
    def environment(self) -> list[tuple[str, str]]:
        """Versions, device, threads, cost."""
        result = self.result
        last, *earlier = facts(result.environment)
        found = {"rtk": result.rtk, **last}
        for number, part in enumerate(earlier, 1):
            found[f"otherwise in earlier part {number}"] = ", ".join(f"{name} {value}" for name, value in part.items())
        peak = {name: memory(size) for name, size in result.peak_bytes.items()}
        cost = {f"seconds, {name}": f"{value:g}" for name, value in result.seconds.items()}
        cost |= {f"peak memory, {name}": size for name, size in peak.items()}
        return [(name, str(value)) for name, value in {**found, **cost}.items() if value is not None]

    @property
    def hashes(self) -> list[tuple[str, str]]:
        """SHA-256 of what went in and what came out."""
        result = self.result
        tests = dict.fromkeys(str(score.identity.get("data")) for score in result.rows[-1].scores.values())
        found = [(f"weights, {row.name}", row.weights) for row in result.rows]
        found += [(f"{name} images", str(value)) for name, value in result.dataset.get("sha256", {}).items()]
        found += [("test images", value) for value in tests]
        found += [("strategy's source file", str(result.strategy.get("source_sha256")))]
        return [*found, ("options, files and code (key of the cell)", self.cell.key)]

    @property
    def corrupted(self) -> list[tuple[str, list[list[str]]]]:
        """Accuracy under each corruption at each severity, of each item that has them."""
        found = []
        for score in self.result.rows[-1].scores.values():
            if score.corrupted is not None:
                means, cells = score.corrupted.corruptions, score.corrupted.cells
                rows = [[name, *map(percent, cells[name]), percent(means[name])] for name in cells]
                found.append((f"{score.label}, {score.n} images each; {score.corrupted.origin}", rows))
        return found


def _accuracy(score: Any) -> str:
    return f"{percent(score.accuracy)} [{percent(score.low)}, {percent(score.high)}]"


def _typed(name: str, value: Any, switch: bool) -> list[str]:
    if switch:
        return [config.flag(name) if _show(value) == "true" else config.flag(f"no_{name}")]
    return [config.flag(name), _show(value)]


def _show(value: Any) -> str:
    """As it would be typed, with every digit."""
    return repr(value) if isinstance(value, float) else config.show(value)


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log; what a kill left half written is passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _curves(phase: str, epochs: Mapping[int, Mapping[str, Any]], selected: Any) -> Iterator[Figure]:
    by, kept = "", ""
    if isinstance(selected, dict):
        by = str(selected.get("by"))
        how = "" if selected.get("score") is None else f", the best by {by} on the {selected.get('on')}"
        kept = f" Kept: epoch {selected.get('epoch')}{how}."
    for name, label in (("loss", "mean loss of the epoch"), ("score", f"score: {by}" if by else "score")):
        try:
            found = {epoch: event[name] for epoch, event in sorted(epochs.items()) if event.get(name) is not None}
            text = (
                f"Mean loss over the images of each epoch of '{phase}'."
                if name == "loss"
                else f"Validation score after each epoch of '{phase}'."
            )
            if found:
                yield of_chart(
                    Chart(f"{phase}: {name}", "line", [*found], {name: [*found.values()]}, "epoch", label, text + kept)
                )
        except BadValue:  # an observer wrote something else under this name
            continue
