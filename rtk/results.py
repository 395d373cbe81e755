"""What runs and evaluations leave: written once, read by everything else, described by a published JSON schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import ConfigDict, Field

from . import files
from .checks import Check
from .errors import BadData, RtkError
from .verdicts import compare

SCHEMA_VERSION = 3
RESULT, EVALUATION = "result.json", "evaluation.json"
IDENTIFIED = ("id", "weights", "data")
ROUNDED = 1e-9
"""By as much may floating point numbers of one file differ that say the same."""


class _Part(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Corrupted(_Part):
    """Accuracy under common corruptions (Hendrycks & Dietterich, ICLR 2019) in detail; means weigh all cells alike."""

    origin: str
    """Where the corrupted images come from."""
    cells: dict[str, list[float]]
    """By corruption: accuracy at severities 1 to 5."""
    corruptions: dict[str, float]
    """By corruption: mean over severities."""
    families: dict[str, float]
    """Means of noise, blur, weather and digital."""
    severities: list[float]
    """Means at severities 1 to 5."""
    missing: list[str]
    """Corruptions of the 15 that the folder lacks."""
    mce: float | None = None
    """Mean corruption error relative to `baseline`, 1 for as many errors; null without one."""
    baseline: str | None = None
    """The network that mce is relative to."""


class Score(_Part):
    """Accuracy of one network in one item of the suite."""

    item: str
    """As in --suite: clean, pgd20, autoattack, corruptions."""
    threat: str | None
    """As in --threats: "Linf:8/255"; null where nothing is attacked."""
    label: str
    """What was measured, for a reader: "AutoAttack standard, Linf 8/255"."""
    correct: int = Field(ge=0)
    """Verdicts that are right, after the attack where there is one."""
    n: int = Field(ge=1)
    """Test images judged."""
    copies: int = Field(1, ge=1)
    """Verdicts on each image; more than 1 where corrupted copies of it are judged."""
    accuracy: float = Field(ge=0, le=1)
    """correct / (n * copies)."""
    low: float = Field(ge=0, le=1)
    """Lower end of the 95 % Wilson interval. The unit is the image: where there are copies, the interval is that of as
    many independent verdicts as would vary like the means over the copies of an image."""
    high: float = Field(ge=0, le=1)
    """Upper end."""
    class_correct: list[int]
    """`correct` of each class."""
    class_n: list[int]
    """`n` of each class."""
    after: dict[str, int] = {}
    """Samples still correct after each step of the item, such as an attack, in the order in which they ran."""
    least_batch: int | None = None
    """Images in the network at once where memory ran out, at the least; null where it sufficed. No verdict changes."""
    verdicts: str
    """The verdicts themselves, in the order of the test images, all images of a copy after each other: base64 of bits,
    the first verdict highest, 1 for right; see rtk/verdicts.py."""
    corrupted: Corrupted | None = None
    """Details of `corruptions`; null for any other item."""
    identity: dict[str, Any]
    """Everything that can change these verdicts, and its digest under "id"."""


class Row(_Part):
    """One network of the table."""

    name: str
    weights: str
    """SHA-256 of the state dict."""
    scores: dict[str, Score]
    """By item of the suite and threat: "clean", "pgd20@Linf:8/255"."""
    checks: list[Check] = []
    """What speaks for and against these scores."""


class Change(_Part):
    """The strategy's row minus the source's on the same test images."""

    @classmethod
    def between(cls, before: Score, after: Score) -> Change:
        """Of two scores that were judged in the same way; else BadData."""
        found = compare(before, after)
        low, high = found.interval
        return cls(value=found.value, low=low, high=high, p=found.p, gained=found.gained, lost=found.lost, n=found.n)

    value: float
    low: float
    high: float
    """95 % interval for paired proportions (Bonett & Price 2012), or for paired means over the copies of an image."""
    p: float
    """Two-sided p-value of the exact sign test, which is McNemar's where an image has one verdict."""
    gained: int
    """Images that became right, or right in more of their copies."""
    lost: int
    n: int
    """Test images."""


class Result(_Part):
    """What a finished run found, with everything needed to question and repeat it."""

    schema_version: int = SCHEMA_VERSION
    rtk: str
    """Version of rtk."""
    created: str
    """UTC, ISO 8601."""
    command: list[str]
    """What was typed, or [] for a library call."""
    strategy: dict[str, Any]
    """name, plugin, distribution, version, source_sha256, config (resolved), paper."""
    backbone: dict[str, Any]
    """uri, weights, threat, input (what is done to images), norms, head, parameters, new_head, checkpoint."""
    dataset: dict[str, Any]
    """uri, classes, class_names (in the order of the logits, where they are known), image_shape, images and sha256 per
    split."""
    observers: list[dict[str, Any]] = []
    """Plugins that looked on: name, plugin, distribution, version, source_sha256; failed: why one was left out."""
    threat: dict[str, Any]
    """norm and eps of the run itself; a score says at which threat it was taken."""
    seed: int
    rows: list[Row]
    """The source (unless its head is new) and the fine-tuned network."""
    changes: dict[str, Change]
    """By the keys of the scores; empty without a source row."""
    report: dict[str, Any]
    """What the strategy reported about itself, e.g. RiFT's criticality and interpolation curve."""
    trained: dict[str, Any]
    """What differs between the source and the result: changed (names of tensors), changed_parameters, changed_values
    (BatchNorm's statistics included)."""
    seconds: dict[str, float]
    """finetune, evaluate: wall time; cpu: of all cores, everything that was judged elsewhere included. What was
    interrupted counts its last part; on a cluster, `evaluate` is what was left for the process that wrote this."""
    peak_bytes: dict[str, int]
    """finetune, evaluate: most memory of one process so far; device: most that tensors took on the GPU, 0 without."""
    environment: dict[str, Any]
    """Versions, device, threads; `earlier`: what was different where it was begun, if it went on elsewhere."""


