"""How the speed of rtk is compared with what one would run instead: taking turns, in one process, on the same work.

A script names its contestants, each a function that does the whole work and returns an answer; rtk's comes first. They
take turns for some rounds; the figure is the ratio of the shortest times, beside the range of the ratios of the rounds.
Every contestant is then run once more in a process of its own, for the memory that it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rtk import costs
from rtk.environment import describe

PACKAGES = ("torch", "torchattacks", "pyautoattack", "adversarial-robustness-toolbox", "torchvision", "rtk")


@dataclass(frozen=True)
class Race:
    """One row of the table.

    Attributes:
        work: what is done, in words.
        contestants: by name, rtk's first; each does the whole work and returns its answer.
        compare: the answers of rtk and of a peer to a sentence; raises AssertionError where they are not the same.
        least: the ratio that is promised.
        flops: of the work as rtk does it, for the distance to what the machine can do; None where that says nothing.
        matrix: the format whose products are the limit.
        rounds: how often each contestant has its turn.
        timed: the seconds of an answer, where a contestant times itself; by default those of its whole turn.
    """

    work: str
    contestants: dict[str, Callable[[], Any]]
    compare: Callable[[Any, Any], str]
    least: float
    flops: float | None = None
    matrix: torch.dtype = torch.float32
    rounds: int = 3
    timed: Callable[[Any], float] | None = None


def parser(text: str | None) -> argparse.ArgumentParser:
    """Options of every script."""
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, for all contestants")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    found.add_argument("--rounds", type=int, help="turns of each contestant")
    found.add_argument("--json", type=Path, help="file for the figures")
    found.add_argument("--only", help=argparse.SUPPRESS)
    return found


def run(race: Race, options: argparse.Namespace) -> None:
    """Let the contestants take turns, and print and store what came of it."""
    if options.only is not None:  # a process of its own, for its memory
        race.contestants[options.only]()
        print(costs.device_bytes(torch.device(options.device)) or costs.peak_bytes())
        return
    seconds: dict[str, list[float]] = {name: [] for name in race.contestants}
    answers: dict[str, Any] = {}
    for number in range(options.rounds or race.rounds):
        for name, contestant in race.contestants.items():
            begun = time.perf_counter()
            answers[name] = contestant()
            if options.device != "cpu":
                torch.cuda.synchronize()
            turn = time.perf_counter() - begun
            seconds[name].append(turn if race.timed is None else race.timed(answers[name]))
            print(f"round {number + 1}: {name} {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    ours, *peers = race.contestants
    rows = []
    for peer in peers:
        rounds = [theirs / mine for theirs, mine in zip(seconds[peer], seconds[ours], strict=True)]
        ratio = min(seconds[peer]) / min(seconds[ours])
        same = race.compare(answers[ours], answers[peer])
        rows.append(
            {"peer": peer, "ratio": round(ratio, 2), "rounds": [round(each, 2) for each in rounds], "same": same}
        )
    facts = {
        "work": race.work,
        "least": race.least,
        "rows": rows,
        "seconds": {name: round(min(values), 2) for name, values in seconds.items()},
        "peak_mib": {name: _peak(name) for name in race.contestants},
        "of_the_limit": None if race.flops is None else _share(race, min(seconds[ours]), options.device),
        "machine": machine(options),
        "command": " ".join(["python", "benchmarks/speed/" + Path(sys.argv[0]).name, *_typed()]),
    }
    report(facts)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


def report(facts: dict[str, Any]) -> None:
    """The figures of one race, in words."""
    print(facts["work"])
    for row in facts["rows"]:
        low, high = min(row["rounds"]), max(row["rounds"])
        print(f"  {row['ratio']:.2f}x {row['peer']} (rounds {low:.2f} to {high:.2f}; at least {facts['least']:g})")
        print(f"    {row['same']}")
    if facts["of_the_limit"]:
        print(f"  {facts['of_the_limit']}")
    print("  peak memory, MiB: " + ", ".join(f"{name} {value}" for name, value in facts["peak_mib"].items()))


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with what."""
    device = torch.device(options.device)
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "device": describe(device)["device_name"],
        "cores": os.cpu_count(),
        "threads": options.threads,
        "python": platform.python_version(),
        "versions": {name: found for name, found in versions.items() if found},
        "date": date.today().isoformat(),
    }


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of products of square matrices, the best of many: what this machine can do."""
    size = 2048 if device == "cpu" else 8192
    left = torch.rand(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        left @ left
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def flops(model: nn.Module, images: Tensor, *, weights: bool = False) -> float:
    """FLOPs of a forward and a backward pass, for each image; with `weights`, their gradients as well."""
    images = images[:2].clone().requires_grad_()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(weights)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    for parameter, flag in zip(model.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
        parameter.grad = None
    return counter.get_total_flops() / 2


def _share(race: Race, seconds: float, device: str) -> str:
    rate, limit = (race.flops or 0.0) / seconds, matrix_rate(race.matrix, device)
    name = str(race.matrix).removeprefix("torch.")
    share = f"{rate / 1e9:.0f} GFLOP/s, {100 * rate / limit:.0f} %"
    return f"{share} of the {limit / 1e9:.0f} that products of {name} matrices reach here"


def _peak(name: str) -> int:
    """MiB that a contestant needs in a process of its own, with everything that is imported."""
    command = [sys.executable, sys.argv[0], *_typed(), "--only", name]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return round(int(said.splitlines()[-1]) / 2**20)


def _typed() -> list[str]:
    """The options of the command, without the file for the figures."""
    found, rest = [], iter(sys.argv[1:])
    for word in rest:
        if word == "--json":
            next(rest)
        elif not word.startswith("--json="):
            found.append(word)
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
