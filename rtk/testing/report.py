"""What came of the checks: a verdict and a sentence each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import RtkError

Verdict = Literal["passed", "failed", "expected", "skipped"]


class Fault(Exception):
    """A check found something; the message is a sentence that says what, and what to change."""


class Skip(Exception):
    """A check does not apply, or cannot be made before another one passes; the message says why."""


class NotConforming(RtkError):
    """A strategy breaks the contract."""


@dataclass(frozen=True)
class Row:
    """The outcome of one check.

    Attributes:
        name: of the check.
        verdict: "passed"; "failed"; "expected", a failure that was declared; or "skipped".
        sentence: what failed and what to change, why it was declared or skipped; may be empty where it passed.
    """

    name: str
    verdict: Verdict
    sentence: str = ""


@dataclass(frozen=True)
class Report:
    """The outcome of all checks on one strategy, in their order."""

    strategy: str
    rows: tuple[Row, ...]

    @property
    def failures(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.verdict == "failed")

    def raise_for_failures(self) -> None:
        """NotConforming when a check failed; names each with its sentence, in one line."""
        if self.failures:
            said = " ".join(f"{row.name}: {row.sentence}" for row in self.failures)
            raise NotConforming(f"{self.strategy} fails {len(self.failures)} of {len(self.rows)} checks. {said}")
