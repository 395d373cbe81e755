"""A signal ends training after the step that it came in, and the same run goes on with the next one."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rtk import checkpoint, signals
from rtk.errors import BadBackbone, Interrupted
from rtk.run import Run
from rtk.signals import Held

from .small_run import changed, small_run, snapshot
from .test_every_strategy import configured
from .test_isolation import install

STEPS, EPOCHS = 3, 2
VALUES = {"epochs": EPOCHS, "lr": 0.05, "batch_size": 32, "accumulate": 2, "select": "clean"}


def told(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@contextmanager
def handled(number: int, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


class Training:
    """Adversarial training with dropout and augmentation; something happens in its n-th step, from 1."""

    def __init__(self, source, directory: Path, at: int = 0, event: Callable[[], object] = told, **values: object):
        self.run: Run = small_run(source, directory)
        self.attack = self.run.attack(steps=1)
        self.model = copy.deepcopy(source.model)
        self.at, self.event, self.values = at, event, {**VALUES, **values}
        self.taken: list[int] = []

    def loss(self, model: nn.Module, step) -> torch.Tensor:
        if step.number not in self.taken:  # it comes in parts
            self.taken.append(step.number)
            if len(self.taken) == self.at:
                self.event()
        images = F.dropout(self.attack(model, step.images, step.labels, seed=step.seed), 0.1)
        return F.cross_entropy(model(images), step.labels)

    def fit(self) -> dict[str, torch.Tensor]:
        return snapshot(self.run.fit(self.model, self.loss, **self.values))


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> dict[str, torch.Tensor]:
    return Training(source, tmp_path_factory.mktemp("whole")).fit()


@pytest.mark.parametrize(
    ("at", "number"), [*((at, signal.SIGTERM) for at in range(1, STEPS * EPOCHS + 1)), (2, signal.SIGINT)]
)
def test_a_signal_costs_no_step_and_changes_no_bit(source, tmp_path: Path, whole, at: int, number: int) -> None:
    first = Training(source, tmp_path, at, lambda: told(number))
    with pytest.raises(KeyboardInterrupt, match=rf"fine-tune, epoch {(at - 1) // STEPS + 1}, step {at}$"):
        first.fit()
    torch.manual_seed(at)
    second = Training(source, tmp_path)
    found = second.fit()
    assert first.taken + second.taken == [*range(STEPS * EPOCHS)]
    assert changed(whole, found) == set()


def test_a_signal_while_the_epoch_is_judged_does_not_wait_and_costs_no_step(source, tmp_path: Path) -> None:
    def judge(event: Callable[[], object]) -> Callable[[nn.Module], float]:
        def score(model: nn.Module) -> float:
            event()
            with torch.no_grad():
                model.net.fc.bias.add_(0.01)  # a score may change the network, as AutoLoRa's does
            return 0.5

        return score

    expected = Training(source, tmp_path / "whole", select=judge(lambda: None)).fit()
    first = Training(source, tmp_path / "run", select=judge(told))
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = Training(source, tmp_path / "run", select=judge(lambda: None))
    found = second.fit()
    assert first.taken + second.taken == [*range(STEPS * EPOCHS)]
    assert changed(expected, found) == set()


def test_a_second_signal_stops_at_once(source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written then; the run goes on from what was there."""
    monkeypatch.setattr(signals, "SAME", 0.0)
    seen = []

    def twice() -> None:
        told()
        seen.append("still there")
        told()
        seen.append("never reached")

    with pytest.raises(KeyboardInterrupt):
        Training(source, tmp_path, 2, twice).fit()
    assert seen == ["still there"] and not list(tmp_path.rglob("*.pt"))


def test_signals_that_come_together_are_one(source, tmp_path: Path) -> None:
    """A terminal tells every process of a group, and whoever started this one tells it again."""
    training = Training(source, tmp_path, 2, lambda: (told(signal.SIGINT), told(), told()))
    with pytest.raises(KeyboardInterrupt, match="epoch 1, step 2"):
        training.fit()


