"""Charts of a page: what Plotly draws, and the same in words and as a table.

Colours are left to the page, which knows whether it is dark: a trace says only which `role` it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..charts import Chart
from ..results import Row, Score
from ..statistics import Estimate
from ..threat import Threat
from .board import Board, Line, ends
from .labels import Point, placed
from .numbers import number, percent

NAMED = 25
"""Rows whose names stand beside their points; of more, the names of those on the front do."""
BARRED = 60
"""Rows whose intervals are drawn; of more, the intervals of those on the front are."""
CURVES = 7
"""Rows whose curves are drawn, one for each colour."""
TALL = 460
"""Height of the charts that compare rows, in pixels."""
CLASSES = 40
"""Classes that fit into a chart; of more, those that lose most are drawn."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px,2px")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")


@dataclass(frozen=True)
class Figure:
    """One chart.

    Attributes:
        title: of the chart.
        text: what it shows.
        plot: `data` and `layout` of Plotly.
        head: headings of its table.
        rows: its numbers, in words.
        height: in pixels; None for the page's own.
    """

    title: str
    text: str
    plot: dict[str, Any]
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    height: int | None = None


def trade_off(board: Board) -> Figure | None:
    """Clean against robust accuracy of every row, and the Pareto front; None where the table has no two such items."""
    if board.table.axes is None or board.axes is None:
        return None
    few = len(board.lines) <= BARRED
    barred = [line for line in board.lines if few or line.standing.pareto]
    named = [line for line in board.lines if len(board.lines) <= NAMED or line.standing.pareto]
    every = [_at(board, line) for line in board.lines]
    wide, high = (_range(board, axis, barred, [place[axis] for place in every]) for axis in (0, 1))
    sides = placed([Point(*_at(board, line), line.standing.name) for line in named], every, wide, high)
    labels = {line.id: side for line, side in zip(named, sides, strict=True) if side}
    kinds = [
        ("on the Pareto front", "circle", 0, [line for line in board.lines if line.standing.pareto], True),
        ("other rows", "circle-open", 5, [line for line in board.lines if not line.standing.pareto], few),
    ]
    data = [_points(board, *kind, labels) for kind in kinds if kind[3]]
    data.append(_front(board, kinds[0][3]))
    clean, robust = board.axes
    around = ["± one standard deviation over seeds"] * board.several
    around += ["95 % intervals"] * board.single
    return Figure(
        title=f"{clean} against {robust}",
        text=f"Each point is a row of the table, a diamond a source; lines through it are {' or '.join(around)}"
        f"{'' if few else ', drawn for the rows on the front'}. The stepped line is the Pareto front: no other row is"
        " at least as good on both axes and better on one. Whether two rows differ is not told by overlapping lines,"
        " but by the table's paired differences and stars.",
        plot={
            "data": data,
            "layout": {
                "meta": "rows",
                "xaxis": {**_axis(f"{clean}, accuracy in %"), "range": wide},
                "showlegend": False,
                "yaxis": {**_axis(f"{robust}, %"), "range": high},
                "hovermode": "closest",
            },
        },
        head=["row", f"{clean}, %", f"{robust}, %", "Pareto front"],
        rows=[
            [
                line.standing.name,
                *(_around(board, line, axis) for axis in (0, 1)),
                "yes" if line.standing.pareto else "no",
            ]
            for line in board.lines
        ],
        height=TALL,
    )


def _entry(board: Board, line: Line, axis: int) -> Any:
    assert board.table.axes is not None
    return line.standing.entries[board.table.axes[axis]]


def _at(board: Board, line: Line) -> tuple[float, float]:
    clean, robust = (100 * _entry(board, line, axis).accuracy.mean for axis in (0, 1))
    return clean, robust


def _range(board: Board, axis: int, barred: list[Line], points: list[float]) -> tuple[float, float]:
    """Ends of an axis with room for every point, for the lines through those of `barred`, and for a margin."""
    drawn = [100 * end for line in barred for end in ends(_entry(board, line, axis))]
    low, high = min([*drawn, *points]), max([*drawn, *points])
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _around(board: Board, line: Line, axis: int) -> str:
    entry = _entry(board, line, axis)
    low, high = ends(entry)
    return f"{percent(entry.accuracy.mean)} [{percent(low)}, {percent(high)}]"


