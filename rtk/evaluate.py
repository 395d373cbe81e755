"""Uniform evaluation of a network on disk; the only reader of test data.

The test set, in a fixed class-balanced order, is cut into chunks. A chunk and one item of the suite (clean, pgd20,
autoattack) are the unit of work, of resuming and of distribution: it has its own seed, runs on one thread, and its
verdicts are written to disk in one step. So the number of workers and interruptions change no verdict.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import files
from .attacks import Attack, autoattack, check_images, frozen, pgd
from .backbones import open_backbone
from .data import Dataset, open_dataset
from .errors import BadData, RunFailed
from .progress import Progress
from .seeds import derive
from .suite import Suite
from .threat import Threat

VERSION = 1
"""Of the protocol; raised when anything changes that can change a verdict."""


@dataclass(frozen=True)
class Subject:
    """What is judged, on what: everything a worker needs, by name; nothing of it is code of a plugin.

    Attributes:
        directory: holds backbone.json and model.safetensors.
        weights: SHA-256 of the weights.
        dataset, root, image_size: for `open_dataset`.
        verdicts: where the verdicts of this subject are kept.
    """

    directory: Path
    weights: str
    dataset: str
    root: Path | None
    image_size: int | None
    threat: Threat
    suite: Suite
    device: str
    verdicts: Path


@dataclass(frozen=True)
class Chunk:
    """Positions [start, stop) of the test order, judged by one item of the suite."""

    item: str
    number: int
    start: int
    stop: int


def order_of(labels: Tensor, seed: int) -> Tensor:
    """All test indices, shuffled and interleaved by class, so that every prefix is as class-balanced as can be."""
    generator = torch.Generator().manual_seed(derive(seed, "test order"))
    shuffled = torch.randperm(len(labels), generator=generator)
    rank = torch.empty_like(labels)
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        rank[members] = torch.arange(len(members))
    return shuffled[torch.argsort(rank[shuffled], stable=True)]


def attacks_of(item: str, threat: Threat, classes: int) -> tuple[Attack, ...]:
    """The attacks of an item, in order; an image that one of them breaks is not given to the next."""
    if item == "clean":
        return ()
    if item == "pgd20":
        return (pgd(threat, steps=20),)
    return autoattack(threat, classes)


def identity(subject: Subject, item: str, classes: int, data: str) -> dict[str, Any]:
    """Everything that can change the verdicts of one item; rows with different identities are never ranked together."""
    return {
        "protocol": VERSION,
        "item": item,
        "threat": asdict(subject.threat),
        "attacks": [{"name": a.name, **a.settings} for a in attacks_of(item, subject.threat, classes)],
        "chunk_size": subject.suite.chunk_size,
        "n": subject.suite.n(item),
        "seed": subject.suite.seed,
        "data": data,
        "weights": subject.weights,
        "precision": "float32",
    }


def judge(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: tuple[Attack, ...],
    seed: int,
    tick: Callable[[float], None] | None = None,
) -> dict[str, list[bool]]:
    """Verdicts per image: `clean`, then for each attack whether the image is still classified correctly after it.

    An image is robust only when it is correct before the first attack and after every one. Success is decided by a
    separate float32 forward pass of the stored example; NaN or infinite logits count as broken.

    Args:
        seed: each attack gets its own, derived from it and the attack's name.
        tick: called with the work done, in image-forwards; see `work`.
    """
    check_images(images)
    alive = _correct(model, images, labels)
    verdicts = {"clean": alive.tolist()}
    _tick(tick, len(images))
    for attack in attacks:
        kept = alive.nonzero().flatten()
        done = 0.0

        def count(batch: int, budget: float = len(kept) * attack.cost) -> None:
            nonlocal done
            amount = min(float(batch), budget - done)
            done += amount
            _tick(tick, amount)

        adversarial = attack(model, images[kept], labels[kept], seed=derive(seed, attack.name), tick=count)
        alive[kept] = _correct(model, adversarial, labels[kept])
        verdicts[attack.name] = alive.tolist()
        _tick(tick, len(images) * attack.cost - done)
    return verdicts


def work(attacks: tuple[Attack, ...]) -> int:
    """Image-forwards per image, when nothing breaks."""
    return 1 + sum(attack.cost for attack in attacks)


def _tick(tick: Callable[[float], None] | None, amount: float) -> None:
    if tick is not None:
        tick(amount)


def _correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    if len(images) == 0:
        return torch.zeros(0, dtype=torch.bool, device=images.device)
    with frozen(model), torch.no_grad():
        logits = model(images).float()
    return (logits.argmax(1) == labels) & torch.isfinite(logits).all(1)


def evaluate(
    subjects: list[Subject], progress: Progress, workers: int | None = None
) -> list[dict[str, dict[str, list[Any]]]]:
    """Judge every subject; verdicts that are already on disk are not computed again.

    Args:
        workers: processes on a CPU; by default one per core. On a GPU the chunks run one after another in this process.

    Returns:
        For each subject and item {"indices", "labels", "clean", attack name, ...}: lists of one length, in test order.
    """
    jobs = [(subject, chunk) for subject in subjects for chunk in _chunks(subject)]
    waiting = [job for job in jobs if not _path(*job).exists()]
    waiting.sort(key=lambda job: -_work(*job))  # the longest first, so that no worker is left with it at the end
    total, left = sum(_work(*job) for job in jobs), sum(_work(*job) for job in waiting)
    bar = progress.stage("evaluate", total)
    bar.advance(total - left)
    on_gpu = torch.device(subjects[0].device).type == "cuda"
    processes = min(workers or os.cpu_count() or 1, len(waiting))
    if on_gpu or processes <= 1:
        for job in waiting:
            judge_chunk(*job, bar.advance)
    else:
        _in_processes(waiting, processes, bar.advance)
    return [_collect(subject) for subject in subjects]


def judge_chunk(subject: Subject, chunk: Chunk, tick: Callable[[float], None]) -> None:
    """Compute one chunk and write its verdicts."""
    model, data, order = _load(subject)
    indices = order[chunk.start : chunk.stop]
    split = data.split("test")
    device = torch.device(subject.device)
    attacks = attacks_of(chunk.item, subject.threat, data.num_classes)
    seed = derive(subject.suite.seed, "chunk", chunk.number)
    labels = split.labels[indices]
    begun = time.monotonic()
    with _one_thread(device):
        verdicts = judge(model, split.images(indices).to(device), labels.to(device), attacks, seed, tick)
    files.write_json(
        _path(subject, chunk),
        {
            "indices": indices.tolist(),
            "labels": labels.tolist(),
            **verdicts,
            "seconds": round(time.monotonic() - begun, 3),
        },
    )


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    # the order of floating-point sums may depend on the number of threads; the verdict must not
    before = torch.get_num_threads()
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32


@lru_cache(maxsize=4)
def _load(subject: Subject) -> tuple[nn.Module, Dataset, Tensor]:
    model = open_backbone(f"run:{subject.directory}").model.to(subject.device).eval()
    data = open_dataset(subject.dataset, root=subject.root, image_size=subject.image_size)
    labels = data.split("test").labels
    if int(labels.max()) >= data.num_classes:
        raise BadData(
            f"{subject.dataset}: test labels reach {int(labels.max())}, but there are {data.num_classes} classes."
        )
    return model, data, order_of(labels, subject.suite.seed)


def _chunks(subject: Subject) -> list[Chunk]:
    _, _, order = _load(subject)
    size = subject.suite.chunk_size
    return [
        Chunk(item, number, start, min(start + size, stop))
        for item in subject.suite.items
        for stop in [min(subject.suite.n(item) or len(order), len(order))]
        for number, start in enumerate(range(0, stop, size))
    ]


def _work(subject: Subject, chunk: Chunk) -> int:
    _, data, _ = _load(subject)
    return (chunk.stop - chunk.start) * work(attacks_of(chunk.item, subject.threat, data.num_classes))


def identities(subject: Subject) -> dict[str, dict[str, Any]]:
    """The identity of each item of the suite, with its digest under "id"."""
    _, data, _ = _load(subject)
    found = {item: identity(subject, item, data.num_classes, data.split("test").sha256) for item in subject.suite.items}
    return {item: {**value, "id": files.digest(value)[:16]} for item, value in found.items()}


def _path(subject: Subject, chunk: Chunk) -> Path:
    return subject.verdicts / f"{chunk.item}-{identities(subject)[chunk.item]['id']}" / f"{chunk.number:05d}.json"


def _collect(subject: Subject) -> dict[str, dict[str, list[Any]]]:
    collected: dict[str, dict[str, list[Any]]] = {item: {} for item in subject.suite.items}
    for chunk in _chunks(subject):
        for key, values in files.read_json(_path(subject, chunk)).items():
            collected[chunk.item].setdefault(key, []).extend(values if isinstance(values, list) else [values])
    return collected


_ticks: Any = None
"""In a worker: the queue on which it tells how much work is done."""


def _start_worker(ticks: Any) -> None:
    global _ticks
    _ticks = ticks
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback; its chunk is not written
    torch.set_num_threads(1)


def _work_in_worker(subject: Subject, chunk: Chunk) -> None:
    pending = 0.0
    last = time.monotonic()

    def tick(amount: float) -> None:
        nonlocal pending, last
        pending += amount
        if time.monotonic() - last > 0.2:
            _ticks.put(pending)
            pending, last = 0.0, time.monotonic()

    judge_chunk(subject, chunk, tick)
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
