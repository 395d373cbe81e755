"""What a fine-tuning run is asked to do, resolved and validated before anything heavy is imported."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import files, rundir
from .backbones.catalogue import embedded, split_uri, split_zoo
from .config import Config, flag, option, resolve
from .data.catalogue import find_info, list_datasets
from .errors import BadBackbone, BadData, Refusal, UnknownName
from .hookspecs import OBSERVERS
from .options import EVALUATION_BATCH, EVALUATION_SEED, PLACE, EvaluationOptions, SourceOptions, check_file
from .registry import OWN, Plugin, Registry
from .strategy import Strategy
from .threat import Threat


class RunOptions(EvaluationOptions, SourceOptions):
    """Options of `rtk finetune` that every strategy has; the strategy's own come beside them."""

    norm: Literal["Linf", "L2"] | None = option(None, "Norm of the threat; by default the backbone's.", origin="rtk")
    eps: float | None = option(
        None,
        "Radius of the threat, for pixels in [0, 1], e.g. 8/255; by default the backbone's, else 8/255.",
        origin="rtk",
        ge=0,
    )
    seed: int = option(
        0, "Seed of everything random in training, and of a new classifier.", origin="rtk", ge=0, lt=2**31
    )
    train_fraction: float = option(
        1.0,
        "Share of the training images to train on, the same of every class; which of them, the seed decides.",
        origin="rtk",
        ge=1e-6,
        le=1,
    )
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto",
        "Format of the attacks that train; auto is bfloat16 where the processor has instructions for it. What is"
        " measured is float32.",
        origin="rtk",
    )
    compile: Literal["auto", "inductor", "none"] = option(
        "auto",
        "What the attacks that train search on; auto folds BatchNorm into the convolutions where that is the same"
        " function; inductor compiles that with torch.compile.",
        origin="rtk",
    )
    evaluation_seed: int = EVALUATION_SEED
    evaluation_batch_size: int | None = EVALUATION_BATCH
    observe: tuple[str, ...] = option(
        (), "Observers that look on, joined by commas, e.g. tensorboard; see: rtk plugins.", origin="rtk"
    )
    out: Path | None = option(None, "Run directory; by default runs/STRATEGY-DATA-HASH.", origin="rtk")


COMMAND = ("strategy", "config", "force", "quiet", "time_limit", "help", "traceback", "no_plugins")
"""Options of the command line itself."""


def reserved() -> set[str]:
    """Names that no option of a strategy may have."""
    return {*RunOptions.model_fields, *COMMAND}


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
        return own is not None and _resolved(own) != _resolved(self.dataset)

    @property
    def source_sha256(self) -> str | None:
        """Of the code that the strategy is written in; None when it has no file.

        Its file; of a package, which may hold what it is made of, all of its Python files. rtk's own strategies need
        no other file of their package.
        """
        source = inspect.getsourcefile(self.strategy)
        if source is None:
            return None
        package = sys.modules.get(self.strategy.__module__.partition(".")[0])
        roots = [] if self.plugin.distribution == OWN else [Path(root) for root in getattr(package, "__path__", ())]
        found = sorted({path for root in roots for path in root.rglob("*.py")} | {Path(source)})
        if len(found) == 1:
            return files.unchanged_sha256(found[0])
        return files.digest([[f"{path.parent.name}/{path.name}", files.unchanged_sha256(path)] for path in found])

    @property
    def observers(self) -> list[dict[str, Any]]:
        """The plugins that look on, as a result records them."""
        return [_describe_observer(Registry(group=OBSERVERS).plugin(name)) for name in self.options.observe]

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


def _describe_observer(plugin: Plugin) -> dict[str, Any]:
    found = importlib.util.find_spec(plugin.entry.module)
    source = Path(found.origin) if found and found.origin else None
    return {
        "name": plugin.name,
        "plugin": plugin.value,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "source_sha256": files.unchanged_sha256(source) if source and source.is_file() else None,
    }


def own_dataset(backbone: str) -> str | None:
    """The data set that a backbone was trained on, as far as its id tells."""
    kind, _, rest = backbone.partition(":")
    if kind == "rtk":
        found = embedded().get(rest, {}).get("dataset")
        return str(found) if found else None
    if kind == "robustbench":
        return rest.split("/")[0]
    if kind == "run":
        return str(rundir.read_config(Path(rest))["options"]["dataset"])
    return None


