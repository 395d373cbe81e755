"""What a check found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pydantic
from pydantic import ConfigDict, Field

Verdict = Literal["ok", "warning", "error", "skipped"]


class Check(pydantic.BaseModel):
    """One check of an evaluation; part of a result."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    verdict: Verdict
    """error: there is no number to report; warning: the number may be too high; skipped: it does not apply here."""
    value: float | None = None
    """The measured value, where there is one."""
    limit: float | None = None
    """The value from which on it would not be ok."""
    item: str | None = None
    """The item of the suite that it speaks of, "pgd20@Linf:8/255"; null where it speaks of the network."""
    text: str
    """One sentence: what was measured, the value, the limit, and what it would mean."""


def percent(value: float) -> str:
    """0.125 as "12.5 %"."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares, 0.125 as "12.5 points"."""
    return f"{100 * value:.1f} points"


def number(value: float) -> str:
    """Four significant digits at most."""
    return f"{value:.4g}"


def at_most(
    name: str,
    value: float,
    limit: float,
    subject: str,
    meaning: str,
    *,
    bad: Verdict = "warning",
    show: Callable[[float], str] = percent,
) -> Check:
    """ok where `value` <= `limit`, else `bad`; a value that is not finite is `bad` as well.

    Args:
        subject: what was measured; begins the sentence.
        meaning: what a value on the other side would mean; ends it.
        show: writes a value as text.
    """
    verdict = "ok" if value <= limit else bad
    return _measured(name, verdict, bad, value, limit, subject, f"(limit {show(limit)}); more", meaning, show)


def at_least(
    name: str,
    value: float,
    limit: float,
    subject: str,
    meaning: str,
    *,
    bad: Verdict = "warning",
    show: Callable[[float], str] = percent,
) -> Check:
    """ok where `value` >= `limit`, else `bad`; otherwise as `at_most`."""
    verdict = "ok" if value >= limit else bad
    return _measured(name, verdict, bad, value, limit, subject, f"(at least {show(limit)}); less", meaning, show)


def _measured(
    name: str,
    verdict: Verdict,
    bad: Verdict,
    value: float,
    limit: float,
    subject: str,
    side: str,
    meaning: str,
    show: Callable[[float], str],
) -> Check:
    if not math.isfinite(value):
        return Check(name=name, verdict=bad, limit=limit, text=f"{subject} is not finite, which means that {meaning}.")
    text = f"{subject} is {show(value)} {side} would mean that {meaning}."
    return Check(name=name, verdict=verdict, value=value, limit=limit, text=text)


def skipped(name: str, reason: str) -> Check:
    """A check that does not apply; `reason` is a sentence."""
    return Check(name=name, verdict="skipped", text=reason)


def failed(name: str, reason: str) -> Check:
    """An error without a measured value; `reason` is a sentence."""
    return Check(name=name, verdict="error", text=reason)
