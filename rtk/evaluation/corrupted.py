"""Accuracy under common corruptions: made on the fly, or read from a folder like CIFAR-10-C."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from ..accuracy import correct
from ..corruptions import NAMES, SEVERITIES, Baseline, CorruptedFolder, corrupt, scale_for, summarise
from ..data import Dataset
from ..errors import BadData, BadValue
from ..memory import Memory
from ..results import EVALUATION, Corrupted, Row, read_evaluation
from ..suite import Item
from ..verdicts import OF_NETWORK
from .measure import Judged, Measure, Tick

KEY = "corruptions"
ORIGIN = {"cifar": "made with the severities of CIFAR-10-C", "imagenet": "made with the severities of ImageNet-C"}


class Corruptions(Measure):
    """Every image in every corruption at every severity; the score is the mean over all of them.

    Grey data are corrupted as what the network sees, an image of three channels.

    Raises:
        RequestError: the images are too small, the extra is not installed, or the folder does not fit the data.
    """

    def __init__(self, item: Item, data: Dataset):
        self.folder = None if item.corrupted is None else _open(item.corrupted.path, data)
        if self.folder is None:
            corrupt(torch.zeros(1, *data.image_shape), NAMES[0], 1, seed=0)  # refused now rather than in a worker
            scale = scale_for(*data.image_shape[1:])
            self.names, self.origin = NAMES, ORIGIN[scale]
            made: dict[str, Any] = {"scale": scale}
        else:
            assert item.corrupted is not None
            self.names, self.origin = self.folder.names, f"read from {item.corrupted.path}"
            made = {"folder": item.corrupted.sha256}
        self.label = f"corruptions, mean of {len(self.names)} x {len(SEVERITIES)}"
        self.cost = len(self.names) * len(SEVERITIES)
        self.settings = {"corruptions": list(self.names), "severities": list(SEVERITIES), **made}

    def judge(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        indices: Tensor,
        seed: int,
        tick: Tick,
        memory: Memory,
    ) -> Judged:
        verdicts = {}
        for name in self.names:
            for severity in SEVERITIES:
                corrupted = self._corrupted(images, indices, name, severity, seed)
                verdicts[f"{name} {severity}"] = memory.run(partial(correct, model, corrupted, labels)).tolist()
                tick(len(images))
        return Judged(verdicts)

    def _corrupted(self, images: Tensor, indices: Tensor, name: str, severity: int, seed: int) -> Tensor:
        if self.folder is None:
            return corrupt(images, name, severity, seed=seed, indices=indices)
        return self.folder.images(name, severity, indices).expand(-1, images.shape[1], -1, -1).to(images.device)

    def final(self, verdicts: dict[str, list[bool]]) -> list[bool]:
        return [value for values in verdicts.values() for value in values]

    def details(self, verdicts: dict[str, list[bool]]) -> dict[str, Any]:
        cells = {
            (name, severity): fmean(verdicts[f"{name} {severity}"]) for name in self.names for severity in SEVERITIES
        }
        found = summarise(cells)
        details = Corrupted(
            origin=self.origin,
            cells={name: [cells[name, severity] for severity in SEVERITIES] for name in self.names},
            corruptions=found.corruptions,
            families=found.families,
            severities=[fmean(cells[name, severity] for name in self.names) for severity in SEVERITIES],
            missing=list(found.missing),
        )
        return {"corrupted": details}


corruptions = Corruptions
"""The kind of evaluation of this name."""


def read_baseline(directory: Path, identity: dict[str, Any]) -> Baseline:
    """The evaluation of the network that mCE is relative to.

    Args:
        identity: of `corruptions` in the evaluation at hand; only the network may be another.

    Raises:
        BadData: no evaluation.
        BadValue: it is one without corruptions, with others, on other images, or without errors in one of the 15.
    """
    found = read_evaluation(directory / EVALUATION)
    score = found.row.scores.get(KEY)
    hint = f"rtk evaluate {found.backbone['uri']} --suite corruptions, with the options of this evaluation"
    if score is None or score.corrupted is None:
        raise BadValue(f"--baseline {directory}: holds no corruptions.", hint)
    for key in sorted({*identity, *score.identity} - {*OF_NETWORK}):
        if identity.get(key) != score.identity.get(key):
            raise BadValue(f"--baseline {directory}: its corruptions differ from those asked for ({key}).", hint)
    baseline = Baseline(found.backbone["uri"], _cells(score.corrupted))
    summarise(baseline.accuracies, baseline)  # refused now rather than when everything has been judged
    return baseline


def relative(row: Row, baseline: Baseline) -> Row:
    """The row with its mCE; `baseline` comes from `read_baseline`."""
    score = row.scores[KEY]
    assert score.corrupted is not None
    found = summarise(_cells(score.corrupted), baseline)
    details = score.corrupted.model_copy(update={"mce": found.mce, "baseline": found.baseline})
    return row.model_copy(update={"scores": {**row.scores, KEY: score.model_copy(update={"corrupted": details})}})


def _cells(found: Corrupted) -> dict[tuple[str, int], float]:
    return {
        (name, severity): value
        for name, values in found.cells.items()
        for severity, value in zip(SEVERITIES, values, strict=True)
    }


def _open(path: Path, data: Dataset) -> CorruptedFolder:
    """The folder, of the test images of `data` in their own order."""
    folder, test = CorruptedFolder(path), data.split("test")
    if folder.image_shape[1:] != data.image_shape[1:]:
        size, own = ("x".join(map(str, shape[1:])) for shape in (folder.image_shape, data.image_shape))
        raise BadData(f"--corrupted {path}: images of {size} pixels for {data.uri} of {own}.", "--dataset NAME")
    if not torch.equal(folder.labels, test.labels):
        raise BadData(
            f"--corrupted {path}: its {len(folder)} labels are not those of the {len(test)} test images of {data.uri}.",
            "--dataset NAME",
        )
    return folder
