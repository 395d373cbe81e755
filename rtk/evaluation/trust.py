"""Whether there is a number to report: the checks of a network before anything else, and the end where one failed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import files
from ..checks import Check, before
from ..errors import RunFailed
from ..memory import Memory
from ..seeds import derive
from .exactness import exactly
from .subject import Subject, load

IMAGES = 64


def preconditions(subject: Subject) -> list[Check]:
    """What `rtk.checks.before` says of a network on the first images of the test order; computed once, then on disk."""
    loaded = load(subject)
    identity = {"weights": subject.weights, "data": loaded.test.sha256, "seed": subject.suite.seed, "images": IMAGES}
    path = subject.verdicts / f"before-{files.digest(identity)[:16]}.json"
    if not path.exists():
        indices = loaded.order[:IMAGES]
        device = torch.device(subject.device)
        images, labels = loaded.test.images(indices).to(device), loaded.test.labels[indices].to(device)
        seed, classes = derive(subject.suite.seed, "before"), loaded.data.num_classes
        memory = Memory(min(subject.batch_size or len(indices), len(indices)))
        with exactly(device):
            found = memory.run(lambda batch: before(loaded.model, images, labels, classes, seed=seed, batch=batch))
        files.write_json(path, [check.model_dump(mode="json") for check in found])
    return [Check(**check) for check in files.read_json(path)]


def require(checks: Sequence[Check], subject: Subject) -> None:
    """Go on only where no check failed.

    Raises:
        RunFailed: there is no number to report; the message is what the check says.
    """
    for check in checks:
        if check.verdict == "error":
            of = f" for {check.item}" if check.item else ""
            raise RunFailed(f"{check.text} So there is no number{of}; the weights are kept in {subject.directory}.")
