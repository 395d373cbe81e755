"""`run:DIR`: the network that an earlier run of rtk left in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadBackbone
from ..threat import Threat
from .catalogue import SOURCES, threat_of
from .source import Spec

RECORD = "backbone.json"
WEIGHTS = "model.safetensors"


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
    root = Path(folder).expanduser()
    path = root / RECORD
    if not root.is_dir():
        raise BadBackbone(f"--backbone run:{folder}: no such folder.")
    if not path.is_file():
        raise BadBackbone(f"--backbone run:{folder}: holds no {RECORD}, so it is not the folder of a finished run.")
    if not (root / WEIGHTS).is_file():
        raise BadBackbone(f"--backbone run:{folder}: holds no {WEIGHTS}; the run did not finish.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        spec = check_spec(found["spec"])
        blocks = found.get("blocks")
        return EarlierRun(
            spec=spec,
            threat=threat_of(found),
            head=found.get("head"),
            blocks=None if blocks is None else tuple(blocks),
            weights=root / WEIGHTS,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise BadBackbone(f"{path}: not a record of a backbone ({type(problem).__name__}: {problem}).") from None


def check_spec(spec: object) -> Spec:
    """The spec as a dictionary; BadBackbone when an entry is missing or not of its kind."""
    if not isinstance(spec, Mapping):
        raise BadBackbone(f"The spec of a backbone must be a mapping, got {type(spec).__name__}.")
    lacking = [key for key in ("family", "name", "native_classes", "classes", "mean", "std", "size") if key not in spec]
    if lacking:
        raise BadBackbone(f"The spec of a backbone lacks {', '.join(lacking)}.")
    if spec["family"] not in SOURCES[:-1]:
        raise BadBackbone(
            f"The spec of a backbone names the family '{spec['family']}' (allowed: {', '.join(SOURCES[:-1])})."
        )
    return dict(spec)
