"""Results to pictures: accuracy against the radius and per class, images that an attack broke, a strategy's charts.

They take rows of results, of one evaluation or of many, and give a `Picture` with the same in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..errors import BadData
from ..results import Row, Score
from ..statistics import Estimate
from ..threat import Threat
from .canvas import BLUE, COLOURS, MARKERS, ORANGE, Picture, figure, panels, plain, span, wrapped

if TYPE_CHECKING:
    from ..charts import Chart
    from .samples import Broken

CLEAN = "clean"
MOST_CLASSES = 25
"""Classes that fit into a picture; of more, those that lose most are shown."""
UNIT = {"Linf": "largest change of a pixel value in [0, 1]", "L2": "Euclidean norm, pixel values in [0, 1]"}


def curve(rows: Sequence[Row]) -> Picture:
    """Robust accuracy against the radius: a panel per norm and attack, a line per network, clean accuracy at 0.

    Raises:
        BadData: nothing was attacked.
    """
    groups = _attacks(rows)
    if not groups:
        raise BadData("Nothing was attacked, so there is no robust accuracy to draw.", "--suite clean,pgd20")
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    clean = [row.scores[CLEAN].n for row in rows if CLEAN in row.scores]
    at_zero = f", at eps 0 clean accuracy (n = {span(clean)})" if clean else ""
    made = figure(7.5 if columns == 1 else 11, 4.2 * lines + 0.8, f"Accuracy with 95 % Wilson intervals{at_zero}")
    words = [f"Robust accuracy against eps, with 95 % Wilson intervals{at_zero}."]
    every = panels(made, len(groups), columns)
    for axes, ((norm, attack), scores) in zip(every, groups.items(), strict=True):
        flat = [score for each in scores for score in each]
        n = span([score.n for score in flat])
        title = f"{attack}, {norm}, n = {n}"
        axes.set_title(title)
        _radii(axes, norm, flat)
        axes.set_ylim(-3, 103)
        axes.set_ylabel("accuracy, %")
        words.append(f"{title}.")
        widest = max(map(_eps, flat))
        for number, row in enumerate(rows):
            start = [row.scores[CLEAN]] if CLEAN in row.scores else []
            line = [*start, *scores[number]]
            # beside each other, so that the intervals of two networks do not hide each other
            aside = (number - (len(rows) - 1) / 2) * 0.015 * widest
            _line(axes, [_eps(score) + aside for score in line], line, number, plain(row.name))
            words.append(
                f"{row.name}: " + "; ".join(f"eps {_radius(score)}: {_percent(score)}" for score in line) + "."
            )
    handles, labels = every[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=1 if len(max(labels, key=len)) > 30 else 3)
    return Picture(made, "\n".join(words))


def classes(rows: Sequence[Row], key: str, names: Sequence[str] | None = None) -> Picture:
    """Accuracy of each class, clean and after the attack `key`, and what it loses; a panel per network.

    Args:
        key: of the scores, "pgd20@Linf:0.1".
        names: of the classes, in order; None for their numbers.

    Raises:
        BadData: a network has no score of this key, or none without an attack.
    """
    for row in rows:
        if missing := [each for each in (CLEAN, key) if each not in row.scores]:
            raise BadData(f"{row.name} was not measured by {missing[0]}.", f"--suite {CLEAN},{key.partition('@')[0]}")
    total = len(rows[0].scores[CLEAN].class_n)
    shown = _most_affected(rows, key)
    label = rows[0].scores[key].label
    some = f", the {len(shown)} of {total} classes that lose most" if len(shown) < total else ""
    made = figure(6 * len(rows) + 1.5, 0.42 * len(shown) + 2.2, f"Accuracy per class{some}, with 95 % Wilson intervals")
    words = [f"Accuracy per class, clean and after {label}{some}, with 95 % Wilson intervals."]
    for axes, row in zip(panels(made, len(rows), len(rows)), rows, strict=True):
        clean, robust = row.scores[CLEAN], row.scores[key]
        axes.set_title(
            wrapped(f"{plain(row.name)}\n{_images('clean', clean, shown)}, {_images('attacked', robust, shown)}", 6)
        )
        words.append(f"{row.name}: {_images('clean', clean, shown)}, {_images('attacked', robust, shown)}.")
        for place, number in enumerate(shown):
            name = names[number] if names else str(number)
            words.append(_class(axes, place, name, clean, robust, number))
        axes.set_yticks(range(len(shown)), [_short(names[number]) if names else str(number) for number in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(-3, 115)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("accuracy, %; at the right the difference in points")
        axes.set_ylabel("class")
    handles = made.axes[0].get_legend_handles_labels()[0][:2]
    made.legend(handles, [CLEAN, label], loc="outside lower center", ncols=2)
    return Picture(made, "\n".join(words))


def examples(broken: Broken, score: Score, network: str) -> Picture:
    """Images that are classified right before the attack and wrong after it: clean, adversarial, and the difference.

    Args:
        broken: K images.
        score: of the attack.
        network: its name.

    Raises:
        BadData: the attack broke no image.
    """
    count = len(broken.labels)
    if count == 0:
        raise BadData(f"{score.label} broke no image of {network}.")
    change = broken.adversarial - broken.clean
    factor = float(f"{0.5 / max(float(change.abs().max()), 1e-6):.2g}")
    title = (
        f"{network}: the first {count} images broken by {score.label}; accuracy there {_percent(score)} (95 % Wilson)"
    )
    amplified = f"difference, amplified {factor:g} times; grey is no change"
    made = figure(max(1.45 * count + 0.4, 5.5), 6, f"{plain(title)}\nlast row: {amplified}")
    rows = {"clean": broken.clean, "adversarial": broken.adversarial, "difference": (0.5 + factor * change).clamp(0, 1)}
    grid = panels(made, 3 * count, count)
    words = [f"{title}. Rows: clean, adversarial, {amplified}."]
    for line, (name, images) in enumerate(rows.items()):
        for column in range(count):
            axes = grid[line * count + column]
            axes.imshow(images[column].permute(1, 2, 0).numpy(), interpolation="nearest", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
        grid[line * count].set_ylabel(name if name != "difference" else f"difference x {factor:g}")
    for column in range(count):
        true, before, after = (broken.name(labels[column]) for labels in (broken.labels, broken.before, broken.after))
        grid[column].set_title(f"true: {_short(true)}\npredicted:\n{_short(before)}", fontsize=9)
        grid[count + column].set_title(f"predicted:\n{_short(after)}", fontsize=9, color=ORANGE)
        words.append(f"Test image {broken.indices[column]}: {true}; predicted {before} before and {after} after.")
    return Picture(made, "\n".join(words))


def chart(given: Chart) -> Picture:
    """A strategy's own chart; bars with names lie, so that the names can be read."""
    height = max(4.2, 1.6 + 0.22 * len(given.x) * len(given.y)) if given.named else 4.2
    made = figure(7.5, height, plain(given.name))
    (axes,) = panels(made, 1, 1)
    thick = (
        0.8 / len(given.y) * min((after - before for before, after in pairwise(sorted(set(given.places)))), default=1)
    )
    words = [given.text, f"Along: {given.x_label}. Up: {given.y_label}."]
    for number, (name, values) in enumerate(given.y.items()):
        look = {"color": COLOURS[number % len(COLOURS)], "label": plain(name)}
        aside = [place + (number - (len(given.y) - 1) / 2) * thick for place in given.places]
        if given.kind == "bar":
            (axes.barh if given.named else axes.bar)(aside, values, thick, **look)
        else:
            line = "none" if given.kind == "scatter" else "solid"
            axes.plot(given.places, values, linestyle=line, marker=MARKERS[number % len(MARKERS)], **look)
        words.append(f"{name}: " + "; ".join(f"{x}: {y:.4g}" for x, y in zip(given.x, values, strict=True)))
    along, up = plain(given.x_label), plain(given.y_label)
    axes.set(xlabel=up if given.named else along, ylabel=along if given.named else up)
    if given.named:
        axes.set_yticks(given.places, [plain(str(place)) for place in given.x])
        axes.invert_yaxis()
    if len(given.y) > 1:
        made.legend(loc="outside lower center", ncols=3)
    return Picture(made, "\n".join(words))


