"""A process that ends with the one that started it, also when that one is killed and can tell nobody."""

from __future__ import annotations

import os
import signal
import threading
import time

HELD = "RTK_LEASH"
"""Environment variable of a process whose stdin is a pipe that who started it holds, and of all that it starts."""

PATIENCE = 10.0
"""Seconds that are left to keep what is finished."""


def watch() -> None:
    """From now on, end as with Ctrl-C when the other end of the pipe is closed."""
    if os.environ.get(HELD) == "1":
        threading.Thread(target=_end_when_it_is_let_go, daemon=True).start()


def _end_when_it_is_let_go() -> None:
    while os.read(0, 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)
