"""A finished benchmark of a few small runs, for tests of what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rtk
from rtk.bench.cells import Cell, cells_of
from rtk.bench.spec import read_spec
from rtk.bench.store import Failure, Store

SPEC = """
name = "tiny"
baseline = "linear-probe lr=0.1"
reported = ["rift-table-1"]
[options]
suite = "clean,pgd20"
threats = "Linf:0.02,0.05"
images = 60
workers = 1
[[run]]
strategy = "linear-probe"
dataset = "fashion"
epochs = 1
milestones = []
vary = {lr = [0.1, 0.5, 1.0]}
[[run]]
strategy = "rift"
epochs = 1
criticality_images = 16
ascent_steps = 1
attack_steps = 1
alphas = 2
[[run]]
strategy = "full"
epochs = 0
"""
"""Two tables, since `full` is on another data set, and one run that has failed: the third linear probe; the second has
warnings."""

REASON = "RunFailed: <b>the loss</b> is NaN"


def small_bench(root: Path) -> tuple[Store, list[Cell]]:
    """Run it, in this process."""
    root.mkdir(parents=True)
    (root / "spec.toml").write_text(SPEC, encoding="utf-8")
    cells, store = cells_of(read_spec(root / "spec.toml")), Store(root)
    for number, cell in enumerate(cells):
        if number == 2:
            store.fail(cell, Failure(REASON, 1, "2026-01-01T00:00:00+00:00", "plugin"))
            continue
        options = dict(cell.settings.all)
        rtk.finetune(options.pop("strategy"), **options, out=store.directory(cell))
    warning = {"name": "made", "verdict": "warning", "value": None, "limit": None, "item": "clean"}
    texts = ("Too good to be true: <i>nobody</i> does this.", "The gradients vanish.")
    rewrite(store, cells[1], rows__1__checks=[{**warning, "text": text} for text in texts])
    return store, cells


def rewrite(store: Store, cell: Cell, **changes: Any) -> None:
    """Put other values into the result of a run, by their paths joined by dots."""
    path = store.directory(cell) / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    for place, value in changes.items():
        inner = result
        *outer, last = place.split("__")
        for key in outer:
            inner = inner[int(key) if isinstance(inner, list) else key]
        inner[last] = value
    path.write_text(json.dumps(result), encoding="utf-8")
