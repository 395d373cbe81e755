"""Uniform evaluation of a network on disk; the only reader of test data.

The test set, in a fixed class-balanced order, is cut into chunks. A chunk and one item of the suite (clean,
pgd20@Linf:8/255, ...) are the unit of work, of resuming and of distribution: it has its own seed, runs on one thread,
and its verdicts are written to disk in one step. So the number of workers, the images in the network at once and
interruptions change no verdict.

    subject.py    what is judged, on what
    measure.py    what an item has to say and to do: a new one is a module like attacked.py, and a line in rtk/suite.py
    attacked.py   clean, pgd10, pgd20, pgd100, autoattack
    masked.py     masking
    corrupted.py  corruptions
    cascade.py    a cascade of attacks: success is decided by a separate forward pass
    trust.py      checks before everything else; where one failed there is no number
    memory.py     fewer images at once when memory runs out
    exactness.py  the same bits every time
    chunks.py     one chunk: from its number to its verdicts on disk
    shared.py     verdicts of a network that many runs start from
    workers.py    many chunks, in processes
    scores.py     from verdicts to what a result says
    curve.py      accuracy against the radius
    overlap.py    test images that were trained on
    examples.py   adversarial images on disk
    host.py       `rtk evaluate`; request.py is what it is asked
    verify.py     `rtk verify`: examples on disk again, or somebody else's, which foreign.py reads

Names are imported on first use, so that a wrong request is refused without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cascade import judge
    from .chunks import identities
    from .host import describe_backbone, evaluate
    from .measure import Judged, Measure, measure_of
    from .overlap import train_test_overlap
    from .request import EvaluateOptions, EvaluationRequest, build
    from .scores import changes_between, final_of, row_of
    from .shared import shared_with_others
    from .subject import Subject, load, order_of, save_network
    from .verify import verify_examples, verify_images
    from .workers import judge_all

_HOME = {
    "EvaluateOptions": "request",
    "EvaluationRequest": "request",
    "Judged": "measure",
    "Measure": "measure",
    "Subject": "subject",
    "build": "request",
    "changes_between": "scores",
    "describe_backbone": "host",
    "evaluate": "host",
    "final_of": "scores",
    "identities": "chunks",
    "judge": "cascade",
    "judge_all": "workers",
    "load": "subject",
    "measure_of": "measure",
    "order_of": "subject",
    "row_of": "scores",
    "save_network": "subject",
    "shared_with_others": "shared",
    "train_test_overlap": "overlap",
    "verify_examples": "verify",
    "verify_images": "verify",
}

__all__ = [
    "EvaluateOptions",
    "EvaluationRequest",
    "Judged",
    "Measure",
    "Subject",
    "build",
    "changes_between",
    "describe_backbone",
    "evaluate",
    "final_of",
    "identities",
    "judge",
    "judge_all",
    "load",
    "measure_of",
    "order_of",
    "row_of",
    "save_network",
    "shared_with_others",
    "train_test_overlap",
    "verify_examples",
    "verify_images",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
