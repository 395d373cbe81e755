"""What looks on at a run: the log, the display, early stopping, and plugins that may fail."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import rtk
from rtk.observers import Display, EarlyStop, LogFile, Observers, RunInfo
from rtk.registry import observer

from .small_run import changed, small_run, snapshot


def info(directory: Path) -> RunInfo:
    return RunInfo(directory, "at", {"lr": 0.1}, "rtk:fashion-resnet", "fashion", "Linf:0.1", 0)


class Notes:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    @rtk.hookimpl
    def rtk_epoch_finished(self, phase: str, epoch: int, loss: float, scores: tuple[float, ...]) -> None:
        self.heard.append((phase, epoch, len(scores)))
        assert loss > 0

    @rtk.hookimpl
    def rtk_run_finished(self, run: RunInfo, result: dict[str, Any]) -> None:
        self.heard.append((run.strategy, result))


class Broken:
    @rtk.hookimpl
    def rtk_epoch_finished(self) -> bool:
        raise ValueError("no\nserver")


class Shown:
    """A display that keeps what it is asked to show."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: dict[str, float] = {}

    def stage(self, name: str, total: float) -> Shown:
        self.name, self.done[name] = name, 0.0
        return self

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done[self.name] += amount

    def say(self, text: str) -> None:
        self.lines.append(text)


def train(source, directory: Path, observers: Observers, **options: object):
    run = small_run(source, directory, progress=observers)
    values = {"epochs": 3, "lr": 0.05, "batch_size": 32, **options}
    return run.fit(copy.deepcopy(source.model), lambda m, s: F.cross_entropy(m(s.images), s.labels), **values)


def test_every_observer_hears_of_every_epoch(source, tmp_path: Path) -> None:
    notes, shown = Notes(), Shown()
    observers = Observers(info(tmp_path), [LogFile(), Display(shown)], {"notes": notes})
    train(source, tmp_path, observers, select="clean")
    observers.finished({"seed": 0})
    assert notes.heard == [("fine-tune", epoch, epoch) for epoch in (1, 2, 3)] + [("at", {"seed": 0})]
    assert shown.done == {"fine-tune": 9}
    assert [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_an_observer_that_fails_is_named_once_and_changes_nothing(source, tmp_path: Path) -> None:
    shown, notes = Shown(), Notes()
    named = {"tracker": Broken(), "notes": notes}
    tuned = train(source, tmp_path / "a", Observers(info(tmp_path / "a"), [LogFile(), Display(shown)], named))
    assert shown.lines == [
        "observer 'tracker' failed in rtk_epoch_finished and is left out from here on (ValueError: no server)"
    ]
    assert len(notes.heard) == 3
    events = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [event["observer"] for event in events if event["event"] == "observer failed"] == ["tracker"]
    alone = train(source, tmp_path / "b", Observers(info(tmp_path / "b")))
    assert changed(snapshot(tuned), snapshot(alone)) == set()


def test_an_observer_that_ends_the_process_is_left_out(source, tmp_path: Path) -> None:
    class Leaving:
        @rtk.hookimpl
        def rtk_epoch_finished(self) -> None:
            raise SystemExit(3)

    observers = Observers(info(tmp_path), [LogFile()], {"tracker": Leaving()})
    train(source, tmp_path, observers)
    assert observers.failures == {"tracker": {"failed": "in rtk_epoch_finished: SystemExit: 3"}}


def test_rtks_own_observers_may_stop_a_run(tmp_path: Path) -> None:
    """A log that cannot be written is the run's failure."""
    with pytest.raises(rtk.RtkError, match=r"log\.jsonl"):
        Observers(info(tmp_path / "nowhere"), [LogFile()]).event("epoch", {})


@pytest.mark.parametrize("patience, epochs", [(1, 3), (2, 4), (9, 6), (None, 6)])
def test_early_stop_ends_a_phase_whose_score_does_not_rise(source, tmp_path: Path, patience, epochs) -> None:
    """Scores 1, 2, 2, 1, 0, -1: the best is the second."""
    notes = Notes()
    scores = iter([0.1, 0.2, 0.2, 0.1, 0.0, 0.0])
    observers = Observers(info(tmp_path), [LogFile()], {"notes": notes})
    train(source, tmp_path, observers, epochs=6, select=lambda _: next(scores), patience=patience)
    assert len(notes.heard) == epochs
    assert json.loads((tmp_path / "report.json").read_text())["selection"]["fine-tune"]["epoch"] == 2


def test_a_phase_that_was_stopped_stays_stopped_when_the_run_goes_on(source, tmp_path: Path) -> None:
    first = train(source, tmp_path, Observers(info(tmp_path)), epochs=6, select=lambda _: 0.5, patience=1)
    notes = Notes()
    again = train(
        source, tmp_path, Observers(info(tmp_path), [], {"n": notes}), epochs=6, select=lambda _: 0.5, patience=1
    )
    assert notes.heard == [] and changed(snapshot(first), snapshot(again)) == set()


@given(st.lists(st.floats(0, 1), max_size=20), st.integers(1, 5))
def test_early_stop_waits_as_long_as_it_says(scores: list[float], patience: int) -> None:
    stopped = EarlyStop(patience).rtk_epoch_finished(tuple(scores))
    assert stopped == (len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience]))


# the observer that comes with rtk


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads from a run."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="an extra")
    found = reading.EventAccumulator(str(directory / "tensorboard"))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_reads_every_epoch_and_the_result(source, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="an extra")
    observers = Observers(info(tmp_path), [LogFile()], {"tensorboard": observer("tensorboard")})
    train(source, tmp_path, observers, select="clean")
    score = {"label": "clean", "accuracy": 0.75}
    observers.finished({"rows": [{"scores": {"clean": {**score, "accuracy": 0.5}}}, {"scores": {"clean": score}}]})
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = scalars(tmp_path)
    assert [event["event"] for event in logged] == ["epoch"] * 3
    for tag, key in (("fine-tune/loss", "loss"), ("fine-tune/validation score", "score")):
        assert [step for step, _ in found[tag]] == [1, 2, 3]
        assert [value for _, value in found[tag]] == pytest.approx([event[key] for event in logged])
    assert [value for _, value in found["accuracy/clean"]] == [0.75]


def test_an_unknown_observer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(rtk.UnknownName, match="tensorbord") as caught:
        observer("tensorbord")
    assert "tensorboard" in f"{caught.value.message} {caught.value.hint}"
