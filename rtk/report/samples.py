"""From the folder of an evaluation to the images that an attack broke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadData
from ..results import Evaluation
from ..suite import Suite

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.subject import Loaded

MOST = 8
"""Samples in a picture."""
BATCH = 32


@dataclass(frozen=True)
class Broken:
    """K images, classified right before an attack and wrong after it.

    Attributes:
        clean, adversarial: float32 (K, 3, H, W) in [0, 1].
        indices: K indices into the test split.
        labels: K true classes.
        before, after: the K classes that the network says.
        class_names: None when they are not known.
    """

    clean: Tensor
    adversarial: Tensor
    indices: list[int]
    labels: list[int]
    before: list[int]
    after: list[int]
    class_names: Sequence[str] | None

    def name(self, label: int) -> str:
        """Of a class: its name, or its number."""
        return self.class_names[label] if self.class_names else str(label)


def first_broken(home: Path, found: Evaluation, key: str, image_size: int | None, root: Path | None = None) -> Broken:
    """The first images, at most MOST, that an attack broke, in the order in which they were judged.

    Args:
        home: folder of the evaluation.
        key: of the scores, "pgd20@Linf:0.1".
        image_size, root: with which the data set is opened.

    Raises:
        BadData: no adversarial images were kept, they are damaged, or the test images are others by now.
    """
    import torch

    from ..evaluation import examples
    from ..evaluation.chunks import exactly
    from ..evaluation.subject import Subject, load

    if key not in found.examples:
        raise BadData(f"{home}: the adversarial images of {key} were not kept.", f"rtk show {home}")
    path = home / found.examples[key].file
    saved = examples.read(path)
    loaded = load(
        Subject(
            directory=home / "network",
            weights=found.row.weights,
            dataset=found.dataset["uri"],
            root=root,
            image_size=image_size,
            suite=Suite(),
            device="cpu",
            verdicts=home / "verdicts",
        )
    )
    if saved.found != saved.content or loaded.test.sha256 != saved.identity["data"]:
        raise BadData(f"{path}: does not belong to the test images, or is damaged.", f"rtk verify {path}")
    shown: list[tuple[int, int, int]] = []  # place in the file, class before, class after
    with exactly(torch.device("cpu")):
        for places in (~saved.robust).nonzero().flatten().split(BATCH):
            labels = saved.labels[places]
            before = _classes(loaded, loaded.test.images(saved.indices[places]))
            after = _classes(loaded, saved.images[places])
            broken = (before == labels) & (after != labels)
            columns = (each[broken].tolist() for each in (places, before, after))
            shown += zip(*columns, strict=True)
            if len(shown) >= MOST:
                break
    del shown[MOST:]
    kept = torch.tensor([place for place, _, _ in shown], dtype=torch.int64)
    return Broken(
        clean=loaded.test.images(saved.indices[kept]),
        adversarial=saved.images[kept],
        indices=saved.indices[kept].tolist(),
        labels=saved.labels[kept].tolist(),
        before=[before for _, before, _ in shown],
        after=[after for _, _, after in shown],
        class_names=loaded.data.class_names,
    )


def _classes(loaded: Loaded, images: Tensor) -> Tensor:
    """What the network says, int64 (N,)."""
    import torch

    with torch.no_grad():
        return loaded.model(images).argmax(1)
