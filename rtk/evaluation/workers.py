"""Many chunks, one after another or in several processes."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any

import torch

from ..errors import RunFailed
from ..progress import Progress
from ..suite import Item
from . import chunks
from .chunks import Chunk, Collected
from .subject import Subject
from .trust import preconditions, require


def judge_all(subjects: list[Subject], progress: Progress, workers: int | None = None) -> list[dict[Item, Collected]]:
    """Judge every subject; verdicts that are already on disk are not computed again.

    Args:
        workers: processes on a CPU; by default one per core. On a GPU the chunks run one after another in this process.

    Raises:
        RunFailed: a network fails a check that comes before the attacks, a chunk does not fit into memory, or a worker
            was killed; finished chunks are kept.
    """
    for subject in subjects:
        require(preconditions(subject), subject)
    jobs = [(subject, chunk) for subject in subjects for chunk in chunks.chunks_of(subject)]
    waiting = [job for job in jobs if not chunks.is_done(*job)]
    waiting.sort(key=lambda job: -chunks.work(*job))  # the longest first, so that no worker is left with it at the end
    total, left = (sum(chunks.work(*job) for job in each) for each in (jobs, waiting))
    bar = progress.stage("evaluate", total)
    bar.advance(total - left)
    on_gpu = torch.device(subjects[0].device).type == "cuda"
    processes = min(workers or os.cpu_count() or 1, len(waiting))
    if on_gpu or processes <= 1:
        for job in waiting:
            chunks.judge_chunk(*job, bar.advance)
    else:
        _in_processes(waiting, processes, bar.advance)
    return [chunks.collect(subject) for subject in subjects]


_ticks: Any = None
"""In a worker: the queue on which it tells how much work is done."""


def _start_worker(ticks: Any) -> None:
    global _ticks
    _ticks = ticks
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


def _in_processes(jobs: list[tuple[Subject, Chunk]], processes: int, advance: Callable[[float], None]) -> None:
    context = multiprocessing.get_context("spawn")
    ticks = context.Queue()
    pool = ProcessPoolExecutor(processes, context, _start_worker, (ticks,))
    try:
        futures: set[Future[None]] = {pool.submit(_work_in_worker, *job) for job in jobs}
        while futures:
            done, futures = wait(futures, timeout=0.2)
            for future in done:
                future.result()
            _drain(ticks, advance)
        pool.shutdown()
        _drain(ticks, advance)
    except BrokenProcessPool:
        raise RunFailed(
            "An evaluation worker was killed, perhaps for memory; finished chunks are kept.", "--workers 1"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()


def _drain(ticks: Any, advance: Callable[[float], None]) -> None:
    while True:
        try:
            advance(ticks.get_nowait())
        except queue.Empty:
            return
