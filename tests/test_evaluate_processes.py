"""kill -9 at any moment: nothing is lost but the chunk in work, nothing changes, and nothing is left running."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rtk.evaluation import build, evaluate

from .test_cli import processes, wait_for

OPTIONS = {"suite": "clean,pgd20", "chunk_size": 10, "images": 400}


def launch(out: Path, workers: int) -> subprocess.Popen[bytes]:
    typed = [f"--{name.replace('_', '-')}={value}" for name, value in {**OPTIONS, "out": out}.items()]
    command = [sys.executable, "-m", "rtk.cli", "evaluate", "rtk:fashion-resnet", *typed, f"--workers={workers}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=-3, stderr=-3, start_new_session=True)


def finish(out: Path) -> dict[str, Any]:
    """Evaluate in this process what may have been begun in others; everything but the times."""
    evaluate(build("rtk:fashion-resnet", {**OPTIONS, "out": out, "workers": 1}))
    found = json.loads((out / "evaluation.json").read_text())
    return {key: value for key, value in found.items() if key not in ("created", "seconds", "environment")}


def finished(out: Path) -> dict[Path, bytes]:
    return {path.relative_to(out): path.read_bytes() for path in (out / "verdicts").glob("*/[0-9]*.json")}


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_with_the_same_verdicts(tmp_path: Path) -> None:
    """Slow because every part is a process that begins by importing torch, and starts others."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    draw = random.Random(seed)
    killed = tmp_path / "killed"
    before: dict[Path, bytes] = {}
    for _ in range(3):
        process = launch(killed, workers=1)
        more = len(before) + draw.randint(0, 6)
        wait_for(lambda more=more, process=process: len(finished(killed)) >= more or process.poll() is not None)
        time.sleep(draw.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (killed / "evaluation.json").exists()
        now = finished(killed)
        assert before.items() <= now.items(), "a finished chunk is neither lost nor computed again"
        before = now
    assert finish(killed) == finish(tmp_path / "whole")
    assert before.items() <= finished(killed).items()
    assert not list(killed.rglob(".*")), "nothing half written is left"


def test_a_worker_whose_parent_was_killed_ends_by_itself(tmp_path: Path) -> None:
    process = launch(tmp_path / "out", workers=2)
    try:
        wait_for(lambda: finished(tmp_path / "out") or process.poll() is not None)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: not processes(process.pid), 20)
        done = finished(tmp_path / "out")
        assert len(done) < 80, "the test needs work that was left"
    finally:
        for left in processes(process.pid):
            os.kill(int(left), signal.SIGKILL)
