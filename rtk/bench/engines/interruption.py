"""Ctrl-C and SIGTERM, remembered."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interruption:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt as before, and are remembered until `close`.

    An exception that a signal raises while a library runs code of its own, such as a callback or a destructor, may end
    there, and the signal would be lost.
    """

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python handles signals there alone
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._remember)

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was a signal."""
        if self.asked:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Have signals handled as before."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        handler = self.before[number]
        if callable(handler):
            handler(number, frame)
