"""What the tables of a benchmark need of a result: small enough that ten thousand of them are read in a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from .. import files
from ..errors import BadData
from ..results import ROUNDED, Result, Row, Score, facts
from ..verdicts import judged, unpack


@dataclass(frozen=True)
class Protocol:
    """How a network was judged.

    Attributes:
        items: by the keys of the scores, how they are called and on how many images.
        identity: by the keys of the scores, everything that can change their verdicts but the network.
    """

    items: dict[str, tuple[str, int]]
    identity: dict[str, Any]

    @classmethod
    def of(cls, row: Row) -> Protocol:
        """That of all scores of a row."""
        items = {key: (score.label, score.n) for key, score in row.scores.items()}
        return cls(items, {key: judged(score) for key, score in row.scores.items()})

    @cached_property
    def digest(self) -> str:
        """Equal for those that may stand in one table."""
        return files.digest(self.identity)


class Tally(NamedTuple):
    """The verdicts on one network in one item; see rtk.results.Score."""

    accuracy: float
    low: float
    high: float
    n: int
    copies: int
    verdicts: str

    @classmethod
    def of(cls, score: Score) -> Tally:
        """Of a score, whose verdicts are counted.

        Raises:
            BadData: its verdicts are others than those that it was computed from.
        """
        if sum(unpack(score.verdicts, score.n * score.copies)) != score.correct:
            raise BadData(f"{score.label}: its verdicts are not those that its accuracy was computed from.")
        return cls(score.accuracy, score.low, score.high, score.n, score.copies, score.verdicts)


class Network(NamedTuple):
    """One network as it was judged.

    Attributes:
        weights: SHA-256 of the state dict.
        scores: by item and threat.
        warnings: of its checks, each a sentence.
    """

    weights: str
    scores: dict[str, Tally]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, row: Row) -> Network:
        """Of a row of a result."""
        marked = (check for check in row.checks if check.verdict == "warning")
        warnings = tuple(f"{check.item}: {check.text}" if check.item else check.text for check in marked)
        return cls(row.weights, {key: Tally.of(score) for key, score in row.scores.items()}, warnings)


class Cost(NamedTuple):
    """What a run cost.

    Attributes:
        seconds: wall time of fine-tuning; of a resumed run, its last part.
        cpu_seconds: of all cores, evaluation included.
        host_bytes: most memory of one process until fine-tuning had ended.
        device_bytes: most that tensors took on the GPU; 0 without one.
        changed: parameters that fine-tuning changed.
    """

    seconds: float
    cpu_seconds: float
    host_bytes: int
    device_bytes: int
    changed: int


class Record(NamedTuple):
    """One finished run.

    Attributes:
        backbone, dataset: URI.
        images: it was trained on.
        parameters: of the network.
        rtk: version.
        code: SHA-256 of the strategy's source file; None where it has none.
        environment: versions, device, threads.
        source: the network that it started from; None when its head was new.
        changes: by item, difference to the source, its 95 % interval, and the p-value; see rtk.results.Change.
    """

    strategy: str
    seed: int
    backbone: str
    parameters: int
    dataset: str
    images: int
    created: str
    rtk: str
    code: str | None
    environment: dict[str, Any]
    protocol: Protocol
    source: Network | None
    tuned: Network
    changes: dict[str, tuple[float, float, float, float]]
    cost: Cost

    @property
    def facts(self) -> Iterator[tuple[str, Any]]:
        """What it was made with, by name."""
        yield "rtk", self.rtk
        yield f"code of {self.strategy}", self.code[:12] if self.code else None
        for part in facts(self.environment):
            yield from part.items()

    @classmethod
    def of(cls, result: Result) -> Record:
        """Of a result.

        Raises:
            BadData: it contradicts itself, or holds no network.
        """
        if not result.rows:
            raise BadData("The result holds no network.")
        tuned = result.rows[-1]
        for key, change in result.changes.items():
            before, after = (row.scores[key].accuracy for row in (result.rows[0], tuned))
            if abs(change.value - (after - before)) > ROUNDED:
                raise BadData(f"{tuned.scores[key].label}: its difference to the source is not that of its accuracies.")
        return cls(
            strategy=result.strategy["name"],
            seed=result.seed,
            backbone=result.backbone["uri"],
            parameters=result.backbone["parameters"],
            dataset=result.dataset["uri"],
            images=result.dataset["images"]["train"],
            created=result.created,
            rtk=result.rtk,
            code=result.strategy.get("source_sha256"),
            environment=result.environment,
            protocol=Protocol.of(tuned),
            source=Network.of(result.rows[0]) if len(result.rows) > 1 else None,
            tuned=Network.of(tuned),
            changes={key: (each.value, each.low, each.high, each.p) for key, each in result.changes.items()},
            cost=Cost(
                result.seconds["finetune"],
                result.seconds["cpu"],
                result.peak_bytes["finetune"],
                result.peak_bytes["device"],
                result.trained["changed_parameters"],
            ),
        )
