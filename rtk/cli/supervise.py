"""Running a command in a process of its own, so that what a third party's code does to it can be told.

A segmentation fault, a kill for want of memory or an endless loop would end `rtk` itself without a word. This process
imports no plugin and no torch; it waits, and names the plugin.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from ..errors import PluginError, RunFailed
from ..evaluation.handover import EXIT_CODE
from ..registry import Plugin

CHILD = "RTK_SUPERVISED"
"""Environment variable of a process that is looked after already."""

PATIENCE = 10.0
"""Seconds that a process is given to end by itself before it is killed."""


SAID = (0, 1, 2, 130, EXIT_CODE)
"""Exit codes of rtk, which has then said why."""


def supervised() -> bool:
    """Whether this process is looked after by another."""
    return os.environ.get(CHILD) == "1"


def supervise(typed: list[str], plugin: Plugin, time_limit: float | None, made: Path) -> int:
    """Run `rtk TYPED...` in another process; returns its exit code.

    Args:
        made: the file that there is when the command has succeeded.

    Raises:
        PluginError: it was ended by a signal, such as a segmentation fault, or by itself without a result.
        RunFailed: it took longer than `time_limit` seconds.
    """
    if "--traceback" in sys.argv:
        typed = [*typed, "--traceback"]
    environment = {**os.environ, CHILD: "1", "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen([sys.executable, "-m", "rtk.cli", *typed], env=environment)
    try:
        code = process.wait(time_limit)
    except subprocess.TimeoutExpired:
        _end(process)
        raise RunFailed(
            f"{plugin}: was stopped at the time limit of {time_limit:g} s; what was finished is kept.",
            "the same command with a larger --time-limit goes on from there",
        ) from None
    except KeyboardInterrupt:  # a terminal tells the other process too, others tell this one alone
        process.send_signal(signal.SIGTERM)
        return process.wait()  # it says what is kept
    if code < 0:
        name = signal.Signals(-code).name
        why = ", perhaps for want of memory" if name == "SIGKILL" else ""
        raise PluginError(
            f"{plugin}: its process was ended by {name}{why}; what was finished is kept.",
            "the lines above show where; the same command goes on from there",
        )
    if code == 0 and not made.exists():
        raise PluginError(f"{plugin}: its process ended without a result.", "look for exit() in it")
    if code not in SAID:
        raise PluginError(f"{plugin}: its process ended with exit code {code} and no result.", "look for exit() in it")
    return code


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)  # as Ctrl-C, also where a script has Ctrl-C ignored
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
