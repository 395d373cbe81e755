"""On a Ray cluster whose nodes share the folder of the benchmark.

A cell takes three steps. Its process fine-tunes, writes down which chunks of the evaluation wait, and ends. The chunks
are judged wherever there is room. Its process begins again, finds all verdicts on disk and writes the result. Every
step is a task that holds its CPUs and its GPU only while it works, and none waits for another: one CPU is enough.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...evaluation.handover import HandedOver
from ...progress import Progress
from ..cells import Cell
from ..store import Store
from . import devices, tasks
from .nodes import Nodes, connect, first_line
from .work import PATIENCE, PAUSE, THREADS, Ended, arguments

RETRIES = 10
"""Times that a task begins again, on another node, because its node died."""

LEAST = 4
"""Tasks for the evaluation of a cell on GPUs, so that the last cells do not take too long."""

LAG = 60.0
"""Seconds after which all nodes must see what one has written; NFS remembers so long that a file was absent."""


@dataclass
class _Job:
    """A cell at work.

    Attributes:
        chunks: tasks of its evaluation that have not ended; on a CPU each has one chunk.
        over: how its process ended, and when, where nobody works on it any more.
    """

    cell: Cell
    arguments: list[str]
    chunks: set[Any] = field(default_factory=set)
    over: tuple[Ended, float] | None = None


class Cluster:
    """The tasks of a Ray cluster."""

    def __init__(
        self, cells: Sequence[Cell], store: Store, progress: Progress, *, jobs: int | None, address: str | None
    ):
        """
        Args:
            jobs: by default twice as many as the cluster can fine-tune at once, so that there is always work for it.
            address: HOST:PORT of the cluster, of which this machine is a node; by default the one that runs here.
        """
        self.store, self.asked = store, jobs
        self.threads = os.environ.get("OMP_NUM_THREADS") or THREADS
        passed = {name: value for name, value in os.environ.items() if name.startswith("RTK_") or name == "PYTHONPATH"}
        self.place = tasks.Place(Path.cwd(), {**passed, **store.environment, "OMP_NUM_THREADS": self.threads})
        self.on_gpus = any(map(devices.takes_one, cells))
        self.jobs: list[_Job] = []
        self.tasks: dict[Any, _Job] = {}
        self.remote: dict[tuple[Callable[..., Any], bool], Any] = {}
        self.ray = connect(address or os.environ.get("RAY_ADDRESS") or "auto")
        try:
            self.nodes = Nodes(self.ray, progress)
            self.nodes.try_out(store, self.place)
        except BaseException:
            self.stop()
            raise

    def room(self) -> bool:
        return len(self.jobs) < (self.asked or 2 * self._at_once())

    def begin(self, cell: Cell) -> None:
        job = _Job(cell, arguments(self.store, cell, self._cpus(self._on_gpu(cell))))
        self.jobs.append(job)
        self._finetune(job, hand_over=True)

    def ended(self) -> list[tuple[Cell, Ended]]:
        self.nodes.look()
        if self.tasks:
            self.ray.wait([*self.tasks], num_returns=1, timeout=PAUSE)
            ready, _ = self.ray.wait([*self.tasks], num_returns=len(self.tasks), timeout=0)
            for task in ready:
                self._go_on(self.tasks.pop(task), task)
        else:
            time.sleep(PAUSE)
        found = [(job, job.over[0]) for job in self.jobs if job.over and self._seen(job, *job.over)]
        for job, _ in found:
            self.jobs.remove(job)
        return [(job.cell, ended) for job, ended in found]

    def stop(self) -> None:
        for task in self.tasks:
            self.ray.cancel(task)
        if self.tasks:
            self.ray.wait([*self.tasks], num_returns=len(self.tasks), timeout=PATIENCE + 1)
        self.tasks, self.jobs = {}, []
        self.ray.shutdown()

    def _go_on(self, job: _Job, task: Any) -> None:
        """The next step of a cell, one of whose tasks has ended."""
        found: Any
        lost = False
        try:
            found = self.ray.get(task)
        except self.ray.exceptions.RayError as problem:
            lost, found = True, Ended(1, f"its task was lost: {first_line(problem)}")
        if task in job.chunks:
            job.chunks.remove(task)
            if lost:  # the cell's own process will meet what this one has met, and say it
                for other in job.chunks:
                    self.ray.cancel(other)
            if not job.chunks:
                self._finetune(job, hand_over=False)
        elif isinstance(found, HandedOver):
            judge = self._remote(tasks.judge, job, found.cuda, 1)
            parts = self._parts_on_gpus() if found.cuda else len(found.chunks)
            job.chunks = {judge(chunks, self.place) for chunks in tasks.shared_out(found.chunks, parts)}
            self.tasks |= dict.fromkeys(job.chunks, job)
        else:
            job.over = found, time.monotonic()

    def _finetune(self, job: _Job, *, hand_over: bool) -> None:
        gpu = self._on_gpu(job.cell)
        begin = self._remote(tasks.finetune, job, gpu, self._cpus(gpu))
        self.tasks[begin(job.arguments, self.place, hand_over=hand_over)] = job

    def _remote(self, function: Callable[..., Any], job: _Job, gpu: bool, cpus: int) -> Callable[..., Any]:
        if (function, gpu) not in self.remote:  # made once, since each is sent to the cluster
            # a worker of Ray that has used a GPU keeps memory there until it ends: one call each
            self.remote[function, gpu] = self.ray.remote(max_calls=int(gpu), max_retries=RETRIES)(function)
        named = f"{function.__name__} {job.cell.name}"
        wanted = {"num_cpus": cpus, "num_gpus": int(gpu), "scheduling_strategy": "SPREAD", "name": named}
        begin: Callable[..., Any] = self.remote[function, gpu].options(**wanted).remote
        return begin

    def _parts_on_gpus(self) -> int:
        """Tasks for the evaluation of a cell, each of which starts anew: two for each GPU, over all cells at work."""
        return max(LEAST, math.ceil(2 * self.nodes.total("GPU") / len(self.jobs)))

    def _seen(self, job: _Job, ended: Ended, since: float) -> bool:
        """Whether what a cell's process wrote on its node is seen here, or should be."""
        return ended.code != 0 or self.store.state(job.cell) == "done" or time.monotonic() - since > LAG

    def _on_gpu(self, cell: Cell) -> bool:
        return devices.takes_one(cell) and self.nodes.total("GPU") > 0

    def _cpus(self, gpu: bool) -> int:
        return self.nodes.fitting(int(self.threads.split(",")[0]), gpu=gpu)

    def _at_once(self) -> int:
        """Cells that the cluster can fine-tune at the same time; at least 1."""
        gpus = self.nodes.total("GPU") if self.on_gpus else 0
        return int(gpus or self.nodes.total("CPU") // self._cpus(False)) or 1