def _points(
    board: Board, name: str, symbol: str, role: int, lines: list[Line], barred: bool, labels: Mapping[str, str]
) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": name,
        "meta": {"role": role},
        "mode": "markers+text",
        "marker": {
            "size": 10 if len(board.lines) <= BARRED else 6,
            "symbol": ["diamond" if line.standing.strategy is None else symbol for line in lines],
        },
        "x": [_at(board, line)[0] for line in lines],
        "y": [_at(board, line)[1] for line in lines],
        "customdata": [line.id for line in lines],
        "text": [_plain(line.standing.name) if line.id in labels else "" for line in lines],
        "textposition": [labels.get(line.id, "top center") for line in lines],
        "hovertext": [_plain(line.standing.name) for line in lines],
        "hovertemplate": "%{hovertext}<br>%{x:.1f} / %{y:.1f}<extra></extra>",
    }
    if barred:
        for axis, key in enumerate(("error_x", "error_y")):
            entries = [_entry(board, line, axis) for line in lines]
            trace[key] = _bars([(entry.accuracy.mean, *ends(entry)) for entry in entries])
    return trace


def _front(board: Board, lines: list[Line]) -> dict[str, Any]:
    """A staircase through the rows on the front: what is below and left of it is dominated."""
    corners = sorted({_at(board, line) for line in lines})
    return {
        "type": "scatter",
        "name": "Pareto front",
        "meta": {"role": 0},
        "mode": "lines",
        "line": {"shape": "vh", "width": 1, "dash": "dot"},
        "x": [corner[0] for corner in corners],
        "y": [corner[1] for corner in corners],
        "hoverinfo": "skip",
    }


def curves(board: Board) -> list[Figure]:
    """Accuracy against the radius, a chart for each norm and attack that was measured at several radii."""
    groups: dict[tuple[str, str], list[str]] = {}
    for key in board.table.items:
        kind, _, threat = key.partition("@")
        if threat:
            groups.setdefault((Threat.parse(threat).norm, kind), []).append(key)
    return [_curve(board, norm, keys) for (norm, _), keys in groups.items() if len(keys) > 1]


def _curve(board: Board, norm: str, keys: list[str]) -> Figure:
    start = ["clean"] if "clean" in board.table.items else []
    radii = dict.fromkeys(start, 0.0) | {key: Threat.parse(key.partition("@")[2]).eps for key in keys}
    keys = sorted(radii, key=radii.__getitem__)
    ticks = ["0" if key in start else key.partition(":")[2] for key in keys]
    ranked = sorted(board.lines, key=lambda line: (line.standing.strategy is not None, not line.standing.pareto))
    chosen = {line.id for line in ranked[:CURVES]}
    shown = [line for line in board.lines if line.id in chosen]
    data = [
        _line(role, line, [line.standing.entries[key] for key in keys], [*radii.values()])
        for role, line in enumerate(shown)
    ]
    for trace in data:
        trace["x"] = sorted(radii.values())
    attack = board.table.items[keys[-1]][0].rpartition(", ")[0]
    some = (
        f" Drawn for {len(shown)} of {len(board.lines)} rows, sources and the Pareto front first."
        if len(shown) < len(board.lines)
        else ""
    )
    return Figure(
        title=f"{attack}: accuracy against the radius",
        text=f"Accuracy as the adversary's {norm} ball grows; at 0, clean accuracy. Lines at a point are 95 %"
        f" intervals, or a standard deviation over seeds to either side.{some}",
        plot={
            "data": data,
            "layout": {
                "xaxis": {**_axis(f"eps ({norm})"), "tickvals": sorted(radii.values()), "ticktext": ticks},
                "yaxis": {**_axis("accuracy, %"), "range": [-2, 102]},
                "legend": LEGEND,
            },
        },
        head=["row", *(f"eps {tick}" for tick in ticks)],
        rows=[
            [line.standing.name, *(percent(line.standing.entries[key].accuracy.mean) for key in keys)]
            for line in board.lines
        ],
        height=TALL,
    )


LEGEND = {"orientation": "h", "y": -0.22, "x": 0, "xanchor": "left", "yanchor": "top"}


def _line(role: int, line: Line, entries: Sequence[Any], radii: list[float]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": _plain(line.standing.name),
        "meta": {"role": role},
        "mode": "lines+markers",
        "line": {"dash": DASHES[role]},
        "marker": {"symbol": SYMBOLS[role], "size": 8},
        "y": [100 * entry.accuracy.mean for entry in entries],
        "error_y": _bars([(entry.accuracy.mean, *ends(entry)) for entry in entries]),
    }


