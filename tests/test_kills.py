"""A run that is killed or told to stop at random moments ends with the bits of one that never was."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rtk import files


def bits(run: Path) -> dict[str, Any]:
    """What must not depend on kills: weights, verdicts and what the strategy reported; not times."""
    found = json.loads((run / "result.json").read_text())
    return {
        "weights": files.sha256(run / "model.safetensors"),
        "report": found["report"],
        "rows": found["rows"],
        "changes": found["changes"],
    }


@pytest.mark.slow
def test_fifty_kills_change_no_bit(tmp_path: Path) -> None:
    """Slow: a run of a few seconds is begun a hundred times. `pytest -s` shows what was killed when."""
    seed = random.randrange(1000)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killing.py")), str(tmp_path), str(seed), "50"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert not any(json.loads(line)["ends"].get("failed") for line in done.stdout.splitlines()), done.stderr
    whole, killed = bits(tmp_path / "whole"), sorted(tmp_path.glob("killed-*"))
    assert len(killed) == len(done.stdout.splitlines())
    for run in killed:
        assert bits(run) == whole, f"seed {seed}, {run.name}"
