"""From the folder of an evaluation to the images that an attack broke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    shown: list[tuple[Any, ...]] = []
    with exactly(torch.device("cpu")):
        for places in (~saved.robust).nonzero().flatten().split(BATCH):
            indices, labels, adversarial = saved.indices[places], saved.labels[places], saved.images[places]
            clean = loaded.test.images(indices)
            before, after = _classes(loaded, clean), _classes(loaded, adversarial)
            for each in ((before == labels) & (after != labels)).nonzero().flatten().tolist():
                shown.append((clean[each], adversarial[each], indices[each], labels[each], before[each], after[each]))
            if len(shown) >= MOST:
                break
    columns = list(zip(*shown[:MOST], strict=True)) or [()] * 6
    images = [torch.stack(each) if each else saved.images[:0] for each in columns[:2]]
    numbers = [[int(value) for value in each] for each in columns[2:]]
    return Broken(*images, *numbers, loaded.data.class_names)


def _classes(loaded: Loaded, images: Tensor) -> Tensor:
    """What the network says, int64 (N,)."""
    import torch

    with torch.no_grad():
        return loaded.model(images).argmax(1)
