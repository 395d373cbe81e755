"""What asks a process to stop: Ctrl-C, SIGTERM and a closed terminal.

They raise KeyboardInterrupt at once, but in training, where `Held` lets a step be finished and kept first. Nothing here
imports torch.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .errors import Interrupted

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SAME = 1.0
"""Seconds within which signals are one request: the terminal and whoever started a process may both pass it on."""


_asked = False
"""Whether a signal has raised KeyboardInterrupt within `stopping`."""


@contextmanager
def stopping() -> Iterator[None]:
    """Have every signal of `STOPPING` that is not ignored raise KeyboardInterrupt in the block.

    Only in the main thread, where alone Python handles signals.
    """
    global _asked
    _asked = False
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    with _handled(_once(_stop), lambda handler: handler in defaults):  # not under nohup, which has SIGHUP ignored
        yield


@contextmanager
def heeded() -> Iterator[None]:
    """Within `stopping`: an error that code in C has made of a KeyboardInterrupt is one again."""
    try:
        yield
    except Exception as problem:
        if _asked and not isinstance(problem, Interrupted):
            raise KeyboardInterrupt from problem
        raise


def _stop(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt


class Held:
    """Signals that wait until they are let through; a second request is not held."""

    def __init__(self) -> None:
        self.waiting: int | None = None
        self._before: dict[int, Any] = {}
        self._holding = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold what comes in the block; what still waits at its end is let through then."""
        with _handled(_once(self._arrived), lambda handler: handler not in (signal.SIG_IGN, None)) as self._before:
            self._holding = True
            yield
            self._holding = False
            self.let_through()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold nothing in the block, which lies within that of `hold`."""
        self.let_through()
        self._holding = False
        try:
            yield
        finally:
            self._holding = True

    def let_through(self) -> None:
        """Do now what the signal that waits, if one does, would have done: as a rule, raise KeyboardInterrupt."""
        if self.waiting is not None:
            number, self.waiting = self.waiting, None
            self._pass_on(number, None)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._holding and self.waiting is None:
            self.waiting = number
        else:
            self._pass_on(number, frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if not callable(handler):
            raise KeyboardInterrupt
        handler(number, frame)


Handler = Callable[[int, FrameType | None], None]


@contextmanager
def _handled(handler: Handler, wanted: Callable[[Any], bool]) -> Iterator[dict[int, Any]]:
    """Handle the signals whose present handler is `wanted`; gives these, by number."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: found for number in STOPPING if wanted(found := signal.getsignal(number))}
    for number in before:
        signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, found in before.items():
            signal.signal(number, found)


def _once(handler: Handler) -> Handler:
    """`handler`, called once for all signals that come within `SAME` seconds."""
    accepted = -SAME

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal accepted
        now = time.monotonic()
        if now - accepted >= SAME:
            accepted = now
            handler(number, frame)

    return handle
