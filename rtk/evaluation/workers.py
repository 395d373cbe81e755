"""Many chunks: one after another, in several processes, or handed over to others."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

import torch

from .. import costs, files
from ..errors import RunFailed
from ..progress import Progress
from ..suite import Item
from . import chunks, handover
from .chunks import Chunk, Collected
from .measure import Tick
from .subject import Subject
from .trust import preconditions, require

Job = tuple[Subject, Chunk]
Executor = Callable[[list[Job], Tick], None]
"""Has chunks judged, and tells how much work is done; when it returns, their verdicts are on disk."""


def judge_all(subjects: list[Subject], progress: Progress, workers: int | None = None) -> list[dict[Item, Collected]]:
    """Judge every subject; verdicts that are already on disk are not computed again.

    Args:
        workers: processes on a CPU; by default one per core. On a GPU the chunks run one after another in this process.

    Raises:
        SystemExit: the chunks are handed over, see handover.py.
        RunFailed: a network fails a check that comes before the attacks, a chunk does not fit into memory, or a worker
            was killed; finished chunks are kept.
    """
    for subject in subjects:
        require(preconditions(subject), subject)
    jobs = [(subject, chunk) for subject in subjects for chunk in chunks.chunks_of(subject)]
    done = {job for job in jobs if chunks.is_done(*job)}
    costs.add_cpu(sum(chunks.cpu_seconds(*job) for job in done))
    waiting = [job for job in jobs if job not in done]
    waiting.sort(key=lambda job: -chunks.work(*job))  # the longest first, so that no worker is left with it at the end
    total, left = (sum(chunks.work(*job) for job in each) for each in (jobs, waiting))
    bar = progress.stage("evaluate", total)
    bar.advance(total - left)
    if waiting:
        _executor(subjects[0], workers, len(waiting))(waiting, bar.advance)
    return [chunks.collect(subject) for subject in subjects]


def _executor(subject: Subject, workers: int | None, jobs: int) -> Executor:
    """What suits the device, the number of jobs and who started this process."""
    place = os.environ.get(handover.PLACE)
    if place is not None:
        return lambda waiting, tick: handover.hand_over(waiting, Path(place))
    processes = min(workers or os.cpu_count() or 1, jobs)
    if torch.device(subject.device).type == "cuda" or processes == 1:
        return _here
    return partial(_in_processes, processes)


def _here(jobs: list[Job], tick: Tick) -> None:
    for job in jobs:
        chunks.judge_chunk(*job, tick)


_ticks: Any = None
"""In a worker: the queue on which it tells how much work is done."""


def _start_worker(ticks: Any, held: Mapping[Path, frozenset[str]]) -> None:
    global _ticks
    _ticks = ticks
    files.hold(held)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback; its chunk is not written
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # a killed parent closes no queue that its workers hold too, so that they would wait for work for ever
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _work_in_worker(subject: Subject, chunk: Chunk) -> None:
    pending = 0.0
    last = time.monotonic()

    def tick(amount: float) -> None:
        nonlocal pending, last
        pending += amount
        if time.monotonic() - last > 0.2:
            _ticks.put(pending)
            pending, last = 0.0, time.monotonic()

    chunks.judge_chunk(subject, chunk, tick)
    _ticks.put(pending)


def _in_processes(processes: int, jobs: list[Job], tick: Tick) -> None:
    context = multiprocessing.get_context("spawn")
    ticks = context.Queue()
    pool = ProcessPoolExecutor(processes, context, _start_worker, (ticks, files.held()))
    try:
        with _without_main():
            futures: set[Future[None]] = {pool.submit(_work_in_worker, *job) for job in jobs}
        while futures:
            done, futures = wait(futures, timeout=0.2)
            for future in done:
                future.result()
            _drain(ticks, tick)
        pool.shutdown()
        _drain(ticks, tick)
    except BrokenProcessPool:
        raise RunFailed(
            "An evaluation worker was killed, perhaps for memory; finished chunks are kept.", "--workers 1"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that begin here do not run the script of this one again, which so needs no `if __name__ == ...`."""
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        for name in kept:
            setattr(main, name, None)  # multiprocessing takes it for a session that has no file
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


def _drain(ticks: Any, tick: Tick) -> None:
    while True:
        try:
            tick(ticks.get_nowait())
        except queue.Empty:
            return
