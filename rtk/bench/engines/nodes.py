"""The nodes of a Ray cluster: found, and tried before anything is computed there."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from typing import Any

from ... import files
from ...errors import BadValue
from ...progress import Progress
from ..store import Store
from . import tasks

WATCH = 5.0
"""Seconds between two looks at the nodes."""


def connect(address: str) -> Any:
    """Ray, connected to a cluster; it says nothing by itself and reports nothing to anybody.

    Raises:
        BadValue: Ray is not installed, or nobody there can be used.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise BadValue("--engine ray: Ray is not installed.", "pip install 'rtk[ray]'") from None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, ValueError, RuntimeError) as problem:
        raise BadValue(
            f"--address {address}: no Ray cluster that can be used is there ({first_line(problem)}).",
            "ray start --head, then: rtk bench run SPEC --engine ray",
        ) from None
    finally:
        for number, handler in handlers.items():  # Ray's own for SIGTERM ends the process without a word
            signal.signal(number, handler)
    return ray


def first_line(problem: BaseException) -> str:
    """What Ray has to say, in one line."""
    cause = getattr(problem, "cause", None) or problem
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0].rstrip('.')}" if lines else type(cause).__name__


class Nodes:
    """Those that are alive; they may come and go."""

    def __init__(self, ray: Any, progress: Progress):
        self.ray, self.progress = ray, progress
        self.alive: list[dict[str, Any]] = []
        self.last = -WATCH
        self.look()

    def look(self) -> None:
        """See from time to time which there are, and say when they are others than before."""
        if time.monotonic() - self.last < WATCH:
            return
        self.last = time.monotonic()
        before, self.alive = self.alive, [node for node in self.ray.nodes() if node["Alive"]]
        if {node["NodeID"] for node in before} != {node["NodeID"] for node in self.alive}:
            self.progress.say(f"Ray: {len(self.alive)} nodes, {self.total('CPU'):g} CPUs, {self.total('GPU'):g} GPUs")

    def total(self, resource: str) -> float:
        """CPUs or GPUs of all nodes."""
        return sum(node["Resources"].get(resource, 0) for node in self.alive)

    def fitting(self, threads: int, *, gpu: bool) -> int:
        """CPUs for a task of so many threads: no more than the smallest node has, so that any of them will do."""
        found = [node["Resources"] for node in self.alive if not gpu or node["Resources"].get("GPU")]
        return min([threads, *(int(each["CPU"]) for each in found if each.get("CPU", 0) >= 1)])

    def try_out(self, store: Store, place: tasks.Place) -> None:
        """Have every node look for a file of this machine's, and compare versions.

        Raises:
            BadValue: a node does not share the folder of the benchmark, or would not compute the same.
        """
        pinned = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        look = self.ray.remote(num_cpus=0)(tasks.look)
        probe = place.folder / store.root / f"probe-{secrets.token_hex(4)}"
        files.write(probe, lambda file: None)
        try:
            asked = [
                look.options(scheduling_strategy=pinned(node["NodeID"], soft=False)).remote(probe)
                for node in self.alive
            ]
            for node, answer in zip(self.alive, asked, strict=True):
                self._judge(f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})", answer, store)
        finally:
            probe.unlink()

    def _judge(self, name: str, answer: Any, store: Store) -> None:
        try:
            sees, versions = self.ray.get(answer)
        except self.ray.exceptions.RayError as problem:
            raise BadValue(
                f"--engine ray: {name} cannot run rtk: {first_line(problem)}.",
                "pip install 'rtk[ray]' on every node, in the Python whose `ray start` is used",
            ) from None
        if not sees:
            raise BadValue(
                f"--engine ray: {name} does not see {store.root.absolute()}; all nodes must share this folder.",
                "the same command in a folder of a common file system",
            )
        for package, version in tasks.versions().items():
            if versions[package] != version:
                raise BadValue(
                    f"--engine ray: {name} has {package} {versions[package]}, this machine has {version}.",
                    f"pip install {package}=={version} there",
                )


def _reach(address: str) -> None:
    """OSError where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()
