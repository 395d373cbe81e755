"""What a node of a cluster does. Plain functions: they know nothing of Ray, and none waits for another."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ...cli import leash
from ...evaluation import handover
from ...evaluation.handover import HandedOver
from .work import PAUSE, Ended, Work, end_all

PACKAGES = ("rtk", "torch", "torchattacks")
"""What must have the same version on all nodes, so that it does not matter where a number is computed."""


def versions() -> dict[str, str]:
    """The packages that decide a number, with their versions."""
    return {name: metadata.version(name) for name in PACKAGES}


def look(probe: Path) -> tuple[bool, dict[str, str]]:
    """Whether this node sees a file of the driver's, and its `versions`."""
    return probe.is_file(), versions()


@dataclass(frozen=True)
class Place:
    """Where a benchmark was begun.

    Attributes:
        folder: relative paths start there.
        environment: variables that matter.
    """

    folder: Path
    environment: dict[str, str]

    def enter(self) -> None:
        """Let this process be there."""
        os.chdir(self.folder)
        os.environ.update(self.environment)


def finetune(arguments: list[str], place: Place, *, hand_over: bool) -> Ended | HandedOver:
    """Run a cell's process to its end; it ends with this process, too.

    Args:
        arguments: what comes after `rtk`.
        hand_over: let it end where the evaluation begins.

    Returns:
        The chunks of the evaluation that wait, where they are handed over; else how it ended.
    """
    place.enter()
    stdin, held = os.pipe()
    with tempfile.TemporaryDirectory(prefix="rtk-") as own:
        chunks = Path(own) / "chunks"
        elsewhere = {handover.PLACE: str(chunks)} if hand_over else {}
        work = Work(arguments, {**elsewhere, leash.HELD: "1"}, stdin)
        try:
            while (ended := work.ended()) is None:
                time.sleep(PAUSE)
        finally:  # also when it is cancelled
            end_all([work])
            os.close(stdin)
            os.close(held)
        return handover.read(chunks) if hand_over and ended.code == handover.EXIT_CODE else ended


def judge(chunks: list[bytes], place: Place) -> None:
    """Judge chunks of an evaluation, one after another; those that are done are not judged again."""
    place.enter()
    for chunk in chunks:
        handover.judge(chunk)


def shared_out(chunks: list[bytes], parts: int) -> list[list[bytes]]:
    """Chunks, the longest first, in at most so many parts of about the same work."""
    return [chunks[first::parts] for first in range(min(parts, len(chunks)))]