def _attacks(rows: Sequence[Row]) -> dict[tuple[str, str], list[list[Score]]]:
    """By norm and attack, then for each network: its scores from the smallest radius to the largest."""
    groups: dict[tuple[str, str], list[list[Score]]] = {}
    for number, row in enumerate(rows):
        for score in row.scores.values():
            if score.threat is None:
                continue
            key = Threat.parse(score.threat).norm, score.label.rpartition(", ")[0] or score.item
            groups.setdefault(key, [[] for _ in rows])[number].append(score)
    for group in groups.values():
        for scores in group:
            scores.sort(key=_eps)
    return groups


def _eps(score: Score) -> float:
    return 0.0 if score.threat is None else Threat.parse(score.threat).eps


def _radius(score: Score) -> str:
    """As it was typed: "8/255"."""
    return "0 (clean)" if score.threat is None else score.threat.partition(":")[2]


def _radii(axes: Any, norm: str, scores: Sequence[Score]) -> None:
    """Name every radius that was measured, and 0."""
    found = {0.0: "0"} | {_eps(score): _radius(score) for score in scores}
    places = sorted(found)
    crowded = any(after - before < 0.1 * places[-1] for before, after in pairwise(places))
    axes.set_xticks(list(found), list(found.values()), rotation=60 if crowded else 0)
    axes.set_xlabel(f"eps ({norm}: {UNIT[norm]})")


