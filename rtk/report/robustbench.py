"""RobustBench's description of a network (Croce et al., NeurIPS Datasets and Benchmarks 2021), a JSON file for each.

RobustBench keeps them as model_info/DATASET/THREAT/NAME.json: accuracies are text, in percent with two decimals, and
the radius is text as "8/255". The norm stands in the folder alone, and the number of images and the weights nowhere, so
rtk says these in the footnote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic

from .. import files
from ..errors import BadData, BadValue
from ..results import Evaluation, Result, Score
from ..threat import Threat

FILE = "robustbench.json"
STANDARD = "AutoAttack standard"
NEEDED = ("clean", "autoattack")
HINT = "--suite clean,autoattack --threats Linf:8/255 --autoattack-images all"


def _percent(value: str | None) -> str | None:
    if not value:
        return None
    try:
        allowed = 0 <= float(value) <= 100  # which NaN is not
    except ValueError:
        allowed = False
    if not allowed:
        raise ValueError("needs a number from 0 to 100")
    return value


def _radius(value: str | None) -> str | None:
    if not value:
        return None
    try:
        Threat.parse(f"L2:{value}")  # the norm with the wider bounds
    except BadValue:
        raise ValueError("needs a radius such as 8/255 or 0.5") from None
    return value


Percent = Annotated[str | None, pydantic.AfterValidator(_percent)]


class ModelInfo(pydantic.BaseModel):
    """RobustBench's fields; None where nothing is known. Fields that rtk does not use are ignored."""

    model_config = pydantic.ConfigDict(frozen=True, coerce_numbers_to_str=True, use_attribute_docstrings=True)

    link: str | None = None
    name: str | None = None
    """Title of the paper; rtk writes the id of the network."""
    authors: str | None = None
    additional_data: bool | None = None
    """Whether it was trained on more than the data set."""
    number_forward_passes: int | None = None
    """For one classification."""
    dataset: str | None = None
    """As "cifar10"."""
    venue: str | None = None
    architecture: str | None = None
    eps: Annotated[str | None, pydantic.AfterValidator(_radius)] = None
    """As "8/255"; without a norm."""
    clean_acc: Percent = None
    """Percent."""
    reported: Percent = None
    """Robust accuracy in the paper, percent."""
    autoattack_acc: Percent = None
    """Percent."""
    external: Percent = None
    """Robust accuracy under a stronger attack of others, percent."""
    unreliable: bool | None = None
    """Whether AutoAttack may be too weak for this network."""
    footnote: str | None = None


@dataclass(frozen=True)
class Reference:
    """What RobustBench reports about a network; nothing of it was measured by rtk.

    Attributes:
        norm: from the folder of the file; None where that says nothing.
    """

    info: ModelInfo
    norm: str | None = None

    @property
    def threat(self) -> str:
        """For a reader: "Linf 8/255"."""
        return f"{self.norm or 'norm not stated,'} {self.info.eps or 'eps not stated'}"


def check_suite(suite: Sequence[str], threats: Sequence[str] | None) -> None:
    """Refuse an evaluation that RobustBench's format could not hold, before it is begun.

    Raises:
        BadValue: clean or AutoAttack is missing, or there are several threats.
    """
    if missing := [name for name in NEEDED if name not in suite]:
        raise BadValue(f"--like robustbench: needs {missing[0]}, the suite is {','.join(suite)}.", HINT)
    if threats is not None and len(threats) > 1:
        raise BadValue(f"--like robustbench: holds one threat, not {', '.join(threats)}.", HINT)


