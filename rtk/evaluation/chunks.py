"""One chunk of test images and one item: from its number to its verdicts on disk."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .. import files
from ..memory import Memory
from ..seeds import derive
from ..suite import PROTOCOL, Item
from . import examples, shared
from .exactness import exactly
from .measure import Measure, Tick, measure_of
from .subject import Subject, load


@dataclass(frozen=True)
class Chunk:
    """Positions [start, stop) of the test order, judged by one item of the suite."""

    item: Item
    number: int
    start: int
    stop: int


@dataclass
class Collected:
    """The verdicts of all chunks of one item, in test order.

    Attributes:
        indices, labels: of the N test images.
        verdicts: by step, in the order in which they ran.
        facts: of each chunk, see `Measure`.
        least: images in the network at once where memory ran out, in the chunk with the fewest; None where it sufficed.
    """

    indices: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    verdicts: dict[str, list[bool]] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)
    least: int | None = None

    def add(self, chunk: dict[str, Any]) -> None:
        """Append what `judge_chunk` wrote."""
        self.indices += chunk["indices"]
        self.labels += chunk["labels"]
        self.facts.append(chunk["facts"])
        for step, values in chunk["verdicts"].items():
            self.verdicts.setdefault(step, []).extend(values)
        if chunk["halved"]:
            self.least = min(chunk["batch_size"], self.least or chunk["batch_size"])


def chunks_of(subject: Subject) -> list[Chunk]:
    """Every chunk of every item."""
    everything = len(load(subject).order)
    return [
        Chunk(item, number, start, min(start + size, stop))
        for item in subject.suite.items
        for stop, size in [(min(subject.suite.n(item) or everything, everything), subject.suite.chunk(item))]
        for number, start in enumerate(range(0, stop, size))
    ]


@lru_cache(maxsize=64)
def measure(subject: Subject, item: Item) -> Measure:
    """The measure of one item on the subject's data."""
    return measure_of(item, load(subject).data)


def work(subject: Subject, chunk: Chunk) -> float:
    """Image-forwards of a chunk when nothing breaks."""
    return (chunk.stop - chunk.start) * measure(subject, chunk.item).cost


@lru_cache(maxsize=16)
def identities(subject: Subject) -> dict[Item, dict[str, Any]]:
    """Everything that can change the verdicts of each item, with its digest under "id".

    Rows with different identities are never ranked together.
    """
    found = {}
    for item in subject.suite.items:
        identity = {
            "protocol": PROTOCOL,
            "item": str(item),
            **measure(subject, item).settings,
            "chunk_size": subject.suite.chunk(item),
            "n": subject.suite.n(item),
            "seed": subject.suite.seed,
            "data": load(subject).test.sha256,
            "weights": subject.weights,
            "network": load(subject).network,
            "precision": "float32",
        }
        found[item] = {**identity, "id": files.digest(identity)[:16]}
    return found


def judge_chunk(subject: Subject, chunk: Chunk, tick: Tick) -> None:
    """Compute one chunk and write its verdicts; before them its examples, where those are kept.

    Where another process has been quicker, its verdicts are taken.
    """
    if is_done(subject, chunk):
        tick(work(subject, chunk))
        return
    loaded = load(subject)
    indices = loaded.order[chunk.start : chunk.stop]
    device = torch.device(subject.device)
    images, labels = loaded.test.images(indices), loaded.test.labels[indices]
    memory = Memory(min(subject.batch_size or len(indices), len(indices)))
    begun, cpu = time.monotonic(), time.process_time()
    with exactly(device):
        found = measure(subject, chunk.item).judge(
            loaded.model,
            images.to(device),
            labels.to(device),
            indices=indices,
            seed=derive(subject.suite.seed, "chunk", chunk.number),
            tick=tick,
            memory=memory,
        )
    if subject.examples is not None and found.examples is not None:
        examples.write_part(subject.examples, chunk.item, chunk.number, found.examples)
    verdicts = {
        "indices": indices.tolist(),
        "labels": labels.tolist(),
        "verdicts": found.verdicts,
        "facts": found.facts,
        "seconds": round(time.monotonic() - begun, 3),
        "cpu": round(time.process_time() - cpu, 3),
        "batch_size": memory.batch,
        "halved": memory.halved,
    }
    if subject.shared is not None:
        files.write_json(subject.shared / _file(subject, chunk), verdicts)
    files.write_json(path_of(subject, chunk), verdicts)


def is_done(subject: Subject, chunk: Chunk) -> bool:
    """Whether the verdicts of a chunk are on disk, where they are written last; those that are shared are copied."""
    here = path_of(subject, chunk)
    return here.exists() or (subject.shared is not None and shared.copy(subject.shared / _file(subject, chunk), here))


def cpu_seconds(subject: Subject, chunk: Chunk) -> float:
    """What a chunk that is done has taken on all cores."""
    found: float = files.read_json(path_of(subject, chunk)).get("cpu", 0.0)  # written by an older version: not known
    return found


def path_of(subject: Subject, chunk: Chunk) -> Path:
    """Where the verdicts of a chunk are written."""
    return subject.verdicts / _file(subject, chunk)


def _file(subject: Subject, chunk: Chunk) -> Path:
    """Named by everything that can change the verdicts."""
    folder = f"{chunk.item.file}-{identities(subject)[chunk.item]['id']}"
    return Path(folder) / f"{chunk.number:05d}.json"


def collect(subject: Subject) -> dict[Item, Collected]:
    """The verdicts of every item, when all chunks are done."""
    found = {item: Collected() for item in subject.suite.items}
    for chunk in chunks_of(subject):
        found[chunk.item].add(files.read_json(path_of(subject, chunk)))
    return found
