"""Which evaluations are run, against which threats, on how many images, with which seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import files
from .corruptions.names import NAMES
from .errors import BadValue, UnknownName
from .threat import Threat

PROTOCOL = 1
"""Version of how verdicts are made; raised when anything changes that can change one."""


@dataclass(frozen=True)
class Kind:
    """A kind of evaluation.

    Attributes:
        home: "module:function"; it makes a `Measure` from item and data set, see rtk/evaluation/measure.py.
        attacked: whether it is done once for every threat, or once only.
        images: on how many test images: a number, or the attribute of `Suite` that says it.
        chunk: images judged together; None for what the suite says.
    """

    home: str
    attacked: bool = True
    images: int | str = "images"
    chunk: int | None = None


KINDS = {
    "clean": Kind("rtk.evaluation.attacked:clean", attacked=False),
    "pgd10": Kind("rtk.evaluation.attacked:pgd10"),
    "pgd20": Kind("rtk.evaluation.attacked:pgd20"),
    "pgd100": Kind("rtk.evaluation.attacked:pgd100"),
    "autoattack": Kind("rtk.evaluation.attacked:standard", images="autoattack_images"),
    "masking": Kind("rtk.evaluation.masked:masking", images=64, chunk=64),
    "corruptions": Kind("rtk.evaluation.corrupted:corruptions", attacked=False, images="corruption_images", chunk=32),
}
"""By name. A new kind of evaluation is a module with its `Measure`, and a line here."""

DEFAULT = ("clean", "pgd20", "autoattack", "masking")
HINT = f"--suite {','.join(DEFAULT)}"


@dataclass(frozen=True)
class CorruptedImages:
    """A folder of corrupted test images, in the layout of CIFAR-10-C.

    Attributes:
        path: the folder.
        sha256: of all that is read from it.
    """

    path: Path
    sha256: str

    @classmethod
    def at(cls, path: Path) -> CorruptedImages:
        """The folder at `path`; reads all of its files once."""
        found = [file for name in (*NAMES, "labels") if (file := path / f"{name}.npy").is_file()]
        return cls(path, files.digest({file.name: files.sha256(file) for file in found}))


@dataclass(frozen=True)
class Item:
    """One column of results: a kind of evaluation and, where it attacks, the threat.

    `str(item)` is "clean", "pgd20@Linf:8/255", "autoattack@L2:0.5": the key of scores, changes and verdicts everywhere.

    Attributes:
        name: of KINDS.
        threat: None where nothing is attacked.
        corrupted: where the images of `corruptions` are read; None where they are made.
    """

    name: str
    threat: Threat | None = None
    corrupted: CorruptedImages | None = None

    def __str__(self) -> str:
        return self.name if self.threat is None else f"{self.name}@{self.threat}"

    @property
    def file(self) -> str:
        """As part of a file name."""
        return str(self).replace("/", "_")

    @property
    def kind(self) -> Kind:
        """What is known about evaluations of this name."""
        return KINDS[self.name]


@dataclass(frozen=True)
class Suite:
    """What is evaluated.

    Attributes:
        names: of KINDS, in order.
        threats: against each of which the attacks are run.
        images: test images; None for all.
        autoattack_images: test images for AutoAttack, a prefix of the same order; None for all.
        chunk_size: images attacked together; part of an evaluation's identity.
        seed: of the order of the test images, of every attack and of every corruption.
        corruption_images: test images for common corruptions, a prefix of the same order; None for all.
        corrupted: their corrupted copies; None where they are made.
    """

    names: tuple[str, ...] = DEFAULT
    threats: tuple[Threat, ...] = (Threat(),)
    images: int | None = None
    autoattack_images: int | None = 128
    chunk_size: int = 128
    seed: int = 0
    corruption_images: int | None = 500
    corrupted: CorruptedImages | None = None

    def __post_init__(self) -> None:
        check_names(self.names)
        if not self.threats and any(KINDS[name].attacked for name in self.names):
            raise BadValue("--threats: got nothing, but the suite holds attacks.", "--threats Linf:8/255")
        for name, value in (
            ("--images", self.images),
            ("--autoattack-images", self.autoattack_images),
            ("--corruption-images", self.corruption_images),
        ):
            if value is not None and value < 1:
                raise BadValue(f"{name}: got {value} (allowed: 1 or more, or 'all').")
        if self.chunk_size < 1:
            raise BadValue(f"--chunk-size: got {self.chunk_size} (allowed: 1 or more).")

    @property
    def items(self) -> tuple[Item, ...]:
        """Every kind in order; an attack once for each threat."""
        return tuple(
            Item(name, threat, self.corrupted if name == "corruptions" else None)
            for name in dict.fromkeys(self.names)
            for threat in (self.threats if KINDS[name].attacked else (None,))
        )

    def n(self, item: Item) -> int | None:
        """Test images for an item; None for all."""
        count = item.kind.images
        found: int | None = getattr(self, count) if isinstance(count, str) else count
        return found

    def chunk(self, item: Item) -> int:
        """Images of an item that are judged together."""
        return item.kind.chunk or self.chunk_size


def check_names(names: tuple[str, ...]) -> None:
    """Refuse an empty suite, and a kind of evaluation that does not exist."""
    if not names:
        raise BadValue(f"--suite: nothing to evaluate (allowed: {', '.join(KINDS)}).", HINT)
    for name in names:
        if name not in KINDS:
            raise UnknownName("evaluation", name, KINDS, HINT)