def _line(axes: Any, places: Sequence[float], scores: Sequence[Score], number: int, label: str) -> None:
    """One network: points, intervals, and a line through them."""
    values = [100 * score.accuracy for score in scores]
    below = [100 * (score.accuracy - score.low) for score in scores]
    above = [100 * (score.high - score.accuracy) for score in scores]
    look: Mapping[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
    # rounding may put an end of the interval a hair on the other side of the value
    error = [[max(0.0, each) for each in side] for side in (below, above)]
    axes.errorbar(places, values, yerr=error, capsize=4, linewidth=1.4, label=label, **look)


def _most_affected(rows: Sequence[Row], key: str) -> list[int]:
    """The classes that are shown: all in order, or those that lose most in the last network."""
    clean, robust = rows[-1].scores[CLEAN], rows[-1].scores[key]
    every = list(range(len(clean.class_n)))
    if len(every) <= MOST_CLASSES:
        return every
    both = [number for number in every if clean.class_n[number] and robust.class_n[number]]
    return sorted(both, key=lambda number: _share(robust, number) - _share(clean, number))[:MOST_CLASSES]


def _share(score: Score, number: int) -> float:
    return score.class_correct[number] / score.class_n[number]


def _images(name: str, score: Score, shown: Sequence[int]) -> str:
    return f"{name}: n = {span([score.class_n[number] for number in shown])} per class"


def _class(axes: Any, place: int, name: str, clean: Score, robust: Score, number: int) -> str:
    """Draw one class; returns it in words."""
    ends = []
    said = []
    for score, aside, colour, marker in ((clean, -0.14, BLUE, "o"), (robust, 0.14, ORANGE, "s")):
        found = Estimate(score.class_correct[number], score.class_n[number])
        if not found.n:
            said.append("no images")
            continue
        low, high = found.interval
        error = [[max(0.0, 100 * (found.value - low))], [max(0.0, 100 * (high - found.value))]]
        look = {"color": colour, "marker": marker, "markersize": 6, "capsize": 2.5, "elinewidth": 1}
        axes.errorbar([100 * found.value], [place + aside], xerr=error, linestyle="none", label=score.label, **look)
        ends.append(100 * found.value)
        said.append(f"{100 * found.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
    if len(ends) == 2:
        axes.text(113, place, f"{ends[1] - ends[0]:+.0f}", ha="right", va="center", fontsize=10)
    return f"{name}: clean {said[0]}, after the attack {said[1]}."


def _percent(score: Score) -> str:
    return f"{100 * score.accuracy:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}], n = {score.n}"


def _short(name: str) -> str:
    return plain(name if len(name) <= 18 else f"{name[:17]}…")