class Examples(_Part):
    """A file of adversarial images."""

    file: str
    """Relative to the folder of the evaluation."""
    content: str
    """SHA-256 of its tensors and metadata; the file holds it too."""


class Evaluation(_Part):
    """What `rtk evaluate` found about one network."""

    schema_version: int = SCHEMA_VERSION
    rtk: str
    """Version of rtk."""
    created: str
    """UTC, ISO 8601."""
    command: list[str]
    """What was typed, or [] for a library call."""
    backbone: dict[str, Any]
    """As in a `Result`."""
    dataset: dict[str, Any]
    """uri, classes, class_names, image_shape, images and sha256 of the test split."""
    row: Row
    """The network."""
    examples: dict[str, Examples] = {}
    """By the keys of the scores; empty when they were not kept."""
    seconds: float
    """Wall time in this process; a resumed evaluation counts its last part."""
    environment: dict[str, Any]
    """Versions, device, threads; `earlier`: what was different where it was begun, if it went on elsewhere."""


def facts(environment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every fact of an `environment` by its name, those of packages too; then of each earlier part, what differed."""
    packages, earlier = environment.get("packages"), environment.get("earlier")
    plain = {name: value for name, value in environment.items() if name not in ("packages", "earlier")}
    last = {**plain, **(packages if isinstance(packages, dict) else {})}
    return [last, *(part for part in (earlier if isinstance(earlier, list) else []) if isinstance(part, dict))]


def class_names(found: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names in the order of the logits, of the `dataset` of a result; None where they are not known."""
    names = found.get("class_names")
    return tuple(map(str, names)) if isinstance(names, list | tuple) and len(names) == found.get("classes") else None


def trained_on(directory: Path) -> tuple[str, ...] | None:
    """Names in the order of the logits of the network of a run; None where the run does not say."""
    try:
        return class_names(files.read_json(directory / RESULT)["dataset"])
    except (RtkError, OSError, KeyError, TypeError, AttributeError):  # unfinished, or of an older version
        return None


Kind = TypeVar("Kind", Result, Evaluation)


def write(path: Path, result: Result | Evaluation) -> None:
    """Write `result` in one step."""
    files.write_json(path, result.model_dump(mode="json"))


def read(path: Path) -> Result:
    """Read and validate result.json; BadData says what is wrong with the file."""
    return _read(path, Result)


def read_evaluation(path: Path) -> Evaluation:
    """Read and validate evaluation.json; BadData says what is wrong with the file."""
    return _read(path, Evaluation)


def read_any(directory: Path) -> Result | Evaluation:
    """What the folder of a run or of an evaluation holds."""
    evaluation = directory / EVALUATION
    return read_evaluation(evaluation) if evaluation.exists() else read(directory / RESULT)


def schema() -> dict[str, Any]:
    """The JSON schema of result.json and evaluation.json."""
    return pydantic.TypeAdapter(Result | Evaluation).json_schema()


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        found = kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise BadData(f"{path}: {problem.strerror}.", "ls runs") from None
    except UnicodeDecodeError as problem:
        raise BadData(f"{path}: not JSON ({problem}).") from None
    except pydantic.ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadData(f"{path}: not a result of schema version {SCHEMA_VERSION} ({where}: {first['msg']}).") from None
    for fault in _faults(found):
        raise BadData(f"{path}: not a result of rtk ({fault}).")
    return found


def _faults(found: Result | Evaluation) -> Iterator[str]:
    """What is wrong in a file beyond its schema: what every reader takes for granted, since rtk writes nothing else."""
    parts = {"backbone": (found.backbone, ("uri",)), "dataset": (found.dataset, ("uri",))}
    rows = [found.row] if isinstance(found, Evaluation) else found.rows
    if isinstance(found, Result):
        parts |= {"strategy": (found.strategy, ("name",)), "threat": (found.threat, ("norm",))}
        if isinstance(eps := found.threat.get("eps"), bool) or not isinstance(eps, int | float):
            yield "threat.eps is no number"
    for name, (values, keys) in parts.items():
        yield from (f"{name}.{key} is no text" for key in keys if not isinstance(values.get(key), str))
    if not rows or any(row.scores.keys() != rows[0].scores.keys() for row in rows):
        yield "its rows have not the same scores"
    for row in rows:
        for score in row.scores.values():
            yield from (f"a score has no identity.{key}" for key in IDENTIFIED if key not in score.identity)
            yield from _faults_of(score)


def _faults_of(score: Score) -> Iterator[str]:
    verdicts, each = score.n * score.copies, len(score.class_n)
    if score.correct > verdicts or len(score.class_correct) != each or sum(score.class_correct) != score.correct:
        yield f"{score.label}: its counts do not agree"
    outside = max(score.low - score.accuracy, score.accuracy - score.high)
    if max(abs(score.accuracy - score.correct / verdicts), outside) > ROUNDED:
        yield f"{score.label}: its accuracy is not that of its counts"
    detail = score.corrupted
    if detail is not None and not (detail.severities and detail.cells.keys() == detail.corruptions.keys()):
        yield f"{score.label}: its corruptions do not agree"