def model_info(found: Evaluation) -> ModelInfo:
    """An evaluation as RobustBench describes it; what only the authors know stays None.

    Raises:
        BadData: no clean accuracy, or not exactly one of AutoAttack standard.
    """
    scores = found.row.scores
    robust = [score for score in scores.values() if score.label.startswith(f"{STANDARD}, ")]
    if len(robust) != 1 or NEEDED[0] not in scores:
        held = ", ".join(score.label for score in scores.values())
        if not robust and any(score.item == NEEDED[1] for score in scores.values()):
            raise BadData(
                f"RobustBench's format has no field for {held}: its AutoAttack needs 4 classes or more.",
                "rtk show DIR, or evaluation.json there, which holds it",
            )
        raise BadData(f"RobustBench's format needs clean and one {STANDARD}; the evaluation holds {held}.", HINT)
    clean, attacked = scores[NEEDED[0]], robust[0]
    source, _, name = found.backbone["uri"].partition(":")
    return ModelInfo(
        name=found.backbone["uri"],
        number_forward_passes=1,
        dataset=found.dataset["uri"],
        architecture=name if source in ("timm", "torchvision") else None,
        eps=str(attacked.threat).partition(":")[2],
        clean_acc=f"{100 * clean.accuracy:.2f}",
        autoattack_acc=f"{100 * attacked.accuracy:.2f}",
        unreliable=any(check.verdict in ("warning", "error") for check in found.row.checks),
        footnote=_footnote(found, clean, attacked),
    )


def write_model_info(path: Path, info: ModelInfo) -> None:
    """Write RobustBench's JSON in one step; `external` only where it is known, as there."""
    left_out = {"external"} if info.external is None else None
    files.write_json(path, info.model_dump(mode="json", exclude=left_out))


def read_model_info(source: Path | dict[str, Any] | list[Any]) -> list[Reference]:
    """Read RobustBench's description of one network, or a list of them.

    Args:
        source: a file, whose folder names the norm as RobustBench's do, or parsed JSON.

    Raises:
        BadData: no JSON, no object, or a value that is not of its field's kind; fields may be missing.
    """
    value = files.read_json(source) if isinstance(source, Path) else source
    norm = source.resolve().parent.name if isinstance(source, Path) else None
    place = str(source) if isinstance(source, Path) else "model_info"
    found = []
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, dict):
            raise BadData(f"{place}: a JSON object is needed, with RobustBench's fields such as clean_acc.")
        try:
            info = ModelInfo.model_validate(each)
        except pydantic.ValidationError as problem:
            first = problem.errors()[0]
            field, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
            raise BadData(f"{place}: {field}: {said}, got {str(first['input'])[:40]!r}.") from None
        found.append(Reference(info, norm if norm in ("Linf", "L2") else None))
    return found


def check_comparable(reference: Reference, found: Result | Evaluation) -> None:
    """Refuse a reference on other data or at another threat; what it does not state cannot be compared.

    Raises:
        BadData: with both values.
    """
    info, ours = reference.info, found.dataset["uri"]
    if info.dataset is not None and info.dataset != ours:
        raise BadData(f"The reference is on {info.dataset}, this result on {ours}; they cannot be compared.")
    row = found.row if isinstance(found, Evaluation) else found.rows[-1]
    threats = {score.threat: Threat.parse(score.threat) for score in row.scores.values() if score.threat is not None}
    if info.eps is None or not threats:
        return
    if not any(_same(reference, threat) for threat in threats.values()):
        measured = ", ".join(threat.label for threat in threats.values())
        raise BadData(f"The reference is at {reference.threat}, this result at {measured}; they cannot be compared.")


def _same(reference: Reference, threat: Threat) -> bool:
    """Whether both are the same ball; 0.031 is not 8/255."""
    eps = Threat.parse(f"L2:{reference.info.eps}").eps
    return math.isclose(eps, threat.eps, rel_tol=1e-6) and reference.norm in (None, threat.norm)


def _footnote(found: Evaluation, clean: Score, attacked: Score) -> str:
    """What the format has no field for."""
    total = found.dataset["images"]["test"]
    warnings = [check.text for check in found.row.checks if check.verdict in ("warning", "error")]
    parts = [
        f"Measured with rtk {found.rtk}, weights {found.row.weights[:12]}",
        f"{attacked.label} on {_images(attacked, total)}",
        f"clean on {_images(clean, total)}",
    ]
    return " ".join(["; ".join(parts) + ".", *warnings])


def _images(score: Score, total: int) -> str:
    return f"{score.n} of {total} test images (95 % interval {100 * score.low:.2f} to {100 * score.high:.2f})"
