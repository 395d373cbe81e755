"""The pictures of EVIDENCE.md that are drawn from its committed results.

    pip install -e ".[plots]" && python benchmarks/evidence_figures.py

evidence/rift.png shows what interpolation trades, on validation images; evidence/cartl.png shows the two accuracies of
everything that was tried with CARTL's grids, on test images, mean and standard deviation over the seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rtk import files, results

EVIDENCE = Path(__file__).parent / "evidence"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito's
SOURCES = {
    "at-tenth-cifar10": "a tenth of CIFAR-10",
    "at-early-cifar10": "CIFAR-10, stopped early",
    "trades-more-cifar10": "CIFAR-10, TRADES",
    "trades-more-cifar100": "CIFAR-100, TRADES",
    "trades-tenth-cifar10": "a tenth of CIFAR-10, TRADES",
}
WIDE = "a tenth of CIFAR-10, 2 M parameters"
LINES = {
    "rtk:cifar10-at": (COLOURS[0], "-"),
    "CIFAR-10, TRADES": (COLOURS[0], "--"),
    "rtk:cifar100-at": (COLOURS[1], "-"),
    "CIFAR-100, TRADES": (COLOURS[1], "--"),
    "a tenth of CIFAR-10": (COLOURS[2], "-"),
    "a tenth of CIFAR-10, TRADES": (COLOURS[2], "--"),
    WIDE: (COLOURS[3], "-"),
    "CIFAR-10, stopped early": (COLOURS[5], "-"),
}
PAPER = (83.44 - 81.46, 53.65 - 53.63)  # Table 1, ResNet-18


def found(spec: str) -> list[results.Result]:
    """The committed results of a spec."""
    return [results.read(path) for path in sorted((EVIDENCE / "results" / spec / "cells").glob("*/result.json"))]


def source(cell: results.Result) -> str:
    """What a run of RiFT started from."""
    if cell.backbone["parameters"] > 1e6:  # the only one whose weights are not beside the results
        return WIDE
    return checkpoints().get(cell.backbone["checkpoint"]["sha256"], str(cell.backbone["uri"]))


@cache
def checkpoints() -> dict[str, str]:
    """By the hash of its file, what a source is called."""
    return {files.sha256(EVIDENCE / "sources" / folder / "model.safetensors"): SOURCES[folder] for folder in SOURCES}


def interpolations(axes: Axes, cells: Iterable[results.Result]) -> None:
    """From the source, which is the origin, to the fine-tuned weights."""
    for cell in sorted(cells, key=lambda cell: list(LINES).index(source(cell))):
        colour, style = LINES[source(cell)]
        points = cell.report["interpolation"]
        start = points[0]
        x = [100 * (point["clean"] - start["clean"]) for point in points]
        y = [100 * (point["robust"] - start["robust"]) for point in points]
        axes.plot(x, y, color=colour, linestyle=style, marker=".", label=source(cell))
        kept = [point["alpha"] for point in points].index(cell.report["alpha"])
        axes.plot(x[kept], y[kept], color=colour, marker="o", markersize=9, fillstyle="none")


def rift() -> Figure:
    """Three panels: the paper's rate, BatchNorm as in its code, and ten times the rate."""
    specs = ("rift", "rift-rate", "rift-drift", "rift-gap", "rift-wide", "rift-early", "rift-trades")
    cells = [cell for spec in specs for cell in found(spec) if not cell.seed]
    panels: dict[str, dict[str, Any]] = {
        "the paper's rate, 0.001": {"lr": 0.001, "buffers": "frozen"},
        "0.001, statistics drift as in the published code": {"lr": 0.001, "buffers": "drift"},
        "rate 0.01": {"lr": 0.01, "buffers": "frozen"},
    }
    picture = Figure(figsize=(13, 4.8), layout="constrained")
    for axes, (title, wanted) in zip(picture.subplots(1, 3, sharex=True, sharey=True), panels.items(), strict=True):
        interpolations(axes, [cell for cell in cells if wanted.items() <= cell.strategy["config"].items()])
        axes.plot(
            *PAPER, color="black", marker="*", markersize=11, linestyle="", label="the paper, CIFAR-10, test images"
        )
        axes.axhline(0, color="#888", linewidth=0.8)
        axes.axvline(0, color="#888", linewidth=0.8)
        axes.set(title=title, xlabel="clean accuracy gained, points")
        axes.grid(alpha=0.3)
    picture.axes[0].legend(fontsize=8, loc="lower right")
    picture.axes[0].set_ylabel("PGD-10 accuracy gained, points")
    return picture


