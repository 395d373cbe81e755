"""Every failure that rtk reports, as a type with data.

A message is one line that says what was asked, what is allowed and what was given; `hint` is what to type next. The
command line prints both, writes nothing else, and exits with `exit_code`; `--traceback` shows the rest.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

LISTED = 24
"""Names that a message lists in full."""


class RtkError(Exception):
    """A failed run. `message` is one sentence; `hint` is the next command to type, or None."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} Try: {self.hint}"

    def __reduce__(self):  # errors cross process borders with their data
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[RtkError], message: str, hint: str | None) -> RtkError:
    error = kind.__new__(kind)
    RtkError.__init__(error, message, hint)
    return error


class RequestError(RtkError):
    """What was asked cannot be done as asked; nothing was started."""

    exit_code = 2


class UnknownName(RequestError):
    """A name that is not in the list of allowed names; suggests the nearest."""

    def __init__(self, kind: str, given: str, allowed: Iterable[str], hint: str | None = None):
        names = sorted(allowed)
        self.nearest = nearest(given, names)
        meant = f" Did you mean '{self.nearest}'?" if self.nearest else ""
        super().__init__(f"Unknown {kind} '{given}'.{meant} Allowed: {_listed(names, self.nearest)}.", hint)


def _listed(names: list[str], found: str | None) -> str:
    """The allowed names; where they are many, only some, or none beside a suggestion, so that one line can be read."""
    if len(names) <= LISTED:
        return ", ".join(names) or "none"
    return f"{len(names)} names" if found else ", ".join(names[:8]) + f", ... ({len(names)} in all)"


class BadValue(RequestError):
    """An option, a configuration file or an argument holds a value that is not allowed."""


class BadData(RequestError):
    """A data set or image file cannot be used: missing, truncated, out of range, wrong labels."""


class BadBackbone(RequestError):
    """A backbone or its weights cannot be used: missing, truncated, another architecture, no classifier found."""


class Refusal(RequestError):
    """A strategy does not apply to this backbone or data set; the message says what to use instead."""


class RunExists(RequestError):
    """The run directory already holds a result."""


class AlreadyDone(RunExists):
    """The run directory holds the result of exactly what is asked for."""


class RunFailed(RtkError):
    """A run that was started could not be finished."""


class PluginError(RunFailed):
    """A plugin raised, or returned something that the contract does not allow. Names the plugin and its version."""


class AttackError(RunFailed):
    """An attack left the perturbation ball, the image range, or changed the model."""


class Interrupted(RtkError):
    """Ctrl-C or SIGTERM; what was finished is kept and the same command goes on from there."""

    exit_code = 130


def printable(text: str) -> str:
    """The text with everything spelled out that would move the cursor of a terminal, or change what stands before it.

    File names, class names and names in a checkpoint can hold anything.
    """
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)


def nearest(given: str, names: Sequence[str]) -> str | None:
    """The most similar of `names` (case-insensitive), or None when nothing is close."""
    folded = {_folded(name): name for name in names}
    found = difflib.get_close_matches(_folded(given), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def _folded(name: str) -> str:
    return name.casefold().removeprefix("--")  # which all options share
