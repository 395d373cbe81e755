"""What is judged, on what. Test images are read here, and nowhere else outside of this package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from .. import files
from ..backbones import Backbone, Classifier, describe, hash_spec, open_backbone
from ..data import Dataset, Split, open_dataset
from ..errors import BadData
from ..seeds import derive
from ..suite import Suite


@dataclass(frozen=True)
class Subject:
    """Everything a worker needs, by name; nothing of it is code of a plugin.

    Attributes:
        directory: holds backbone.json and model.safetensors.
        weights: SHA-256 of the weights.
        dataset, root, image_size: for `open_dataset`.
        verdicts: where the verdicts of this subject are kept.
        batch_size: images in the network at once; None for a whole chunk. It changes no verdict.
        examples: where adversarial images are kept; None where they are not.
        shared: where verdicts of this network lie that other runs have in common with this one, see shared.py.
    """

    directory: Path
    weights: str
    dataset: str
    root: Path | None
    image_size: int | None
    suite: Suite
    device: str
    verdicts: Path
    batch_size: int | None = None
    examples: Path | None = None
    shared: Path | None = None


@dataclass(frozen=True)
class Loaded:
    """A subject in memory.

    Attributes:
        model: on its device, in evaluation mode.
        network: `rtk.backbones.hash_spec`: equal weights make another function in another architecture.
        data: the data set.
        order: all test indices, int64 (N,), in the order in which they are judged.
    """

    model: nn.Module
    network: str
    data: Dataset
    order: Tensor

    @property
    def test(self) -> Split:
        """The test split, in the data set's own order."""
        return self.data.split("test")


@lru_cache(maxsize=4)
def load(subject: Subject) -> Loaded:
    """Open the network on disk and the data set; once per process."""
    backbone = open_backbone(f"run:{subject.directory}")
    model = backbone.model.to(subject.device).eval()
    data = open_dataset(subject.dataset, root=subject.root, image_size=subject.image_size)
    return Loaded(model, hash_spec(describe(backbone)), data, order_of(labels_of(data), subject.suite.seed))


def labels_of(data: Dataset) -> Tensor:
    """Labels of the test split, int64 (N,), in the data set's own order; BadData when one has no class."""
    labels = data.split("test").labels
    if int(labels.max()) >= data.num_classes:
        raise BadData(f"{data.uri}: test labels reach {int(labels.max())}, but there are {data.num_classes} classes.")
    return labels


def order_of(labels: Tensor, seed: int) -> Tensor:
    """All test indices, shuffled and interleaved by class, so that every prefix is as class-balanced as can be."""
    generator = torch.Generator().manual_seed(derive(seed, "test order"))
    shuffled = torch.randperm(len(labels), generator=generator)
    rank = torch.empty_like(labels)
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        rank[members] = torch.arange(len(members))
    return shuffled[torch.argsort(rank[shuffled], stable=True)]


def save_network(directory: Path, backbone: Backbone, model: Classifier) -> None:
    """Write backbone.json and model.safetensors; the weights last, since their presence says that both are there."""
    files.write_json(directory / "backbone.json", describe(backbone))
    state = {name: value.detach().cpu().contiguous() for name, value in model.native_state().items()}
    files.write(directory / "model.safetensors", lambda file: file.write(to_safetensors(state)))
