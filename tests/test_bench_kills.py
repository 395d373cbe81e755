"""A benchmark that is killed at random moments ends with the bits of one that never was, and leaves nothing at work.

Slow: whole commands, each of which imports torch. `pytest -s -m slow tests/test_bench_kills.py` shows seeds and kills.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from rtk import files
from rtk.bench.formats import COLUMNS

from .small_files import bits, few
from .test_surroundings import mounted

pytestmark = pytest.mark.slow

MARK = "RTK_TEST_MARK"
SPEC = """
name = "few"
{limit}
[options]
dataset = "npz:few.npz"
suite = "clean,pgd20"
images = 24
chunk_size = 12
batch_size = 16
device = "cpu"
workers = {workers}
[[run]]
strategy = "last-k"
k = 1
epochs = 8
vary = {{lr = [0.1, 0.2]}}
[[run]]
strategy = "linear-probe"
epochs = 8
"""
TIMES = {"minutes", "cpu_minutes", "host_bytes", "device_bytes"}


class Bench:
    """A folder with a spec of three cells. Where `limit` is given, every cell is looked after by another process."""

    def __init__(self, path: Path, *, limit: str = "time_limit = 600", workers: int = 2):
        path.mkdir(exist_ok=True)
        self.path, self.root = path, path / "runs" / "bench-few"
        few(path / "few.npz")
        (path / "spec.toml").write_text(SPEC.format(limit=limit, workers=workers))
        (path / "temporary").mkdir()

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        own = {MARK: str(self.path), "TMPDIR": str(self.path / "temporary"), "OMP_NUM_THREADS": "1", **environment}
        return subprocess.Popen(
            [sys.executable, "-m", "rtk.cli", "bench", "run", "spec.toml", "--jobs", "2", *options],
            env={**os.environ, **own},
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *options: str, **environment: str) -> tuple[int, str]:
        process = self.start(*options, **environment)
        said, _ = process.communicate(timeout=600)
        return process.returncode, said

    def processes(self) -> list[int]:
        """Everything that a command here has started and that is still there."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"{MARK}={self.path}\0".encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    def results(self) -> dict[str, bytes]:
        return {path.parent.name: path.read_bytes() for path in self.root.glob("cells/*/result.json")}

    def bits(self) -> dict[str, dict[str, Any]]:
        return {name: bits(self.root / "cells" / name) for name in self.results()}

    def table(self) -> list[dict[str, str]]:
        """What stands in the table but times and memory."""
        command = [sys.executable, "-m", "rtk.cli", "bench", "table", "spec.toml", "--format", "csv"]
        said = subprocess.run(command, cwd=self.path, capture_output=True, text=True, check=True).stdout
        return [{name: row[name] for name in {*COLUMNS.split()} - TIMES} for row in csv.DictReader(said.splitlines())]

    def halves(self) -> list[Path]:
        """What was being written when it ended."""
        return [path for path in self.root.rglob(".*") if files.is_leftover(path)]

    def held(self) -> list[Path]:
        """Cells that somebody holds; a kill after a result and before the removal of its lock leaves the mere file."""
        held = []
        for path in self.root.glob("cells/*/.lock"):
            try:
                with FileLock(path, timeout=0):
                    pass
            except Timeout:
                held.append(path)
        return held

    def left(self) -> list[str]:
        """Temporary files; torch makes a folder for each user."""
        return [path.name for path in (self.path / "temporary").iterdir() if "torchinductor" not in path.name]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, float]:
    """A benchmark that was left alone, and the seconds that it took."""
    bench, begun = Bench(tmp_path_factory.mktemp("whole") / "bench"), time.monotonic()
    code, said = bench.run()
    assert code == 0 and len(bench.results()) == 3, said
    return bench, time.monotonic() - begun


KINDS = ("kill bench", "end bench", "kill all", "kill one below", "end one below")


def kill(bench: Bench, process: subprocess.Popen[str], kind: str, clock: random.Random) -> bool:
    """Send a signal, and wait until nothing is at work; whether there was somebody to be told."""
    number = signal.SIGTERM if kind.startswith("end") else signal.SIGKILL
    if "one below" in kind:
        below = [each for each in bench.processes() if each != process.pid]
        targets = [clock.choice(below)] if below else []
    else:
        targets = bench.processes() if kind == "kill all" else [process.pid]
    told = process.poll() is None and bool(targets)
    for target in targets:
        with suppress(ProcessLookupError):
            os.kill(target, number)
    if "one below" in kind:
        time.sleep(clock.uniform(0, 5))  # the others go on
        process.terminate()
    said, _ = process.communicate(timeout=60)
    assert "Traceback" not in said, said
    until_nobody_works(bench)
    return told


def until_nobody_works(bench: Bench) -> None:
    deadline = time.monotonic() + 30
    while found := bench.processes():
        assert time.monotonic() < deadline, f"still at work: {found}"
        time.sleep(0.1)


