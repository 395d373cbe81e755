"""What a fine-tuning run is asked to do, resolved and validated before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import files, rundir
from .config import Config, flag, option, resolve
from .errors import BadValue, UnknownName
from .registry import Plugin, Registry
from .strategy import Strategy
from .suite import ITEMS, Suite

DEFAULT_BACKBONE = "rtk:fashion-resnet"


class RunOptions(Config):
    """Options of `rtk finetune` that every strategy has; the strategy's own come beside them."""

    backbone: str = option(DEFAULT_BACKBONE, "Network to start from: rtk:NAME, robustbench:DATA/NORM/NAME, timm:NAME, torchvision:NAME or run:DIR.", origin="rtk")  # fmt: skip
    weights: str | None = option(None, "Checkpoint file for the backbone, or 'random' for random weights.", origin="rtk")
    dataset: str | None = option(None, "Data: a name of `rtk datasets`, folder:PATH or npz:FILE; by default the backbone's own data, or signs for strategies that work on new data.", origin="rtk")  # fmt: skip
    data_root: Path | None = option(None, "Folder that holds named data sets; by default $RTK_DATA or ~/.cache/rtk/data.", origin="rtk")  # fmt: skip
    image_size: int | None = option(None, "Side of the images in pixels, for data sets of mixed sizes.", origin="rtk", ge=8, le=1024)  # fmt: skip
    head: str | None = option(None, "Name of the classifier layer, when it is not found.", origin="rtk")
    blocks: tuple[str, ...] | None = option(None, "Names of the ordered blocks, when they are not found.", origin="rtk")
    norm: Literal["Linf", "L2"] | None = option(None, "Norm of the threat; by default the backbone's.", origin="rtk")
    eps: float | None = option(None, "Radius of the threat in [0, 1] pixels; by default the backbone's, else 8/255.", origin="rtk", ge=0)  # fmt: skip
    seed: int = option(0, "Seed of everything random in training.", origin="rtk", ge=0, lt=2**31)
    device: str = option("auto", "auto, cpu, cuda or cuda:N.", origin="rtk", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    suite: tuple[str, ...] = option(ITEMS, "Evaluations: clean, pgd20, autoattack.", origin="rtk")
    images: int | None = option(None, "Test images for clean accuracy and PGD-20; none for all.", origin="rtk", ge=1)
    autoattack_images: int | None = option(128, "Test images for AutoAttack; none for all.", origin="rtk", ge=1)
    chunk_size: int = option(128, "Test images attacked together; part of the evaluation's identity.", origin="rtk", ge=1, le=4096)  # fmt: skip
    evaluation_seed: int = option(0, "Seed of the order of test images and of every attack in the evaluation.", origin="rtk", ge=0, lt=2**31)  # fmt: skip
    workers: int | None = option(None, "Evaluation processes on a CPU; by default one per core.", origin="rtk", ge=1, le=256)  # fmt: skip
    out: Path | None = option(None, "Run directory; by default runs/STRATEGY-DATA-HASH.", origin="rtk")

    @property
    def evaluation(self) -> Suite:
        """The suite that these options ask for."""
        return Suite(self.suite, self.images, self.autoattack_images, self.chunk_size, self.evaluation_seed)


PLACE = {"out", "device", "workers", "data_root"}
"""Options that decide where a run is computed, not what; they are not part of its identity."""


@dataclass(frozen=True)
class Request:
    """One fine-tuning run, fully resolved."""

    strategy: type[Strategy]
    plugin: Plugin
    config: Config
    options: RunOptions

    @property
    def dataset(self) -> str:
        """The data set asked for, or the default of the strategy's setting."""
        if self.options.dataset is not None:
            return self.options.dataset
        return (own_dataset(self.options.backbone) or "fashion") if self.strategy.setting == "source" else "signs"

    @property
    def new_data(self) -> bool:
        """Whether the data set is known to be another than the backbone's own."""
        own = own_dataset(self.options.backbone)
        return own is not None and own != self.dataset

    def describe(self) -> dict[str, Any]:
        """What decides the result, as JSON; stored as the run's config.json."""
        options = self.options.model_dump(mode="json", exclude=PLACE)
        return {
            "strategy": self.strategy.name,
            "config": self.config.model_dump(mode="json"),
            "options": {**options, "dataset": self.dataset},
        }

    @property
    def directory(self) -> Path:
        """Where the run lives; the same request always has the same directory."""
        if self.options.out is not None:
            return self.options.out
        data = Path(self.dataset.split(":")[-1]).stem or "data"
        return Path("runs") / f"{self.strategy.name}-{data}-{files.digest(self.describe())[:8]}"


def own_dataset(backbone: str) -> str | None:
    """The data set that a backbone was trained on, as far as its id tells."""
    kind, _, rest = backbone.partition(":")
    if kind == "rtk":
        return rest.split("-")[0]
    if kind == "robustbench":
        return rest.split("/")[0]
    if kind == "run":
        return str(rundir.read_config(Path(rest))["options"]["dataset"])
    return None


def build(
    name: str, flags: Mapping[str, Any], file: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> Request:
    """Resolve defaults, configuration file and flags into a Request.

    Args:
        name: of the strategy.
        flags, file: option names with underscores, to values or to their text.

    Raises:
        UnknownName, BadValue: with what is allowed; nothing heavy was imported.
    """
    registry = registry or Registry()
    plugin = registry.plugin(name)
    strategy = registry.strategy(name)
    if clash := set(RunOptions.model_fields) & set(strategy.config_type.model_fields):
        raise BadValue(f"{plugin}: its option {sorted(clash)[0]!r} is one of rtk's own; rename it.")
    known = [*RunOptions.model_fields, *strategy.config_type.model_fields]
    for key in [*flags, *(file or {})]:
        if key.replace("-", "_") not in known:
            raise UnknownName("option", flag(key), map(flag, known), f"rtk finetune --strategy {name} --help")
    own, common = _divide(strategy.config_type, flags), _divide(RunOptions, flags)
    own_file, common_file = _divide(strategy.config_type, file or {}), _divide(RunOptions, file or {})
    options = resolve(RunOptions, common, common_file)
    assert isinstance(options, RunOptions)
    options.evaluation  # noqa: B018 - checks the suite now
    return Request(strategy, plugin, resolve(strategy.config_type, own, own_file), options)


def _divide(kind: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key.replace("-", "_") in kind.model_fields}
