"""A benchmark as a user runs it: failures, repetition, Ctrl-C, a kill, and a strategy that changes."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from rtk.cli import main

CODE = """
import time
from pathlib import Path

import rtk

class Third(rtk.Strategy):
    name = "third"
    summary = "Does what the folder says."
    setting = "target"
    config: rtk.Config

    def finetune(self, model, run):
        with Path("began").open("a") as file:
            print(run.threat.eps, file=file)
        while Path("hold").exists():
            time.sleep(0.05)
        if run.threat.eps < 0.05 and not Path("mended").exists():
            raise ValueError("needs mending")
        return model

@rtk.hookimpl
def rtk_strategies():
    return Third
"""
SPEC = """
name = "tiny"
[options]
device = "cpu"
suite = "clean"
images = 20
workers = 1
[[run]]
strategy = "third"
vary = {eps = [0.04, 0.1]}
[[run]]
strategy = "linear-probe"
epochs = 0
"""
ONE = SPEC.replace("[0.04, 0.1]", "[0.1]").partition('[[run]]\nstrategy = "linear-probe"')[0]


class Folder:
    """A folder with a spec and an installed third party's strategy."""

    def __init__(self, path: Path, spec: str = SPEC):
        self.path, self.strategy = path, path / "site" / "rtk_third.py"
        info = path / "site" / "rtk_third-2.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rtk-third\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text("[rtk]\nthird = rtk_third\n")
        self.strategy.write_text(CODE)
        (path / "spec.toml").write_text(spec)

    def start(self, action: str, *options: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.path / "site"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "rtk.cli", "bench", action, "spec.toml", *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, cwd=self.path, stdout=pipe, stderr=pipe, text=True)

    def rtk(self, action: str, *options: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of `rtk bench ACTION`."""
        process = self.start(action, *options)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def look(self, action: str, *options: str) -> tuple[str, str]:
        """stdout and stderr of a command that runs no cell, in this process, which has imported torch already."""
        out, err = io.StringIO(), io.StringIO()
        sys.modules.pop("rtk_third", None)
        importlib.invalidate_caches()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.path)
            patch.setattr(sys, "path", [str(self.path / "site"), *sys.path])
            with pytest.raises(SystemExit):
                main(["bench", action, "spec.toml", *options])
        return out.getvalue(), err.getvalue()

    def states(self) -> list[str]:
        return [line.partition("\t")[0] for line in self.look("status")[0].splitlines()]

    def results(self) -> dict[str, bytes]:
        found = sorted((self.path / "runs" / "bench-tiny" / "cells").glob("*/result.json"))
        return {path.parent.name: path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, tuple[int, str, str]]:
    """SPEC, run once, and what that said; read it, do not write there."""
    folder = Folder(tmp_path_factory.mktemp("bench"))
    return folder, folder.rtk("run", "--jobs", "2")


@pytest.fixture
def copied(ran: tuple[Folder, object], tmp_path: Path) -> Folder:
    """The same to write in."""
    folder = Folder(tmp_path)
    shutil.copytree(ran[0].path / "runs", tmp_path / "runs")
    return folder


def until(happened: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_failure_stops_no_other_cell(ran: tuple[Folder, tuple[int, str, str]]) -> None:
    folder, (code, out, err) = ran
    assert code == 1
    reason = "plugin 'third' of rtk-third 2.5: ValueError: needs mending"
    assert f"failed: third eps=0.04 seed=0: {reason}" in out and "--retry" in out
    assert err.count("done, ") == 2 and "third eps=0.04 seed=0: failed, " in err and reason in err
    assert folder.states() == ["failed", "done", "done"]
    (failure,) = (folder.path / "runs" / "bench-tiny" / "failures").iterdir()
    found = json.loads(failure.read_text())
    assert (found["exit_code"], found["plugin"]) == (1, "plugin 'third' of rtk-third 2.5") and reason in found["reason"]
    assert (folder.path / "runs" / "bench-tiny" / "spec.toml").read_text() == SPEC


def test_a_failed_cell_is_tried_again_only_when_asked(copied: Folder) -> None:
    before = copied.results()
    (copied.path / "mended").touch()
    code, out, err = copied.rtk("run")
    assert code == 1 and "needs mending" in out and err.count("before") == 3
    assert copied.results() == before
    code, out, _ = copied.rtk("run", "--retry")
    assert code == 0 and "third eps=0.04" in out and "failed" not in out
    assert set(copied.results()) > set(before) and before.items() <= copied.results().items()


def test_a_changed_strategy_makes_its_own_cells_stale_and_deletes_nothing(copied: Folder) -> None:
    before = copied.results()
    copied.strategy.write_text(CODE + "# changed\n")
    assert sorted(copied.states()) == ["done", "stale", "stale", "waiting", "waiting"]
    assert copied.results() == before
    out, err = copied.look("table")
    assert "linear-probe" in out and "third" not in out and "2 of 3 cells have no result" in err
    copied.strategy.write_text(CODE)
    assert copied.states() == ["failed", "done", "done"]


def test_a_table_in_every_format(ran: tuple[Folder, object]) -> None:
    folder = ran[0]
    text, markdown, table, data = (folder.look("table", "--format", form)[0] for form in FORMATS)
    for shown in (text, markdown):
        assert all(part in shown for part in ("clean, n=20", "third eps=0.1", "linear-probe"))
        assert shown.count("eps=0.04") == shown.count("failed: third eps=0.04") == 1, "no row, but said below"
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    parsed, others = json.loads(data)
    assert [each["state"] for each in others["missing"]] == ["failed"]
    lines = list(csv.DictReader(io.StringIO(table)))
    assert (
        [row["name"] for row in parsed["rows"]]
        == [line["strategy"] for line in lines]
        == ["third eps=0.1", "linear-probe"]
    )
    results = {json.loads(text)["strategy"]["name"]: json.loads(text) for text in folder.results().values()}
    for row, line in zip(parsed["rows"], lines, strict=True):
        score = results[row["name"].split()[0]]["rows"][-1]["scores"]["clean"]
        assert row["entries"]["clean"]["accuracy"] == {"mean": score["accuracy"], "deviation": None}
        assert float(line["mean"]) == score["accuracy"]
        assert (
            row["entries"]["clean"]["interval"]
            == [float(line["low"]), float(line["high"])]
            == [score["low"], score["high"]]
        )
        assert f"{100 * score['accuracy']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]" in text


FORMATS = ("text", "markdown", "csv", "json")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Folder, subprocess.Popen[str]]]:
    """A benchmark of one cell that is at work and stays so while there is the file `hold`."""
    folder = Folder(tmp_path, ONE)
    (tmp_path / "hold").touch()
    process = folder.start("run")
    until((tmp_path / "began").exists)
    yield folder, process
    (tmp_path / "hold").unlink(missing_ok=True)
    process.communicate(timeout=60)


def test_ctrl_c_ends_the_cells_and_the_same_command_goes_on(held: tuple[Folder, subprocess.Popen[str]]) -> None:
    folder, process = held
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "0 of 1 cells are done" in err and "the same command goes on" in err
    assert folder.states() == ["waiting"] and not (folder.path / "runs" / "bench-tiny" / "failures").exists()
    assert "was interrupted; what it has finished is kept" in folder.look("status")[0]
    (folder.path / "hold").unlink()
    assert folder.rtk("run")[0] == 0 and folder.states() == ["done"]


def test_a_killed_benchmark_takes_its_cells_with_it(held: tuple[Folder, subprocess.Popen[str]]) -> None:
    folder, process = held
    process.kill()
    process.wait()
    until(lambda: folder.states() == ["waiting"], 30)
    assert "was interrupted; what it has finished is kept" in folder.look("status")[0]
    (folder.path / "hold").unlink()
    assert folder.rtk("run")[0] == 0 and folder.states() == ["done"]


def test_a_cell_that_another_command_works_on_is_waited_for(held: tuple[Folder, subprocess.Popen[str]]) -> None:
    folder, _ = held
    assert folder.states() == ["running"]
    again = folder.start("run")
    time.sleep(5)  # enough to look at the cell
    assert again.poll() is None and folder.results() == {}
    (folder.path / "hold").unlink()
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0 and "another process works on it (process " in err and "done, before" in err, err
    assert folder.states() == ["done"]


def test_a_cell_that_is_killed_has_failed_and_says_so(held: tuple[Folder, subprocess.Popen[str]]) -> None:
    folder, process = held
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    os.killpg(int(listed.stdout), signal.SIGKILL)  # the cell and all that it has started
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "failed: third eps=0.1 seed=0: ended by SIGKILL, perhaps for want" in out
    assert folder.states() == ["failed"]


def test_a_cell_is_stopped_at_its_time_limit_and_goes_on_without_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path, ONE.replace("[options]", "time_limit = 8\n[options]", 1))
    (folder.path / "hold").touch()
    code, out, _ = folder.rtk("run")
    assert code == 1 and "was stopped at the time limit of 8 s; what was finished is kept" in out
    assert folder.states() == ["failed"]
    (folder.path / "hold").unlink()
    (folder.path / "spec.toml").write_text(ONE)  # the limit is no part of what a cell is known by
    assert folder.states() == ["failed"]
    assert folder.rtk("run", "--retry")[0] == 0 and folder.states() == ["done"]
