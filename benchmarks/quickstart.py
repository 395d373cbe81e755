"""Run every strategy of quickstart.toml and print one table; runs that are done are not repeated.

python benchmarks/quickstart.py [SPEC] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rtk import results
from rtk.results import Result, Score

HERE = Path(__file__).parent


def run(settings: dict[str, Any], out: Path) -> Result | str:
    """One `rtk finetune`; its result, or the line in which it says why there is none."""
    if not (out / "result.json").exists():
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write("\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items()))
            file.flush()
            command = [sys.executable, "-m", "rtk.cli", "finetune", "--config", file.name, "--out", str(out), "--quiet"]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
    return results.read(out / "result.json")


def cell(score: Score | None) -> str:
    """Accuracy with its interval, in percent."""
    return "" if score is None else f"{100 * score.accuracy:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def main() -> None:
    """Run the specification row by row, and print what there is after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path, nargs="?", default=HERE / "quickstart.toml")
    parser.add_argument("--out", type=Path, default=Path("runs") / "quickstart")
    arguments = parser.parse_args()
    spec = tomllib.loads(arguments.spec.read_text(encoding="utf-8"))
    console = Console(width=110)
    table = Table(box=None, pad_edge=False)
    for title in ("strategy", "data", "clean", "PGD-20", "AutoAttack", "changed values", "seconds"):
        table.add_column(title, justify="left" if title in ("strategy", "data") else "right")
    for number, given in enumerate(spec["run"]):
        settings = {**spec.get("all", {}), **given}
        strategy = settings["strategy"]
        found = run(settings, arguments.out / f"{number:02d}-{strategy}")
        if isinstance(found, str):
            table.add_row(strategy, found)
            continue
        varied = [f"{key}={value}" for key, value in given.items() if key in spec.get("show", [])]
        for row in found.rows:
            scores = {score.item: score for score in row.scores.values()}
            cells = [cell(scores.get(item)) for item in ("clean", "pgd20", "autoattack")]
            last = row is found.rows[-1]
            cost = [str(found.trained["changed_values"]), f"{found.seconds['finetune']:.0f}"] if last else ["", ""]
            name = " ".join([row.name, *varied]) if row.name == strategy else row.name
            table.add_row(name, found.dataset["uri"], *cells, *cost)
        console.print(f"{number + 1} of {len(spec['run'])}: {strategy} done", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
