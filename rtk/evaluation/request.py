"""What an evaluation is asked to do, resolved and validated before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pydantic

from .. import files, rundir
from ..config import flag, option, resolve, written
from ..errors import BadBackbone, BadData, BadValue, Refusal, RtkError, UnknownName
from ..options import DEVICE, EVALUATION_BATCH, EVALUATION_SEED, PLACE, EvaluationOptions, SourceOptions, check_file
from ..request import check_backbone, check_dataset, check_weights, own_dataset
from ..results import EVALUATION, RESULT
from ..suite import KINDS
from ..threat import Threat

INHERITED = (
    "dataset",
    "image_size",
    "suite",
    "threats",
    "images",
    "autoattack_images",
    "corruption_images",
    "corrupted",
    "chunk_size",
)
"""Options that the run in a folder decides, unless they are given."""


class EvaluateOptions(EvaluationOptions, SourceOptions):
    """Options of `rtk evaluate`."""

    seed: int = EVALUATION_SEED
    batch_size: int | None = EVALUATION_BATCH
    save_examples: bool = option(False, "Keep the adversarial images, in OUT/examples; see: rtk verify.", origin="rtk")
    baseline: Path | None = option(
        None, "Evaluation of the network that mCE, the mean corruption error, is relative to.", origin="rtk"
    )
    out: Path | None = option(None, "Folder of the evaluation; by default runs/evaluate-NETWORK-HASH.", origin="rtk")

    @pydantic.field_validator("baseline")
    @classmethod
    def _there(cls, value: Path | None) -> Path | None:
        if value is not None and not (value / EVALUATION).is_file():
            raise BadData(f"--baseline {value}: holds no {EVALUATION}.", "rtk evaluate BASELINE --suite corruptions")
        return value

    @pydantic.model_validator(mode="after")
    def _needed(self) -> Self:
        if self.baseline is not None and "corruptions" not in self.suite:
            raise BadValue("--baseline: the suite holds no corruptions.", "--suite clean,corruptions")
        return self


class VerifyOptions(SourceOptions):
    """Options of `rtk verify`."""

    threat: str | None = option(
        None,
        "Threat that the images claim to keep, e.g. Linf:8/255; by default the evaluation's, if it has one.",
        origin="rtk",
    )
    device: str = DEVICE
    batch_size: int = option(128, "Images in the network at once.", origin="rtk", ge=1, le=4096)

    @pydantic.field_validator("threat")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        return None if value is None else str(Threat.parse(value))


@dataclass(frozen=True)
class EvaluationRequest:
    """One evaluation, fully resolved."""

    options: EvaluateOptions

    @property
    def dataset(self) -> str:
        """The data set asked for, or the one that the network was trained on."""
        found = self.options.dataset or own_dataset(self.options.backbone)
        assert found is not None, "build has refused it"
        return found

    def describe(self) -> dict[str, Any]:
        """What decides the result, as JSON; stored as config.json."""
        options = self.options.model_dump(mode="json", exclude=PLACE)
        return {"evaluate": self.options.backbone, "options": {**options, "dataset": self.dataset}}

    @property
    def directory(self) -> Path:
        """Where the evaluation lives; the same request always has the same folder."""
        if self.options.out is not None:
            return self.options.out
        weights = self.options.weights
        network = weights if weights not in (None, "random") else self.options.backbone.replace(":", "/")
        return Path("runs") / f"evaluate-{Path(str(network)).stem}-{files.digest(self.describe())[:8]}"


def build(target: str | None, flags: Mapping[str, Any], file: Mapping[str, Any] | None = None) -> EvaluationRequest:
    """Resolve defaults, what a run brings, configuration file and flags into a request.

    Args:
        target: the folder of a run, a file of weights, or the id of a backbone; None when `flags` name a backbone.
        flags, file: option names with underscores, to values or to their text; hyphens do as well.

    Raises:
        RequestError: UnknownName, BadValue, ... with what is allowed; nothing heavy was imported.
    """
    given = {key.replace("-", "_"): value for source in (file or {}, flags) for key, value in source.items()}
    for key in given:
        if key not in EvaluateOptions.model_fields:
            raise UnknownName("option", flag(key), map(flag, EvaluateOptions.model_fields), "rtk evaluate --help")
    check_file(file or {})
    given = {**given, **_named(target, given)}
    brought = _brought(str(given.get("backbone", "")))
    if "corruptions" not in written(given.get("suite", "corruptions")):
        brought.pop("corrupted", None)  # of no use in the suite that is asked for
    options = resolve(EvaluateOptions, given, brought)
    assert isinstance(options, EvaluateOptions)
    check_backbone(options.backbone)
    check_weights(options.weights)
    request = EvaluationRequest(options)
    _check_dataset(request)
    if options.save_examples and not any(KINDS[name].attacked for name in options.suite):
        suite = ",".join(options.suite)
        raise BadValue(f"--save-examples: the suite {suite} attacks nothing.", "--suite clean,pgd20 --save-examples")
    return request


def _named(target: str | None, given: Mapping[str, Any]) -> dict[str, str]:
    """The options for which a target stands."""
    if target is None:
        return {}
    is_file = files.there(target, Path.is_file)
    if (taken := "weights" if is_file else "backbone") in given:
        raise BadValue(f"{flag(taken)}: is what {target} stands for already.", f"without {flag(taken)}")
    if files.there(target, Path.is_dir):
        return {"backbone": f"run:{target}"}
    if is_file:
        if "backbone" not in given:
            hint = f"rtk evaluate {target} --backbone timm:resnet18"
            raise BadBackbone(f"{target}: weights alone; --backbone says of which architecture.", hint)
        return {"weights": target}
    if ":" not in target:
        hint = "rtk evaluate runs/NAME, or rtk evaluate rtk:fashion-resnet"
        raise BadBackbone(f"{target}: no folder of a run, no file of weights, and no id of a backbone.", hint)
    return {"backbone": target}


def _brought(backbone: str) -> dict[str, Any]:
    """The data set, the suite and the threat of a finished run; nothing for any other backbone."""
    kind, _, folder = backbone.partition(":")
    if kind != "run":
        return {}
    options = rundir.read_config(Path(folder))["options"]
    directory = Path(folder).expanduser()
    if not (directory / RESULT).exists():
        raise BadBackbone(f"run:{folder}: holds no {RESULT}; the run did not finish.", "the command that began it")
    brought = {name: options[name] for name in INHERITED if name in options}
    brought["threats"] = brought.get("threats") or [str(_threat(directory / RESULT))]
    return {**brought, "seed": options.get("evaluation_seed", 0)}


def _threat(result: Path) -> Threat:
    """The threat of a run; of the rest of its result nothing is needed, so that it may be of an older version."""
    try:
        own = files.read_json(result)["threat"]
        return Threat(own["norm"], float(own["eps"]))
    except (KeyError, TypeError, ValueError, OverflowError, RtkError) as problem:
        raise BadBackbone(f"{result}: tells no threat, so this is no result of rtk ({problem}).") from None


def _check_dataset(request: EvaluationRequest) -> None:
    own = own_dataset(request.options.backbone)
    if own is None and request.options.dataset is None:
        raise BadData(f"{request.options.backbone}: on which data?", "--dataset NAME; see: rtk datasets")
    check_dataset(request.dataset)
    if own is not None and ":" not in own + request.dataset and own != request.dataset:
        raise Refusal(
            f"{request.options.backbone} knows the classes of {own}, not those of {request.dataset}.",
            f"rtk finetune --backbone {request.options.backbone} --dataset {request.dataset}",
        )