def test_a_benchmark_that_is_killed_goes_on_and_changes_no_bit(whole: tuple[Bench, float], tmp_path: Path) -> None:
    """At least fifteen kills of every kind together."""
    kinds: Counter[str] = Counter()
    for seed in range(10):
        clock, bench = random.Random(seed), Bench(tmp_path / str(seed))
        while len(before := bench.results()) < 3:
            process = bench.start("--retry")
            with suppress(subprocess.TimeoutExpired):
                process.wait(clock.uniform(1, 0.8 * whole[1]))
            kind = clock.choice(KINDS)
            told = kill(bench, process, kind, clock)
            kinds[kind] += told
            print(
                f"seed {seed}: {kind if told else 'had ended'}, {len(bench.results())} of 3 cells are done", flush=True
            )
            assert before.items() <= bench.results().items()
        for path in bench.halves():
            os.utime(path, (time.time() - 7200,) * 2)
        code, said = bench.run("--retry")
        assert code == 0, said
        assert bench.bits() == whole[0].bits() and bench.table() == whole[0].table()
        assert not bench.halves() and not bench.left() and not bench.held()
        until_nobody_works(bench)
        if kinds.total() >= 15 and all(kinds[kind] for kind in KINDS):
            print(f"{kinds.total()} kills: {dict(kinds)}")
            return
    pytest.fail(f"too few kills: {kinds}")


def test_a_long_benchmark_does_not_grow() -> None:
    """Thirty of the five hundred cells whose figures stand in benchmarks/README.md."""
    script = Path(__file__).parent.parent / "benchmarks" / "long_run.py"
    done = subprocess.run([sys.executable, script, "--cells", "30"], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_cell_that_somebody_ends_has_not_failed(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "bench")
    process = bench.start()
    cells = bench.root / "cells"
    while not (begun := [*cells.glob("*/work/*.pt"), *cells.glob("*/log.jsonl")]):
        assert process.poll() is None
        time.sleep(0.05)
    folder = begun[0].relative_to(cells).parts[0]
    os.kill(int((cells / folder / ".lock").read_text().split()[0]), signal.SIGTERM)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 1 and "interrupted, " in said and "1 of 3 cells have no result" in said
    assert not (bench.root / "failures").exists()
    code, said = bench.run()
    assert code == 0 and said.count("before") == 2


def test_two_commands_at_once_share_the_cells(whole: tuple[Bench, float], tmp_path: Path) -> None:
    bench = Bench(tmp_path / "bench")
    both = [bench.start(), bench.start()]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all("another process works on it (process " in text or "done, before" in text for text in said), said
    assert bench.bits() == whole[0].bits()
    for log in bench.root.glob("cells/*/log.jsonl"):
        assert log.read_text().count('"event": "epoch"') == 8  # nothing was computed twice


@contextmanager
def full(tmp_path: Path, size: str, ballast: int) -> Iterator[Bench]:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={size}", "rtk-test") as disk:
        bench = Bench(disk / "bench", limit="", workers=1)
        (disk / "ballast").write_bytes(bytes(ballast))
        yield bench


def test_a_full_disk_stops_a_benchmark_and_fails_no_cell(whole: tuple[Bench, float], tmp_path: Path) -> None:
    with full(tmp_path, "12m", 10 * 2**20 + 2**19) as bench:
        code, said = bench.run()
        assert code == 1 and said.splitlines()[-1].startswith("rtk: Disk full while writing "), said
        assert "Try: free space (" in said and not (bench.root / "failures").exists()
        before = bench.results()
        (bench.path.parent / "ballast").unlink()
        code, said = bench.run()
        assert code == 0 and before.items() <= bench.results().items(), said
        assert bench.bits() == whole[0].bits()


def test_what_is_deleted_while_a_benchmark_runs_is_made_again(whole: tuple[Bench, float], tmp_path: Path) -> None:
    bench = Bench(tmp_path / "bench")
    process = bench.start()
    while not (locks := list(bench.root.glob("cells/*/.lock"))):
        assert process.poll() is None
        time.sleep(0.05)
    subprocess.run(["rm", "-rf", locks[0].parent], check=False)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert bench.bits() == whole[0].bits()


JUMPS = """
import random, time
_now, _jumps = time.time, random.Random()
time.time = lambda: _now() + _jumps.uniform(-1e5, 1e5)
"""


def test_a_clock_that_jumps_by_hours_changes_no_bit(whole: tuple[Bench, float], tmp_path: Path) -> None:
    bench = Bench(tmp_path / "bench")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(JUMPS)
    found = os.pathsep.join([str(tmp_path / "site"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    process = bench.start(PYTHONPATH=found)
    clock = random.Random(0)
    while process.poll() is None:
        time.sleep(0.5)
        for path in [*bench.root.rglob("*"), *bench.root.rglob(".lock")]:
            with suppress(OSError):
                os.utime(path, (clock.uniform(1e6, 4e9),) * 2)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert bench.bits() == whole[0].bits()
