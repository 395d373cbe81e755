"""Options that `rtk finetune` and `rtk evaluate` share, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pydantic

from .config import Config, option
from .errors import BadData, BadValue
from .suite import DEFAULT, KINDS, CorruptedImages, Suite, check_names
from .threat import Threat, parse_threats

DEFAULT_BACKBONE = "rtk:fashion-resnet"


DEVICE: str = option("auto", "Device: auto, cpu, cuda or cuda:N.", origin="rtk", pattern=r"^(auto|cpu|cuda(:\d+)?)$")


def check_file(file: Mapping[str, Any]) -> None:
    """BadValue when a file says what must be typed: files are passed on, and this one harms whoever opens it."""
    if any(key.replace("-", "_") == "trust_checkpoint" for key in file):
        raise BadValue(
            "--trust-checkpoint: a file cannot say so (allowed: typed with the command, or given to a function).",
            "rtk evaluate CHECKPOINT --trust-checkpoint --out DIR; then --weights DIR/network/model.safetensors",
        )


class SourceOptions(Config):
    """Which network, on which data."""

    backbone: str = option(
        DEFAULT_BACKBONE,
        "Network: rtk:NAME, robustbench:DATA/NORM/NAME, timm:NAME, torchvision:NAME or run:DIR; see: rtk backbones.",
        origin="rtk",
    )
    weights: str | None = option(
        None, "Checkpoint file for the backbone, or 'random' for random weights.", origin="rtk"
    )
    trust_checkpoint: bool = option(
        False,
        "Run the code that the checkpoint asks for, where it cannot be read without; it can do whatever you can.",
        origin="rtk",
    )
    dataset: str | None = option(
        None,
        "Data: a name of rtk datasets, folder:PATH or npz:FILE; by default the backbone's own data,"
        " or signs for strategies that work on new data.",
        origin="rtk",
    )
    data_root: Path | None = option(
        None, "Folder that holds named data sets; by default $RTK_DATA or ~/.cache/rtk/data.", origin="rtk"
    )
    image_size: int | None = option(
        None, "Side of the images in pixels, for data sets of mixed sizes.", origin="rtk", ge=8, le=1024
    )
    head: str | None = option(None, "Name of the classifier layer, where it is not found by itself.", origin="rtk")
    blocks: tuple[str, ...] | None = option(
        None, "Names of the ordered blocks, where they are not found by themselves.", origin="rtk"
    )


class EvaluationOptions(Config):
    """What is evaluated, and where."""

    device: str = DEVICE
    suite: tuple[str, ...] = option(DEFAULT, f"Evaluations, joined by commas: {', '.join(KINDS)}.", origin="rtk")
    threats: tuple[str, ...] | None = option(
        None,
        "Threats to evaluate at, e.g. Linf:8/255, or Linf:4/255,8/255 for a curve; by default the network's own.",
        origin="rtk",
    )
    images: int | None = option(
        None, "Test images for clean and PGD; 'all', as by default, for all.", origin="rtk", ge=1
    )
    autoattack_images: int | None = option(128, "Test images for AutoAttack; 'all' for all.", origin="rtk", ge=1)
    corruption_images: int | None = option(
        500, "Test images for corruptions, each in 75 corrupted copies; 'all' for all.", origin="rtk", ge=1
    )
    corrupted: Path | None = option(
        None, "Folder like CIFAR-10-C whose images are read for corruptions; by default they are made.", origin="rtk"
    )
    chunk_size: int = option(
        128, "Test images attacked together; part of the evaluation's identity.", origin="rtk", ge=1, le=4096
    )
    workers: int | None = option(
        None, "Evaluation processes on a CPU; by default one per core.", origin="rtk", ge=1, le=256
    )

    @pydantic.field_validator("images", "autoattack_images", "corruption_images", mode="before")
    @classmethod
    def _all(cls, value: Any) -> Any:
        return None if value == "all" else value

    @pydantic.field_validator("suite")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_names(value)
        return value

    @pydantic.field_validator("threats", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        given = (value,) if isinstance(value, Threat) else value
        if not isinstance(given, list | tuple):
            return given
        return [str(each) if isinstance(each, Threat) else each for each in given]

    @pydantic.field_validator("threats")
    @classmethod
    def _readable(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else tuple(map(str, parse_threats(value)))

    @pydantic.model_validator(mode="after")
    def _used(self) -> Self:
        if self.corrupted is not None and "corruptions" not in self.suite:
            raise BadValue("--corrupted: the suite holds no corruptions.", "--suite clean,corruptions")
        if self.corrupted is not None and not self.corrupted.is_dir():
            raise BadData(f"--corrupted {self.corrupted}: no such folder.", "--corrupted CIFAR-10-C")
        return self

    def suite_at(self, own: Threat, seed: int) -> Suite:
        """The suite that these options ask for, of a network whose own threat is `own`."""
        threats = (own,) if self.threats is None else parse_threats(self.threats)
        return Suite(
            self.suite,
            threats,
            self.images,
            self.autoattack_images,
            self.chunk_size,
            seed,
            self.corruption_images,
            None if self.corrupted is None else CorruptedImages.at(self.corrupted),
        )


EVALUATION_SEED: int = option(
    0, "Seed of the order of test images and of every attack in the evaluation.", origin="rtk", ge=0, lt=2**31
)
EVALUATION_BATCH: int | None = option(
    None,
    "Test images in the network at once; by default a chunk. Decides memory, not verdicts.",
    origin="rtk",
    ge=1,
    le=4096,
)

PLACE = {"out", "device", "workers", "data_root", "evaluation_batch_size", "batch_size"}
"""Options that decide where something is computed, not what; they are not part of its identity."""
