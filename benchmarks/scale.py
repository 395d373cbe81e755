"""How long the commands of `rtk bench` take over ten thousand cells: python benchmarks/scale.py

One small run is made in truth; the results of all cells are copies of it with verdicts of their own. Whole commands are
timed, the start of Python included: wall time, and in brackets CPU time, which on an idle machine is the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rtk
from rtk.bench.cells import cells_of
from rtk.bench.spec import read_spec
from rtk.clustered import interval
from rtk.results import Change, Score
from rtk.verdicts import pack

STRATEGIES = ("full", "at", "trades", "last-k")
RATES = 10

SPEC = """
name = "{name}"
seeds = {seeds}
[options]
dataset = "fashion"
suite = "clean,pgd20"
images = {images}
[vary]
strategy = {strategies}
lr = {rates}
weight_decay = {decays}
"""


def main() -> None:
    """Make the cells, and print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=2500, help="test images whose verdicts a result holds")
    parser.add_argument("--folder", type=Path, help="where to work")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        options = {"dataset": "fashion", "suite": "clean,pgd20", "images": given.images, "epochs": 0}
        real = rtk.finetune("full", **options, out=folder / "real").model_dump(mode="json")
        for seeds in (1, 5):
            measure(folder, real, given.cells, seeds, given.images)


def measure(folder: Path, real: dict[str, Any], count: int, seeds: int, images: int) -> None:
    """Time every command over so many cells, a row of the table for so many seeds."""
    rows = count // seeds
    name = f"scale-{seeds}"
    spec = folder / f"{name}.toml"
    decays = [round(1e-6 * number, 9) for number in range(1, rows // (len(STRATEGIES) * RATES) + 1)]
    rates = [round(0.001 * number, 6) for number in range(1, RATES + 1)]
    spec.write_text(
        SPEC.format(
            name=name,
            seeds=list(range(seeds)),
            images=images,
            strategies=json.dumps(STRATEGIES),
            rates=rates,
            decays=decays,
        )
    )
    cells = cells_of(read_spec(spec))
    print(f"{len(cells)} cells, {seeds} seeds, {len(cells) // seeds} rows of the table")
    print(f"  run, nothing done, until the first cell begins: {first_cell(folder, spec, name):.2f} s", flush=True)
    size = fill(folder / "runs" / f"bench-{name}" / "cells", real, cells)
    print(f"  (results: {size / 2**20:.0f} MiB)")
    for label, command in (
        ("status, for the first time", ["status"]),
        ("status", ["status"]),
        ("table", ["table"]),
        ("table with a baseline", ["table", "--baseline", "full lr=0.001 weight_decay=1e-06"]),
        ("run, everything done", ["run"]),
    ):
        print(f"  {label}: {timed(folder, command, spec)}", flush=True)
    index = folder / "runs" / f"bench-{name}" / "index.json"
    print(f"  (index: {index.stat().st_size / 2**20:.1f} MiB)")


def timed(folder: Path, command: list[str], spec: Path) -> str:
    """Wall and CPU time of a whole command."""
    begun, spent = time.perf_counter(), cpu()
    subprocess.run(
        [sys.executable, "-m", "rtk.cli", "bench", command[0], spec.name, *command[1:]],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return f"{time.perf_counter() - begun:.2f} s ({cpu() - spent:.2f} s)"


def cpu() -> float:
    """CPU seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def first_cell(folder: Path, spec: Path, name: str) -> float:
    """Seconds until the options of the first cell are written."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "rtk.cli", "bench", "run", spec.name, "--jobs", "1"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    cells = folder / "runs" / f"bench-{name}" / "cells"
    while not any(cells.glob("*.toml")) and process.poll() is None:
        time.sleep(0.01)
    took = time.perf_counter() - begun
    process.send_signal(signal.SIGINT)
    process.wait()
    return took


def fill(folder: Path, real: dict[str, Any], cells: list[Any]) -> int:
    """A result for every cell; how many bytes."""
    chance, size = random.Random(0), 0
    for cell in cells:
        found = copy.copy(real)
        source, tuned = real["rows"][0], copy.deepcopy(real["rows"][-1])
        for item, score in tuned["scores"].items():
            share = chance.uniform(0.3, 0.8)
            right = [chance.random() < share for _ in range(score["n"])]
            low, high = interval([float(each) for each in right], 1)
            score |= {
                "correct": sum(right),
                "class_correct": [sum(right), *[0] * (len(score["class_n"]) - 1)],
                "accuracy": sum(right) / len(right),
                "low": low,
                "high": high,
                "verdicts": pack(right),
            }
            before, after = (Score.model_validate(row["scores"][item]) for row in (source, tuned))
            found["changes"] = {**found["changes"], item: Change.between(before, after).model_dump()}
        found["seed"] = cell.settings.all["seed"]
        found["strategy"] = {**real["strategy"], "name": cell.request.strategy.name, "source_sha256": cell.code}
        found["rows"] = [source, tuned]
        directory = folder / cell.name
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, indent=2)
        (directory / "result.json").write_text(text)
        size += len(text)
    return size


if __name__ == "__main__":
    main()
