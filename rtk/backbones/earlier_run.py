"""`run:DIR`: the network that an earlier run of rtk left in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import ConfigDict, Field

from .. import files
from ..errors import BadBackbone, BadData, BadValue
from ..threat import Threat
from .source import Spec

RECORD = "backbone.json"
WEIGHTS = "model.safetensors"

# Far above what any network has, and low enough that a record cannot ask for all memory.
Classes = Annotated[int, Field(ge=1, le=100_000)]
Side = Annotated[int, Field(ge=1, le=1024)]
Means = Annotated[list[float], Field(min_length=1, max_length=3)]
Deviations = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=3)]


class _Part(pydantic.BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _SpecRecord(_Part):
    """The entries of a `Spec` that every family has; see source.py."""

    family: Literal["rtk", "robustbench", "timm", "torchvision"]
    name: str
    native_classes: Classes
    classes: Classes
    mean: Means | None
    std: Deviations | None
    size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None
    architecture: str = ""
    head: str | None = None


class _ThreatRecord(_Part):
    norm: Literal["Linf", "L2"]
    eps: float


class _Record(_Part):
    """backbone.json; what `describe` writes."""

    spec: dict[str, object]
    threat: _ThreatRecord | None = None
    head: str | None = None
    blocks: list[str] | None = None


@dataclass(frozen=True)
class EarlierRun:
    """What DIR/backbone.json says; DIR/model.safetensors holds the weights under native names."""

    spec: Spec
    threat: Threat | None
    head: str | None
    blocks: tuple[str, ...] | None
    weights: Path


def read_run(folder: str) -> EarlierRun:
    """Read the record of an earlier run.

    Raises:
        BadBackbone: no such folder, no run in it, a run without a result, or a record that is not whole.
    """
    try:
        root = Path(folder).expanduser()
        path = root / RECORD
        if not root.is_dir():
            raise BadBackbone(f"--backbone run:{folder}: no such folder.")
        if not path.is_file():
            raise BadBackbone(f"--backbone run:{folder}: holds no {RECORD}, so it is not the folder of a finished run.")
        if not (root / WEIGHTS).is_file():
            raise BadBackbone(f"--backbone run:{folder}: holds no {WEIGHTS}; the run did not finish.")
    except (OSError, ValueError, RuntimeError) as problem:  # too long, a null byte, no such user
        raise BadBackbone(f"--backbone run:{folder}: {getattr(problem, 'strerror', None) or problem}.") from None
    try:
        found = _Record.model_validate(files.read_json(path))
        threat = None if found.threat is None else Threat(found.threat.norm, found.threat.eps)
    except pydantic.ValidationError as problem:
        raise BadBackbone(f"{path}: not a record of a backbone ({_first(problem)}).") from None
    except (BadData, BadValue) as problem:
        raise BadBackbone(f"{path}: not a record of a backbone ({problem.message.rstrip('.')}).") from None
    return EarlierRun(
        spec=check_spec(found.spec),
        threat=threat,
        head=found.head,
        blocks=None if found.blocks is None else tuple(found.blocks),
        weights=root / WEIGHTS,
    )


def check_spec(spec: object) -> Spec:
    """The spec as a dictionary; BadBackbone when an entry is missing, not of its kind, or absurd."""
    if not isinstance(spec, Mapping):
        raise BadBackbone(f"The spec of a backbone must be a mapping, got {type(spec).__name__}.")
    try:
        _SpecRecord.model_validate({**spec})
    except pydantic.ValidationError as problem:
        raise BadBackbone(f"The spec of a backbone is not whole ({_first(problem)}).") from None
    return dict(spec)


def _first(problem: pydantic.ValidationError) -> str:
    """The first complaint of pydantic, with the place."""
    first = problem.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