def test_a_kill_costs_what_was_done_since_the_last_checkpoint_and_no_epoch(
    source, tmp_path: Path, whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> None:
        raise SystemExit  # nobody catches it, and nothing is written

    monkeypatch.setattr(checkpoint, "INTERVAL", -1.0)
    first = Training(source, tmp_path, 5, killed)
    with pytest.raises(SystemExit):
        first.fit()
    second = Training(source, tmp_path)
    found = second.fit()
    assert (first.taken, second.taken) == ([0, 1, 2, 3, 4], [4, 5])
    assert changed(whole, found) == set()


def test_where_writing_takes_longer_than_training_epochs_go_unwritten_and_no_bit_changes(
    source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    save = checkpoint.Checkpoint.save
    monkeypatch.setattr(checkpoint.Checkpoint, "save", lambda self: (written.append(self.position), save(self))[1])

    def train(folder: str, share: float, at: int = 0) -> tuple[list[int], dict[str, torch.Tensor] | None]:
        monkeypatch.setattr(checkpoint, "SHARE", share)
        training = Training(source, tmp_path / folder, at, sys.exit, epochs=4, select="last")
        try:
            return training.taken, training.fit()
        except SystemExit:
            return training.taken, None

    _, expected = train("every", 1e6)
    assert [text.split(",")[0] for text in written] == ["epoch 1", "epoch 2", "epoch 3", "epoch 4"]
    written.clear()
    taken, _ = train("few", 0.0, at=9)
    assert written == ["epoch 1, step 3"] and taken == [*range(9)]
    taken, found = train("few", 0.0)
    assert taken == [*range(3, 12)] and written[-1] == "epoch 4, step 12"
    assert changed(expected, found) == set()


def test_the_time_of_day_decides_no_checkpoint(source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    save = checkpoint.Checkpoint.save
    monkeypatch.setattr(checkpoint.Checkpoint, "save", lambda self: (written.append(self.position), save(self))[1])
    monkeypatch.setattr(time, "time", lambda: 4e9)
    Training(source, tmp_path, select="last").fit()
    assert written == ["epoch 1, step 3", "epoch 2, step 6"]


def test_training_goes_on_where_the_program_around_it_wants_that(source, tmp_path: Path, whole) -> None:
    """A program that only takes notice of SIGTERM gets its notice, after a checkpoint."""
    noticed = []
    with handled(signal.SIGTERM, lambda *_: noticed.append(list(tmp_path.rglob("*.pt")))):
        found = Training(source, tmp_path, 2).fit()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "as it was"
    assert noticed == [[tmp_path / "work" / "fine-tune.pt"]]
    assert changed(whole, found) == set()


def test_what_is_ignored_stays_ignored(source, tmp_path: Path, whole) -> None:
    """nohup has SIGHUP ignored, and a script SIGINT for what runs in its background."""
    with handled(signal.SIGHUP, signal.SIG_IGN), handled(signal.SIGINT, signal.SIG_IGN):
        found = Training(source, tmp_path, 2, lambda: (told(signal.SIGHUP), told(signal.SIGINT))).fit()
    assert changed(whole, found) == set()


def test_a_thread_trains_without_touching_signals(source, tmp_path: Path, whole) -> None:
    found, before = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: found.append(Training(source, tmp_path).fit()))
    thread.start()
    thread.join()
    assert changed(whole, found[0]) == set() and signal.getsignal(signal.SIGTERM) is before


def test_handlers_are_as_before_whatever_happens() -> None:
    before = [signal.getsignal(number) for number in signals.STOPPING]
    held = Held()
    with pytest.raises(KeyboardInterrupt), held.hold():
        told()
        assert held.waiting == signal.SIGTERM
    with pytest.raises(ZeroDivisionError), held.hold():
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), held.hold(), held.open():
        told()
    assert [signal.getsignal(number) for number in signals.STOPPING] == before


def test_an_error_that_a_signal_has_become_counts_as_the_signal() -> None:
    """As where C code calls back, sees an exception and raises one of its own: "not a whole safetensors file"."""
    with pytest.raises(KeyboardInterrupt), signals.stopping(), signals.heeded():
        try:
            told()
        except KeyboardInterrupt:
            raise BadBackbone("not a whole file") from None
    with pytest.raises(Interrupted), signals.stopping(), signals.heeded():
        try:
            told()
        except KeyboardInterrupt:
            raise Interrupted("and what is kept") from None
    with pytest.raises(BadBackbone), signals.stopping(), signals.heeded():
        raise BadBackbone("not a whole file")


@pytest.mark.parametrize("name", ["twins", "fdm", "autolora"])
def test_strategies_with_a_state_of_their_own_go_on_inside_an_epoch(source, tmp_path: Path, name: str) -> None:
    """Norms and distances of each epoch, and loss weights that were measured; the charts are the same, too."""

    def tuned(folder: str, at: int) -> tuple[dict[str, torch.Tensor], Any]:
        count = 0

        def tell(*_: object) -> None:
            nonlocal count
            count += 1
            if count == at:
                told()

        run = small_run(source, tmp_path / folder, train=24, val=12)
        strategy = configured(name, epochs=2, batch_size=8, k=2)
        model = copy.deepcopy(source.model)
        hook = model.net.fc.register_forward_pre_hook(tell)
        try:
            tuned = snapshot(strategy.finetune(model, run))
        finally:
            hook.remove()
        return tuned, run._reported()

    expected = tuned("whole", 0)
    for at in (3, 12):
        with pytest.raises(KeyboardInterrupt):
            tuned(f"{at}", at)
        found = tuned(f"{at}", 0)
        assert changed(expected[0], found[0]) == set()
        assert found[1] == expected[1]


BODY = """
        from torch.nn.functional import cross_entropy
        run.fit(model, lambda model, step: cross_entropy(model(step.images), step.labels), epochs=1000, lr=0.01)
"""


def test_a_process_that_is_looked_after_is_told_by_the_one_that_looks(tmp_path: Path) -> None:
    """A container's or a scheduler's SIGTERM may reach the first process alone."""
    typed = ["finetune", "--strategy", "third", "--suite", "clean", "--images", "20", "--out", "run", "--quiet"]
    command = [sys.executable, "-m", "rtk.cli", *typed]
    with subprocess.Popen(command, env=install(tmp_path, BODY), cwd=tmp_path, stderr=-1, text=True) as process:
        try:
            until = time.monotonic() + 120
            while not list(tmp_path.glob("run/work/*.pt")) and process.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            process.terminate()
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130 and "Interrupted at fine-tune, epoch " in said, said
