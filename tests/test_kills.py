"""A run that is killed or told to stop at random moments ends with the bits of one that never was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rtk import files

PHASES = {"measuring criticality", "training", "interpolating", "evaluating"}


def killed(folder: Path, seed: int, kills: int) -> Counter[str]:
    """Run tests/killing.py; how its processes ended."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killing.py")), str(folder), str(seed), str(kills)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    ends = Counter(json.loads(done.stdout)["ends"])
    assert ends["failed"] == 0, done.stderr
    return ends


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
    """Slow: a run of a few seconds is begun a hundred times. Seeds are printed; `pytest -s` shows them."""
    ends: Counter[str] = Counter()
    for seed in range(20):
        folder = tmp_path / str(seed)
        ends += killed(folder, seed, kills=60)
        assert bits(folder / "killed") == bits(folder / "whole"), f"seed {seed}"
        kills = sum(count for end, count in ends.items() if end.startswith("killed"))
        if kills >= 50 and all(ends[f"{how} while {phase}"] for phase in PHASES for how in ("killed", "stopped")):
            return
    pytest.fail(f"too few kills: {ends}")