def cartl() -> Figure:
    """Two panels: what is like the source's data, and what is not."""
    picture = Figure(figsize=(13, 5.4), layout="constrained")
    panels = {"cartl-cifar10-grid": "CIFAR-100 to a fifth of CIFAR-10", "cartl-gtsrb": "CIFAR-10 to traffic signs"}
    fdm = files.sha256(EVIDENCE / "sources" / "fdm-more-cifar100" / "model.safetensors")
    for axes, (spec, title) in zip(picture.subplots(1, 2), panels.items(), strict=True):
        cells = [cell for cell in found(spec) if cell.backbone["checkpoint"]["sha256"] != fdm]
        styles = [*((colour, "o") for colour in COLOURS[:4]), *((COLOURS[4], marker) for marker in "s^v")]
        for style, (name, points) in zip(styles, varied(cells).items(), strict=True):
            series(axes, name, points, *style)
        axes.set(title=title, xlabel="clean accuracy, %", ylabel="PGD-20 accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return picture


def series(axes: Axes, name: str, points: dict[str, list[results.Result]], colour: str, marker: str) -> None:
    """What was varied, one thing at a time; a point has the mean and the standard deviation over the seeds."""
    at = [[[score(cell, item) for cell in point] for item in ("clean", "pgd20")] for point in points.values()]
    x, y = ([statistics.mean(values[each]) for values in at] for each in (0, 1))
    dx, dy = ([statistics.stdev(values[each]) for values in at] for each in (0, 1))
    line = "" if len(points) == 1 else "-"
    axes.errorbar(x, y, dy, dx, label=name, color=colour, marker=marker, linestyle=line, linewidth=1, elinewidth=0.7)
    for text, place in zip(points, zip(x, y, strict=True), strict=True):
        shift = {"last-k": (-20, -9), "CARTL, beta 0.4": (-20, 6)}.get(name.split(":")[0], (5, 5))  # none on another
        axes.annotate(text, place, shift, textcoords="offset points", fontsize=8, color=colour)


def varied(cells: list[results.Result]) -> dict[str, dict[str, list[results.Result]]]:
    """By the name of the series, the text of its points and their cells, seed by seed."""
    default = {"k": 3, "beta": 0.4, "freeze_affine": True, "reuse_statistics": None}

    def of(strategy: str, **wanted: Any) -> list[results.Result]:
        wanted = {**(default if strategy == "cartl" else {}), **wanted}
        same = [cell for cell in cells if cell.strategy["name"] == strategy]
        return [cell for cell in same if wanted.items() <= cell.strategy["config"].items()]

    return {
        "LwF": {"": of("lwf")},
        "last-k: number of blocks": {f"k {k}": of("last-k", k=k) for k in (2, 3, 4)},
        "CARTL, beta 0.4: number of blocks": {f"k {k}": of("cartl", k=k) for k in (2, 3, 4)},
        "CARTL, k 3: bound": {
            f"beta {beta:g}" if beta > 0.4 else "": of("cartl", beta=beta) for beta in (0.4, 0.6, 1.0)
        },
        "CARTL, k 3, beta 0.4: statistics adapt": {"": of("cartl", reuse_statistics=False)},
        "... scales trained": {"": of("cartl", reuse_statistics=True, freeze_affine=False)},
        "... both": {"": of("cartl", reuse_statistics=False, freeze_affine=False)},
    }


def score(cell: results.Result, item: str) -> float:
    """Of the fine-tuned network, in %."""
    return next(100 * score.correct / score.n for name, score in cell.rows[-1].scores.items() if name.startswith(item))


def main() -> None:
    """Draw both."""
    for name, picture in (("rift", rift()), ("cartl", cartl())):
        picture.savefig(EVIDENCE / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
