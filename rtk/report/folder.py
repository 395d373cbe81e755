"""`rtk plot`: the pictures of a run or of an evaluation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import files, results, rundir
from ..charts import charts_of
from ..errors import BadData, RequestError, UnknownName
from ..results import Evaluation, Result, Row
from ..threat import Threat
from . import pictures
from .canvas import Picture
from .samples import first_broken

TEXTS = "README.txt"


@dataclass(frozen=True)
class Drawn:
    """One picture of the folder.

    Attributes:
        path: where it lies; None when it could not be drawn.
        text: the same in words; else why there is none, and what to type.
    """

    name: str
    path: Path | None
    text: str


def draw(directory: Path, out: Path | None = None, item: str | None = None, root: Path | None = None) -> list[Drawn]:
    """Draw what the result in `directory` holds, and write beside it what each picture shows, in words.

    Args:
        out: where; by default the folder `pictures` in `directory`.
        item: the attack of the pictures that show one, "pgd20@Linf:0.1"; by default see `chosen`.
        root: folder of named data sets.

    Raises:
        BadData: no result, or a chart in it that is damaged.
        UnknownName: no score of this item.
        RequestError: matplotlib is not installed.
    """
    found = results.read_any(directory)
    size = rundir.read_options(directory).get("image_size")
    key = chosen(found, item)
    folder = out or directory / "pictures"
    rows = rows_of(found)

    def examples() -> Picture:
        if not isinstance(found, Evaluation) or key is None or not found.examples:
            raise BadData("No adversarial images were kept.", _keeping(directory, found))
        broken = first_broken(directory, found, key, size, root)
        return pictures.examples(broken, found.row.scores[key], found.row.name)

    def classes() -> Picture:
        if key is None:
            raise BadData("Nothing was attacked, so no class has lost anything.", "--suite clean,pgd20")
        return pictures.classes(rows, key, _class_names(found, size, root))

    kinds: dict[str, Callable[[], Picture]] = {
        "curve.png": lambda: pictures.curve(rows),
        "classes.png": classes,
        "examples.png": examples,
    }
    for chart in charts_of(found.report) if isinstance(found, Result) else ():
        name = free = re.sub(r"\W+", "-", chart.name).strip("-") or "chart"
        number = 1
        while f"chart-{free}.png" in kinds:
            free = f"{name}-{(number := number + 1)}"
        kinds[f"chart-{free}.png"] = partial(pictures.chart, chart)
    drawn = [_draw(name, make, folder) for name, make in kinds.items()]
    told = "\n\n".join(f"{one.name}\n{one.text}" for one in drawn)
    files.write(folder / TEXTS, lambda file: file.write(f"{told}\n".encode()))
    return drawn


def rows_of(found: Result | Evaluation) -> list[Row]:
    """The networks of a result, or the one of an evaluation."""
    return [found.row] if isinstance(found, Evaluation) else found.rows


def chosen(found: Result | Evaluation, item: str | None = None) -> str | None:
    """The attack `item`, or else, of those at the network's own threat, the one on most images; None without attacks.

    Raises:
        UnknownName: no score of this item.
    """
    scores = rows_of(found)[-1].scores
    attacked = {key: score for key, score in scores.items() if score.threat is not None}
    if item is not None:
        if item not in attacked:
            raise UnknownName("attack", item, attacked, "--item NAME@NORM:EPS, as in: rtk show DIR --json")
        return item
    own = found.backbone["threat"] if isinstance(found, Evaluation) else found.threat
    threat = str(Threat(own["norm"], own["eps"])) if own else None
    keys = [key for key, score in attacked.items() if score.threat == threat] or list(attacked)
    # the later of two on as many images is the stronger one
    return max(keys, key=lambda key: (attacked[key].n, keys.index(key)), default=None)


def _draw(name: str, make: Callable[[], Picture], folder: Path) -> Drawn:
    path = folder / name
    try:
        picture = make()
    except BadData as problem:
        path.unlink(missing_ok=True)  # of an earlier result
        return Drawn(name, None, f"Not drawn: {problem}")
    picture.write(path)
    return Drawn(name, path, picture.text)


def _keeping(directory: Path, found: Result | Evaluation) -> str:
    """The command that keeps adversarial images."""
    if isinstance(found, Result):
        return f"rtk evaluate {directory} --save-examples"
    typed = found.command or ["rtk", "evaluate", found.backbone["uri"]]
    return shlex.join([*(each for each in typed if each != "--save-examples"), "--save-examples"])


def _class_names(found: Result | Evaluation, size: Any, root: Path | None) -> tuple[str, ...] | None:
    """As the result says, or else the data set, if it is the same; None where neither does."""
    from ..data import open_dataset

    if names := results.class_names(found.dataset):
        return names
    try:
        data = open_dataset(found.dataset["uri"], root=root, image_size=size)
        same = data.num_classes == found.dataset.get("classes")
        return data.class_names if same and ":" not in found.dataset["uri"] else None  # a folder may be another by now
    except RequestError:
        return None
