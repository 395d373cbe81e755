"""How long the command line takes to answer, and whether it imports torch for it.

python benchmarks/speed/startup.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from common import machine, parser

LIMIT = 0.4
COMMANDS = {
    "rtk --help": ["--help"],
    "rtk strategies": ["strategies"],
    "rtk finetune --help": ["finetune", "--help"],
    "rtk finetune --strategy rfit": ["finetune", "--strategy", "rfit"],
    "rtk finetune --strategy rift --epsilon 2": ["finetune", "--strategy", "rift", "--epsilon", "2"],
}


def main() -> None:
    """Time each command, the best of ten, each in a process of its own."""
    asked = parser(__doc__).parse_args()
    rows = []
    for name, arguments in COMMANDS.items():
        taken = []
        for _ in range(asked.rounds or 10):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-m", "rtk.cli", *arguments], capture_output=True, check=False)
            taken.append(time.perf_counter() - begun)
        said = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "rtk.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        torch = any(line.rpartition("|")[2].strip() == "torch" for line in said.stderr.splitlines())
        rows.append({"command": name, "seconds": round(min(taken), 3), "torch": torch})
        print(f"{min(taken):.2f} s ({LIMIT} at most)  {name}{'  imports torch' if torch else ''}")
    if asked.json is not None:
        facts = {"work": "answers of the command line", "startup": rows, "limit": LIMIT, "machine": machine(asked)}
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
