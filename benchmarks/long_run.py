"""Whether a long benchmark leaks: five hundred tiny cells in one `rtk bench run`, looked at from outside. Linux only.

    python benchmarks/long_run.py --cells 500

Prints, for every tenth of the cells, medians over that time of what `rtk bench run` holds (memory, file handles,
threads), of how many processes are below it, and of the most memory that a cell's process had. Fails when one of them
grows, when a process or a temporary file is left behind, and when a cell fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import linear_regression, median
from typing import Any, Literal

import numpy as np
import torch

from rtk.data import open_dataset

PAUSE = 0.2
SEEDS = 5
COLUMNS = {"parent, MiB": 8.0, "handles": 1.0, "threads": 1.0, "processes": 1.0, "a cell's process, MiB": 40.0}
"""What is looked at, and how much of it may be added over the whole run by the line through all looks: what the parent
remembers of a result takes a few KiB, and the last varies by more than that from cell to cell."""

SPEC = """
name = "long"
seeds = {seeds}
[options]
dataset = "npz:few.npz"
device = "cpu"
suite = "clean"
images = 20
chunk_size = 10
epochs = 1
"""
RUN = """
[[run]]
strategy = "linear-probe"
lr = {lr}
workers = {workers}
"""

Looks = list[tuple[int, float]]
"""How many cells were done, and what was seen then."""


def main() -> None:
    """Run the benchmark in a temporary folder, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=500, help="a multiple of 10")
    parser.add_argument("--jobs", type=int, default=2, help="cells at once")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(measure(Path(folder), given.cells, given.jobs))


def measure(folder: Path, cells: int, jobs: int) -> int:
    """Run so many cells in `folder`; exit code 1 when something grows or is left behind."""
    prepare(folder, cells)
    begun = time.monotonic()
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "rtk.cli", "bench", "run", "spec.toml", "--jobs", str(jobs)],
            cwd=folder,
            env={"OMP_NUM_THREADS": "1", **os.environ, "TMPDIR": str(folder / "temporary")},
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        looks = watch(process, folder / "said")
    print(f"{cells} cells, {jobs} at once, {(time.monotonic() - begun) / 60:.0f} min")
    wrong = report(cells, looks)
    if left := marked(str(folder / "temporary")):
        wrong.append(f"processes are left: {left}")
    if files := [path.name for path in (folder / "temporary").iterdir() if not path.name.startswith("torchinductor_")]:
        wrong.append(f"temporary files are left: {files[:5]}")  # torch makes a folder of that name for each user
    if process.returncode:
        wrong.append((folder / "said").read_text()[-2000:])
    print(*(f"WRONG: {each}" for each in wrong), sep="\n")
    return 1 if wrong else 0


def prepare(folder: Path, cells: int) -> None:
    """A few real images; of the cells every fourth five are evaluated in two processes, the others in one."""
    arrays: dict[str, Any] = {}
    sizes: dict[Literal["train", "test"], int] = {"train": 80, "test": 20}
    for name, count in sizes.items():
        part = open_dataset("fashion").split(name)
        arrays[f"x_{name}"] = (part.images(torch.arange(count)) * 255).byte().permute(0, 2, 3, 1).numpy()
        arrays[f"y_{name}"] = part.labels[:count].numpy()
    np.savez(folder / "few.npz", **arrays)
    runs = [RUN.format(lr=(number + 1) / 1000, workers=1 + (number % 4 == 2)) for number in range(cells // SEEDS)]
    (folder / "spec.toml").write_text(SPEC.format(seeds=list(range(SEEDS))) + "".join(runs))
    (folder / "temporary").mkdir()


def watch(process: subprocess.Popen[bytes], said: Path) -> list[Looks]:
    """Look until it ends; for each column what was seen."""
    looks: list[Looks] = [[] for _ in COLUMNS]
    cells: dict[int, tuple[int, float]] = {}
    place = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        time.sleep(PAUSE)
        done = said.read_text().count(": done, ")
        try:
            handles, threads = (len(list((place / name).iterdir())) for name in ("fd", "task"))
            own, below = children(process.pid)
            seen = (memory(process.pid, "VmRSS"), handles, threads, len(own) + below)
            for number in own:
                first, most = cells.get(number, (done, 0.0))
                cells[number] = first, max(most, memory(number, "VmHWM"))
        except OSError:  # one of them has just ended
            continue
        for column, value in zip(looks, seen, strict=False):
            column.append((done, value))
    looks[-1] = sorted(cells.values())
    return looks


def children(number: int) -> tuple[list[int], int]:
    """The children of a process, and how many there are below them; zombies are none."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(path.parent.name)] = int(parent)
    found = [number]
    for each in found:  # grows while it is read
        found += [child for child, parent in parents.items() if parent == each]
    own = [child for child, parent in parents.items() if parent == number]
    return own, len(found) - 1 - len(own)


def marked(text: str) -> list[int]:
    """Processes with such a text in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def memory(number: int, name: str) -> float:
    """A line of /proc/PID/status, in MiB; 0 of a process that is ending."""
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), 0.0)


def report(cells: int, looks: list[Looks]) -> list[str]:
    """Print the table; what grows by more than it may, a sentence each."""
    print("cells | " + " | ".join(COLUMNS))
    step = cells // 10
    for last in range(step, cells + 1, step):
        parts = [[value for done, value in column if last - step <= done < last] for column in looks]
        print(f"{last:5d} | " + " | ".join(f"{median(part):.1f}" if part else "-" for part in parts))
    wrong = []
    for (name, most), column in zip(COLUMNS.items(), looks, strict=True):
        later = [look for look in column if look[0] >= step]  # what is imported on first use has been by then
        growth = cells * linear_regression(*zip(*later, strict=True)).slope
        line = f"{name}: {growth:+.2f} over all cells (at most {most:g})"
        print(line)
        wrong += [line] * (growth > most)
    return wrong


if __name__ == "__main__":
    main()
