"""A few adversarial images of a run, made anew from its weights: as pictures that a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..bench.cells import Cell
from ..report.folder import chosen
from ..results import Result
from ..threat import Threat
from ..verdicts import unpack

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 20
LARGEST = 96
"""Pixels to a side of a picture; larger images are shown smaller, as means of their pixels."""


@dataclass(frozen=True)
class Example:
    """One image before and after an attack.

    Attributes:
        images: clean, adversarial, and their difference, as data URIs of PNG files.
        alts: what each shows.
        caption: true class and predictions.
    """

    images: tuple[str, str, str]
    alts: tuple[str, str, str]
    caption: str


@dataclass(frozen=True)
class Examples:
    """The examples of a run.

    Attributes:
        text: how they were made, or why there are none.
        names: of the classes, None where they are not known.
    """

    text: str
    shown: Sequence[Example] = ()
    names: Sequence[str] | None = None


def examples_of(cell: Cell, result: Result, folder: Path, count: int) -> Examples:
    """The first images that the run's own evaluation says are broken, attacked again by PGD-20.

    Raises:
        RtkError: data or network cannot be opened on this machine.
    """
    import torch

    from ..attacks import pgd
    from ..evaluation.exactness import exactly
    from ..evaluation.subject import Subject, load
    from ..seeds import derive
    from ..suite import Suite

    row, key = result.rows[-1], chosen(result)
    if key is None or "clean" not in row.scores:
        return Examples("The suite holds no attack beside clean accuracy.")
    options = cell.request.options
    loaded = load(
        Subject(
            directory=folder,
            weights=row.weights,
            dataset=cell.request.dataset,
            root=options.data_root,
            image_size=options.image_size,
            suite=Suite(seed=options.evaluation_seed),
            device="cpu",
            verdicts=folder / "evaluation",
        )
    )
    if row.scores[key].identity["data"] != loaded.test.sha256:
        return Examples("The test images on this machine are others than those of the run.")
    before, after = (unpack(score.verdicts, score.n) for score in (row.scores["clean"], row.scores[key]))
    places = [place for place, robust in enumerate(after) if before[place] and not robust][:count]
    if not places:
        return Examples(f"{row.scores[key].label} broke no image.", names=loaded.data.class_names)
    indices = loaded.order[places]
    clean, labels = loaded.test.images(indices), loaded.test.labels[indices]
    threat = Threat.parse(str(row.scores[key].threat))
    with exactly(torch.device("cpu")):
        attack = pgd(threat, steps=STEPS)
        adversarial = attack(loaded.model, clean, labels, seed=derive(options.evaluation_seed, "examples"))
        with torch.no_grad():
            said = loaded.model(adversarial).argmax(1)
    names = loaded.data.class_names
    factor = float(f"{0.5 / max(float((adversarial - clean).abs().max()), 1e-6):.2g}")
    shown = []
    for place in (said != labels).nonzero().flatten().tolist():
        true, wrong = (names[int(each)] if names else f"class {int(each)}" for each in (labels[place], said[place]))
        difference = (0.5 + factor * (adversarial[place] - clean[place])).clamp(0, 1)
        pictures = (clean[place], adversarial[place], difference)
        one, two, three = (_uri(picture) for picture in pictures)
        number = int(indices[place])
        alts = (
            f"Test image {number}: {true}",
            f"The same image attacked: taken for {wrong}",
            f"Their difference, amplified {factor:g} times",
        )
        shown.append(Example((one, two, three), alts, f"Test image {number}: {true}, taken for {wrong}."))
    text = (
        f"The first images that {row.scores[key].label} broke, attacked again by PGD-{STEPS} at {threat.label}: clean,"
        f" adversarial, and their difference, amplified {factor:g} times around grey."
    )
    if max(clean.shape[-2:]) > LARGEST:
        text += f" Shown at {LARGEST} pixels to a side; the attack was made at {clean.shape[-1]}."
    return Examples(text, shown, names)


def _uri(image: Tensor) -> str:
    """A picture (3, H, W) in [0, 1] as the data URI of a PNG file."""
    from PIL import Image

    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
