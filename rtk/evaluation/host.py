"""One evaluation from request to result."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import environment, files, results, rundir
from ..backbones import Backbone, hash_state, open_backbone
from ..checks import Check
from ..corruptions import Baseline
from ..data import Dataset, open_dataset
from ..errors import BadBackbone, Interrupted
from ..progress import Progress, Silent
from ..results import Evaluation, Examples
from ..suite import Item
from ..threat import Threat
from . import corrupted, examples
from .chunks import Collected, chunks_of, identities
from .measure import measure_of
from .request import EvaluationRequest
from .scores import final_of, row_of
from .subject import Subject, load, save_network
from .workers import judge_all


def evaluate(
    request: EvaluationRequest,
    *,
    force: bool = False,
    progress: Progress | None = None,
    command: list[str] | None = None,
) -> Evaluation:
    """Evaluate one network and write the folder of the evaluation.

    An evaluation that was interrupted goes on where it stopped when the same request is made again.

    Args:
        force: throw away the evaluation that the folder holds.
        command: what was typed, for the record.

    Raises:
        RequestError: the request cannot be met; nothing was written.
        RunFailed: the evaluation broke; what was finished is kept.
        Interrupted: Ctrl-C; what was finished is kept.
    """
    environment.make_deterministic()
    device = environment.device(request.options.device)
    directory = request.directory
    backbone, data = open_network(request)
    suite = request.options.suite_at(backbone.threat or Threat(), request.options.seed)
    for item in suite.items:  # what cannot be judged is refused before anything is written
        measure_of(item, data)
    weights = hash_state(backbone.model.native_state())
    subject = Subject(
        directory=directory / "network",
        weights=weights,
        dataset=request.dataset,
        root=request.options.data_root,
        image_size=request.options.image_size,
        suite=suite,
        device=str(device),
        verdicts=directory / "verdicts",
        batch_size=request.options.batch_size,
        examples=directory / "examples" if request.options.save_examples else None,
    )
    config = {**request.describe(), "inputs": {"rtk": environment.version(), "weights": weights}}
    try:
        with rundir.claim(directory, config, rundir.EVALUATION, force=force):
            begun = time.monotonic()
            kept = directory / "environment.json"
            files.write_json(kept, environment.continued(kept, environment.describe(device)))
            save_network(subject.directory, backbone, backbone.model)
            baseline = _baseline(request, subject)
            (verdicts,) = judge_all([subject], progress or Silent(), request.options.workers)
            row = row_of(backbone.uri, subject, verdicts, _same_classes(backbone.uri, data))
            found = Evaluation(
                rtk=environment.version(),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                command=command or [],
                backbone=describe_backbone(backbone),
                dataset=_describe_data(subject),
                row=corrupted.relative(row, baseline) if baseline else row,
                examples=_examples(subject, verdicts),
                seconds=round(time.monotonic() - begun, 1),
                environment=files.read_json(directory / "environment.json"),
            )
            results.write(directory / results.EVALUATION, found)
            return found
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted; what was finished is kept in {directory}.", "the same command goes on from there"
        ) from None


def open_network(request: EvaluationRequest) -> tuple[Backbone, Dataset]:
    """The network to judge, and the data on which it is judged.

    Raises:
        BadBackbone: its classes are not those of the data set.
    """
    options = request.options
    data = open_dataset(request.dataset, root=options.data_root, image_size=options.image_size)
    backbone = open_backbone(
        options.backbone,
        weights=options.weights,
        head=options.head,
        blocks=options.blocks,
        trust_checkpoint=options.trust_checkpoint,
    )
    if backbone.classes != data.num_classes:
        raise BadBackbone(
            f"{options.backbone} tells {backbone.classes} classes apart, {request.dataset} has {data.num_classes}.",
            f"rtk finetune --backbone {options.backbone} --dataset {request.dataset}",
        )
    return backbone, data


def _same_classes(uri: str, data: Dataset) -> list[Check]:
    """Whether a run was trained on classes of these names in this order; nothing where either has no names."""
    kind, _, folder = uri.partition(":")
    names = results.trained_on(Path(folder).expanduser()) if kind == "run" else None
    if not names or not data.class_names:
        return []
    wrong = [place for place, name in enumerate(names) if name != data.class_names[place]]
    same = len(names) - len(wrong)
    text = f"{same} of the {len(names)} classes of {data.uri} have the names that the run was trained on"
    if wrong:
        place = wrong[0]
        text += (
            f"; class {place} is '{data.class_names[place]}', and was '{names[place]}'. Where these are other things,"
            " or the same in another order, the accuracies say nothing"
        )
    return [Check(name="class-names", verdict="warning" if wrong else "ok", text=f"{text}.")]


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    """What a result says about a backbone, as JSON."""
    return {
        "uri": backbone.uri,
        "weights": hash_state(backbone.model.native_state()),
        "threat": {"norm": backbone.threat.norm, "eps": backbone.threat.eps} if backbone.threat else None,
        "input": backbone.model.describe_input(),
        "norms": str(backbone.structure.norms),
        "head": backbone.structure.head,
        "new_head": backbone.new_head,
        "checkpoint": asdict(backbone.checkpoint) if backbone.checkpoint else None,
        "parameters": sum(parameter.numel() for parameter in backbone.model.parameters()),
    }


def _baseline(request: EvaluationRequest, subject: Subject) -> Baseline | None:
    """The network that mCE is relative to."""
    place = request.options.baseline
    if place is None:
        return None
    (item,) = (item for item in subject.suite.items if item.name == corrupted.KEY)
    return corrupted.read_baseline(place, identities(subject)[item])


def _describe_data(subject: Subject) -> dict[str, Any]:
    loaded = load(subject)
    return {
        "uri": loaded.data.uri,
        "classes": loaded.data.num_classes,
        "class_names": loaded.data.class_names and [*loaded.data.class_names],
        "image_shape": list(loaded.data.image_shape),
        "images": {"test": len(loaded.test)},
        "sha256": {"test": loaded.test.sha256},
    }


def _examples(subject: Subject, verdicts: dict[Item, Collected]) -> dict[str, Examples]:
    """Join the examples of every attacked item."""
    if subject.examples is None:
        return {}
    joined = {}
    for item, final in final_of(subject, verdicts).items():
        if item.threat is None:
            continue
        one = verdicts[item]
        rest: dict[str, list[int]] = {"labels": one.labels, "indices": one.indices, "robust": [*final]}
        numbers = [chunk.number for chunk in chunks_of(subject) if chunk.item == item]
        joined[str(item)] = examples.join(subject.examples, item, numbers, rest, identities(subject)[item])
    return joined
