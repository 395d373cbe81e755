"""What looks on at a run: the log, the display, early stopping, and trackers that plugins bring.

All of them implement hooks of `rtk.hookspecs`. rtk's own may stop a run, e.g. on a full disk; a plugin's that fails is
named once and left out from then on, and the run goes on as if it had never been there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy

from . import files, hookspecs
from .hookspecs import hookimpl
from .progress import Bar, Progress


@dataclass(frozen=True)
class RunInfo:
    """The facts of a run that observers are given with every hook.

    Attributes:
        directory: of the run; an observer may write into a folder of its own name there.
        strategy: its name.
        config: its options.
        backbone, dataset: their names as typed.
        threat: e.g. "Linf:8/255".
        seed: of the run.
    """

    directory: Path
    strategy: str
    config: dict[str, Any]
    backbone: str
    dataset: str
    threat: str
    seed: int


class Observers:
    """Calls the hooks of everything that looks on; is itself the `Progress` that a run is given."""

    def __init__(self, run: RunInfo, own: Sequence[object] = (), named: Mapping[str, object] | None = None):
        """
        Args:
            own: rtk's observers, whose failures are the run's.
            named: those of plugins, by name.
        """
        self.run = run
        self.manager = pluggy.PluginManager(hookspecs.GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.foreign = dict(named or {})
        self.failures: dict[str, dict[str, str]] = {}
        for number, observer in enumerate(own):
            self.manager.register(observer, f"rtk {number}")
        for name, observer in self.foreign.items():
            self.manager.register(observer, name)

    def stage(self, name: str, total: float) -> Bar:
        """Begin a stage of `total` units."""
        self._call("rtk_stage_started", stage=name, total=total)
        return _Stage(self, name)

    def say(self, text: str) -> None:
        """Show one line."""
        self._call("rtk_said", text=text)

    def event(self, event: str, values: dict[str, Any]) -> None:
        """Record what happened."""
        self._call("rtk_event", event=event, values=values)

    def epoch_finished(self, phase: str, epoch: int, loss: float, scores: Sequence[float]) -> bool:
        """Tell that an epoch is over; whether somebody asks to end the phase."""
        return any(self._call("rtk_epoch_finished", phase=phase, epoch=epoch, loss=loss, scores=tuple(scores)))

    def started(self) -> None:
        """Tell that the run begins, or goes on."""
        self._call("rtk_run_started")

    def finished(self, result: dict[str, Any]) -> None:
        """Tell that the run is over, with its result."""
        self._call("rtk_run_finished", result=result)

    def failed(self, reason: str) -> None:
        """Tell that the run broke off."""
        self._call("rtk_run_failed", reason=reason)

    @contextmanager
    def joined(self, *observers: object) -> Iterator[None]:
        """More of rtk's own, for a while."""
        for observer in observers:
            self.manager.register(observer)
        try:
            yield
        finally:
            for observer in observers:
                self.manager.unregister(observer)

    def _call(self, hook: str, **facts: Any) -> list[Any]:
        """Call one hook of everybody, one after another, so that a plugin's failure is its own."""
        found: list[Any] = []
        if not self.foreign:
            return getattr(self.manager.hook, hook)(run=self.run, **facts) or found
        for name, plugin in self.manager.list_name_plugin():
            if plugin is None:
                continue
            others = [other for other in self.manager.get_plugins() if other is not plugin]
            caller = self.manager.subset_hook_caller(hook, others)
            if name not in self.foreign:
                found += caller(run=self.run, **facts)
                continue
            try:
                found += caller(run=self.run, **facts)
            except (Exception, SystemExit) as problem:
                self.manager.unregister(plugin)
                reason = " ".join(f"{type(problem).__name__}: {problem}".split())
                self.say(f"observer '{name}' failed in {hook} and is left out from here on ({reason[:200]})")
                self.failures[name] = {"failed": f"in {hook}: {reason[:200]}"}
                self.event("observer failed", {"observer": name, "hook": hook, "reason": reason[:1000]})
        return found


class _Stage:
    def __init__(self, observers: Observers, name: str):
        self.observers, self.name = observers, name

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.observers._call("rtk_stage_advanced", stage=self.name, amount=amount, note=note)


class LogFile:
    """Appends every event to `log.jsonl` of the run, one JSON object a line."""

    @hookimpl
    def rtk_event(self, run: RunInfo, event: str, values: dict[str, Any]) -> None:
        line = {"time": round(time.time(), 3), "event": event, **values}
        files.append(run.directory / "log.jsonl", json.dumps(line, allow_nan=False))


class Display:
    """Draws stages and lines on a `Progress`, e.g. the terminal's."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.bars: dict[str, Bar] = {}

    @hookimpl
    def rtk_stage_started(self, stage: str, total: float) -> None:
        self.bars[stage] = self.progress.stage(stage, total)

    @hookimpl
    def rtk_stage_advanced(self, stage: str, amount: float, note: str) -> None:
        self.bars[stage].advance(amount, note)

    @hookimpl
    def rtk_said(self, text: str) -> None:
        self.progress.say(text)


class EarlyStop:
    """Ends a phase when its score has not risen for `patience` epochs.

    It looks at all scores of the phase each time and remembers nothing, so that a resumed run stops where it would have
    stopped.
    """

    def __init__(self, patience: int):
        self.patience = patience

    @hookimpl
    def rtk_epoch_finished(self, scores: Sequence[float]) -> bool:
        return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= self.patience
