"""Where the names of points go, so that they hide neither each other nor a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 780.0, 330.0
"""Of the plane that points lie in, in pixels, on a wide screen."""
EDGE = 20.0
"""How far a name may reach beyond the plane, in pixels."""
LETTER, TALL, POINT = 6.8, 15.0, 7.0
"""Width and height of a letter, and half the size of a point, in pixels."""
SIDES = {
    "top right": (1, 1),
    "bottom right": (1, -1),
    "top left": (-1, 1),
    "bottom left": (-1, -1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top center": (0, 1),
    "bottom center": (0, -1),
}
"""As Plotly calls them, to the direction in which the text lies; those first that do not lie on a point's interval."""

Range = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


class Point(NamedTuple):
    """A point that wants its name beside it."""

    x: float
    y: float
    name: str


def placed(points: Sequence[Point], every: Sequence[tuple[float, float]], wide: Range, high: Range) -> list[str | None]:
    """A side for each name, one after another; None where there is room on no side.

    Args:
        points: that have names.
        every: all points that are drawn.
        wide, high: ends of the two axes.
    """

    def pixel(x: float, y: float) -> tuple[float, float]:
        return WIDTH * (x - wide[0]) / (wide[1] - wide[0]), HEIGHT * (y - high[0]) / (high[1] - high[0])

    def around(x: float, y: float) -> Box:
        return x - POINT, y - POINT, x + POINT, y + POINT

    taken = [around(*pixel(*place)) for place in every]
    found: list[str | None] = []
    for point in points:
        boxes = {side: _box(*pixel(point.x, point.y), point.name, side) for side in SIDES}
        free = (side for side, box in boxes.items() if _inside(box) and not any(_meet(box, other) for other in taken))
        side = next(free, None)
        taken += [boxes[side]] if side else []
        found.append(side)
    return found


def _box(x: float, y: float, name: str, side: str) -> Box:
    right, up = SIDES[side]
    wide, gap = LETTER * len(name), POINT + 1
    left = x - wide / 2 if right == 0 else (x + gap if right > 0 else x - gap - wide)
    low = y - TALL / 2 if up == 0 else (y + gap if up > 0 else y - gap - TALL)
    return left, low, left + wide, low + TALL


def _inside(box: Box) -> bool:
    return box[0] >= -EDGE and box[2] <= WIDTH + EDGE and box[1] >= -EDGE and box[3] <= HEIGHT + EDGE


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