def of_chart(chart: Chart) -> Figure:
    """A strategy's own chart; bars with names lie, so that the names can be read."""
    lying = chart.named
    places = [_plain(place) if isinstance(place, str) else place for place in chart.x]
    data = []
    for role, (name, values) in enumerate(chart.y.items()):
        trace: dict[str, Any] = {"name": _plain(name), "meta": {"role": role}}
        trace |= {"x": list(values), "y": places} if lying else {"x": places, "y": list(values)}
        if chart.kind == "bar":
            trace |= {"type": "bar", "orientation": "h" if lying else "v"}
        else:
            look = {"line": {"dash": DASHES[role % 7]}, "marker": {"symbol": SYMBOLS[role % 7], "size": 7}}
            trace |= {"type": "scatter", "mode": "markers" if chart.kind == "scatter" else "lines+markers", **look}
        data.append(trace)
    along, up = _axis(_plain(chart.x_label)), _axis(_plain(chart.y_label))
    if lying:
        along |= {"type": "category", "autorange": "reversed"}
    elif all(place == int(place) for place in chart.places):
        along["dtick"] = max(1, round((max(chart.places) - min(chart.places)) / 8))
    layout = {
        "xaxis": up if lying else along,
        "yaxis": along if lying else up,
        "showlegend": len(data) > 1,
        "legend": {"orientation": "h", "y": 1.02, "x": 0, "xanchor": "left", "yanchor": "bottom"},
    }
    rows = [
        [place if isinstance(place, str) else f"{place:g}", *(number(values[at]) for values in chart.y.values())]
        for at, place in enumerate(chart.x)
    ]
    height = 120 + (10 + 14 * len(data)) * len(places) if lying else None
    return Figure(chart.name, chart.text, {"data": data, "layout": layout}, [chart.x_label, *chart.y], rows, height)


def classes(row: Row, key: str, names: Sequence[str] | None) -> Figure | None:
    """Accuracy of each class, clean and after an attack, of one network; None unless both were measured."""
    if "clean" not in row.scores:
        return None
    scores = [row.scores["clean"], row.scores[key]]
    order = list(range(len(scores[0].class_n)))
    called = [names[place] if names else f"class {place}" for place in order]
    if few := len(order) > CLASSES:
        both = [place for place in order if all(score.class_n[place] for score in scores)]
        order = sorted(both, key=lambda place: _share(scores[1], place) - _share(scores[0], place))[:CLASSES]
    data = [
        {
            "type": "bar",
            "name": _plain(score.label),
            "meta": {"role": role},
            "x": [_plain(called[place]) for place in order if score.class_n[place]],
            "y": [100 * _share(score, place) for place in order if score.class_n[place]],
            "error_y": _bars(
                [(_share(score, place), *_interval(score, place)) for place in order if score.class_n[place]]
            ),
        }
        for role, score in zip((0, 1), scores, strict=True)
    ]
    layout = {
        "xaxis": {"type": "category", "tickangle": -40},
        "yaxis": {**_axis("accuracy, %"), "range": [0, 102]},
        "legend": {"orientation": "h", "y": 1.02, "x": 0, "xanchor": "left", "yanchor": "bottom"},
    }
    rows = [[called[place], *(_class(score, place) for score in scores)] for place in range(len(called))]
    some = f" Drawn are the {CLASSES} that lose most." if few else ""
    return Figure(
        "Accuracy of each class",
        f"Clean, and after {scores[1].label}, with 95 % intervals.{some}",
        {"data": data, "layout": layout},
        ["class", *(score.label for score in scores)],
        rows,
    )


def _share(score: Score, place: int) -> float:
    return score.class_correct[place] / (score.class_n[place] * score.copies)


def _interval(score: Score, place: int) -> tuple[float, float]:
    return _wilson(score.class_correct[place], score.class_n[place] * score.copies)


@lru_cache(maxsize=1 << 14)  # classes have few images, so that the same counts come again and again
def _wilson(correct: int, n: int) -> tuple[float, float]:
    return Estimate(correct, n).interval


def _class(score: Score, place: int) -> str:
    if not score.class_n[place]:
        return "no images"
    low, high = _interval(score, place)
    return f"{percent(_share(score, place))} [{percent(low)}, {percent(high)}], n = {score.class_n[place]}"


def _bars(found: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    """Error bars in percent, of (value, low, high)."""
    return {
        "type": "data",
        "symmetric": False,
        # rounding may put an end of an interval a hair on the other side of the value
        "array": [max(0.0, 100 * (high - value)) for value, _, high in found],
        "arrayminus": [max(0.0, 100 * (value - low)) for value, low, _ in found],
    }


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title}}


def _plain(text: str) -> str:
    """A name as it is: Plotly reads some HTML, and takes what it does not know for text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
