"""Chunks that others judge: a process writes down which of them wait, and ends; nobody waits for anybody.

Who started the process says where it is to write with an environment variable. Started again without it when all
verdicts are on disk, the process goes on from there.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .. import files

if TYPE_CHECKING:
    from .chunks import Chunk
    from .subject import Subject

PLACE = "RTK_HAND_OVER"
"""Environment variable: the file in which a process is to write down its chunks."""

EXIT_CODE = 75
"""Of a process that has done so; EX_TEMPFAIL of sysexits.h, to be tried again."""


@dataclass(frozen=True)
class HandedOver:
    """Chunks that wait.

    Attributes:
        cuda: whether they are to be judged on a GPU.
        chunks: each for `judge`, the longest first.
    """

    cuda: bool
    chunks: list[bytes]


def hand_over(jobs: Sequence[tuple[Subject, Chunk]], place: Path) -> NoReturn:
    """Write chunks down for others, and end this process."""
    found = HandedOver(jobs[0][0].device.startswith("cuda"), [pickle.dumps(job) for job in jobs])
    files.write(place, lambda file: pickle.dump(found, file))
    raise SystemExit(EXIT_CODE)  # no failure: of a run that has not ended there is nothing to tell its observers


def read(place: Path) -> HandedOver:
    """What a process has written down."""
    found: HandedOver = pickle.loads(place.read_bytes())
    return found


def judge(chunk: bytes) -> None:
    """Judge a chunk that was handed over, and write its verdicts, in a folder that all processes see."""
    from .. import environment
    from . import chunks

    environment.make_deterministic()
    subject, one = pickle.loads(chunk)
    chunks.judge_chunk(subject, one, lambda work: None)
