"""Charts that a strategy hands over with its result: `run.chart` makes one, the leaderboard and `rtk plot` draw it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from .errors import BadData, BadValue

Kind = Literal["bar", "line", "scatter"]
KINDS: tuple[str, ...] = get_args(Kind)
MOST = 5000
"""Values of a chart: every page that shows the result carries them, and so does the result."""


@dataclass(frozen=True)
class Chart:
    """A picture as numbers and words, with which it can be drawn and read aloud.

    Attributes:
        name: of the chart, unique in its run.
        kind: "bar", "line" or "scatter".
        x: places from left to right, finite; a bar may have a name instead.
        y: by the name of the series, a finite number for each place.
        x_label, y_label: of the axes, with units.
        text: what it shows, in a sentence or two.

    Raises:
        BadValue: a value that cannot be drawn; says which, and what is allowed.
    """

    name: str
    kind: Kind
    x: Sequence[float] | Sequence[str]
    y: Mapping[str, Sequence[float]]
    x_label: str
    y_label: str
    text: str

    def __post_init__(self) -> None:
        for field in ("name", "x_label", "y_label", "text"):
            if not isinstance(value := getattr(self, field), str) or not value.strip():
                raise self._bad(f"{field} is {value!r}", "words")
        if self.kind not in KINDS:
            raise self._bad(f"kind is {self.kind!r}", " | ".join(KINDS))
        self._check_x()
        self._check_y()
        if (count := len(self.x) * len(self.y)) > MOST:
            raise self._bad(f"holds {count} values", f"up to {MOST}; every tenth epoch will do")

    @property
    def named(self) -> bool:
        """Whether the places have names in the place of numbers."""
        return isinstance(self.x[0], str)

    @property
    def places(self) -> list[float]:
        """Where the values stand: at `x`, or names one after another."""
        return [place if isinstance(place, int | float) else number for number, place in enumerate(self.x)]

    def _check_x(self) -> None:
        if not _listed(self.x):
            raise self._bad(f"x is {self.x!r}", "a list with a place or more")
        if self.kind == "bar" and all(isinstance(place, str) for place in self.x):
            return
        for number, place in enumerate(self.x):
            if not _finite(place):
                names = ", or names throughout" if self.kind == "bar" else "; names are for bars"
                raise self._bad(f"x[{number}] is {place!r}", f"finite numbers{names}")

    def _check_y(self) -> None:
        if not isinstance(self.y, Mapping) or not self.y:
            raise self._bad(f"y is {self.y!r}", "a series or more, {name: values}")
        for name, values in self.y.items():
            if not isinstance(name, str) or not _listed(values) or len(values) != len(self.x):
                found = f"{len(values)} values" if _listed(values) else repr(values)
                raise self._bad(f"y[{name!r}] is {found}", f"a list of {len(self.x)}, one for each place of x")
            for number, value in enumerate(values):
                if not _finite(value):
                    raise self._bad(f"y[{name!r}][{number}] is {value!r}", "finite numbers")

    def _bad(self, given: str, allowed: str) -> BadValue:
        return BadValue(f"chart {self.name!r}: {given} (allowed: {allowed}).", "plugins/README.md, section Charts")

    def describe(self) -> dict[str, Any]:
        """As JSON, without the name."""
        found = asdict(self)
        del found["name"]
        return found


def charts_of(report: Mapping[str, Any]) -> list[Chart]:
    """The charts in what a run reported, in the order in which they were made.

    Raises:
        BadData: one is damaged, or was not made by `run.chart`.
    """
    try:
        return [Chart(name, **facts) for name, facts in report.get("charts", {}).items()]
    except (TypeError, AttributeError) as problem:
        raise BadData(f"The report's charts were not made by run.chart ({problem}).") from None
    except BadValue as problem:
        raise BadData(problem.message) from None


def _listed(values: object) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
