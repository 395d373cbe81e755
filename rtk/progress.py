"""How a long computation tells that it is alive. The command line draws it; a library call stays silent."""

from __future__ import annotations

from typing import Protocol


class Bar(Protocol):
    """One stage of a run."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count `amount` units as done and show `note` beside the bar."""


class Progress(Protocol):
    """Shows stages and lines of text."""

    def stage(self, name: str, total: float) -> Bar:
        """Begin a stage of `total` units."""

    def say(self, text: str) -> None:
        """Show one line."""


class Silent:
    """Shows nothing."""

    def stage(self, name: str, total: float) -> Bar:
        return self

    def say(self, text: str) -> None:
        pass

    def advance(self, amount: float = 1, note: str = "") -> None:
        pass