def _resolved(uri: str) -> str:
    """A data set by one name, however the path to its files is spelt."""
    scheme, _, rest = uri.partition(":")
    if scheme not in ("npz", "folder") or not rest:
        return uri
    try:
        return f"{scheme}:{Path(rest).expanduser().resolve()}"
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, no such user
        return uri


def build(
    name: str, flags: Mapping[str, Any], file: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> Request:
    """Resolve defaults, configuration file and flags into a Request.

    Args:
        name: of the strategy.
        flags, file: option names with underscores, to values or to their text; hyphens do as well.

    Raises:
        RequestError: UnknownName, BadValue, ... with what is allowed; nothing heavy was imported.
        PluginError: the strategy cannot be loaded.
    """
    registry = registry or Registry()
    plugin, strategy = registry.plugin(name), registry.strategy(name)
    for kind, given in (("option", flags), ("option in the configuration file", file or {})):
        _check_names(kind, given, strategy)
    check_file(file or {})
    options = resolve(RunOptions, _of(RunOptions, flags), _of(RunOptions, file or {}))
    config = resolve(strategy.config_type, _of(strategy.config_type, flags), _of(strategy.config_type, file or {}))
    assert isinstance(options, RunOptions)
    request = Request(strategy, plugin, config, options)
    _check(request)
    return request


def _check_names(kind: str, given: Mapping[str, Any], strategy: type[Strategy]) -> None:
    known = [*RunOptions.model_fields, *strategy.config_type.model_fields]
    for key in given:
        if key.replace("-", "_") not in known:
            raise UnknownName(kind, flag(key), map(flag, known), f"rtk finetune --strategy {strategy.name} --help")


def _of(kind: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key.replace("-", "_") in kind.model_fields}


def _check(request: Request) -> None:
    """Everything that can be refused without torch; what needs it is refused where it is opened."""
    options = request.options
    if options.eps is not None:
        Threat(
            options.norm or "L2", options.eps
        )  # L2 has the wider bounds; with the backbone's norm it is checked later
    check_backbone(options.backbone)
    check_weights(options.weights)
    check_dataset(request.dataset)
    for name in options.observe:
        Registry(group=OBSERVERS).plugin(name)
    if request.strategy.setting == "source" and request.new_data:
        raise Refusal(
            f"{request.strategy.name} fine-tunes on the data that the backbone was trained on;"
            f" {options.backbone} was not trained on {request.dataset}.",
            "leave out --dataset, or choose a strategy for new data: rtk strategies",
        )


def check_backbone(uri: str) -> None:
    """Refuse a URI that cannot be right; timm's and torchvision's names are known only to those libraries."""
    source, name = split_uri(uri)
    if source == "rtk" and name not in embedded():
        raise UnknownName("embedded backbone", name, embedded(), "rtk backbones rtk:")
    if source == "robustbench":
        split_zoo(name)
    if source == "run":
        rundir.read_config(Path(name))


def check_weights(weights: str | None) -> None:
    """Refuse a checkpoint that is not there; what is in it is judged when it is read."""
    if weights not in (None, "random") and not files.there(weights):
        raise BadBackbone(f"--weights {weights}: no such file.", "--weights FILE, or --weights random")


def check_dataset(uri: str) -> None:
    """Refuse a data set whose name is not known or whose files are not there."""
    scheme, colon, rest = uri.partition(":")
    if not colon:
        info = find_info(uri)
        if info is None or info.kind == "file":
            raise UnknownName("data set", uri, [known.name for known in list_datasets()], _scheme_hint(uri))
    elif scheme not in ("npz", "folder"):
        raise UnknownName("data set scheme", scheme, ("npz", "folder"), "rtk datasets")
    elif not rest or not files.there(rest):
        what, wanted = ("file", "npz:FILE") if scheme == "npz" else ("folder", "folder:PATH")
        raise BadData(f"--dataset {uri}: no such {what}.", f"--dataset {wanted}")


def _scheme_hint(uri: str) -> str:
    """What to type when a path was given without its scheme."""
    if uri.endswith(".npz"):
        return f"--dataset npz:{uri}"
    return f"--dataset folder:{uri}" if uri and files.there(uri) else "rtk datasets"
