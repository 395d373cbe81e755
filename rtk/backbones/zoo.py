"""`robustbench:DATASET/THREAT/NAME`: the RobustBench model zoo, from checkpoints on disk; nothing is downloaded."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from .. import files
from ..errors import BadBackbone
from ..threat import Threat
from .catalogue import ENSEMBLES, ZOO_CLASSES, split_zoo, zoo_threat
from .naming import Converter
from .source import Source, Spec, need, timm_converter

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

# Files with a second state dict, where RobustBench takes the last epoch's.
_LAST_EPOCH = frozenset({"Andriushchenko2020Understanding"})
# Files for which RobustBench itself ignores leftovers of training (auxiliary heads, pruning scores).
_LEFTOVERS = frozenset(
    {"Andriushchenko2020Understanding", "Augustin2020Adversarial", "Augustin2020Adversarial_34_10"}
    | {"Augustin2020Adversarial_34_10_extra", "Chen2020Efficient", "Engstrom2019Robustness", "Wu2020Adversarial"}
    | {"Huang2022Revisiting_WRN-A4", "Pang2020Boosting", "Rice2020Overfitting", "Rony2019Decoupling", "Wong2020Fast"}
)


class ZooSource(Source):
    """Every Linf and L2 entry of the zoo except ensembles. The networks normalise by themselves."""

    def spec(self, name: str) -> tuple[Spec, Threat | None]:
        dataset, norm, model = split_zoo(name)
        if model in ENSEMBLES:
            raise BadBackbone(
                f"--backbone robustbench:{name}: mixes the probabilities of several networks; there is no single "
                "classifier to fine-tune. Choose one network.",
                "rtk backbones",
            )
        side = (288 if model == "Wong2020Fast" else 224) if dataset == "imagenet" else 32
        spec = {"family": "robustbench", "name": name, "native_classes": ZOO_CLASSES[dataset]}
        spec |= {"mean": None, "std": None, "size": [side, side]}
        return spec, zoo_threat(dataset, norm, model)

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        dataset, norm, name = split_zoo(spec["name"])
        package = import_robustbench()
        if "XCiT" in name:
            # The zoo's own entry names a network that timm does not have, and would download.
            timm = need("timm", "timm")
            return timm.create_model(_xcit(dataset, name), pretrained=False, num_classes=ZOO_CLASSES[dataset])
        if name == "Standard_R50":  # the zoo's entry would download
            wrap = need("robustbench.model_zoo.architectures.utils_architectures", "robustbench").normalize_model
            return wrap(need("torchvision.models", "torchvision").resnet50(), IMAGENET["mean"], IMAGENET["std"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _entry(package, dataset, norm, name)["model"]()

    def locate(self, spec: Mapping[str, Any]) -> Path:
        dataset, norm, name = split_zoo(spec["name"])
        tails = [folder / dataset / norm / f"{name}.pt" for folder in model_dirs()]
        for path in tails:
            if path.is_file():
                return path
        import_robustbench()
        command = _download(dataset, norm, name, tails[0])
        elsewhere = f" (or {tails[1]})" if len(tails) > 1 else ""
        raise BadBackbone(
            f"robustbench:{spec['name']}: its checkpoint is not on this machine; rtk downloads nothing. "
            f"Put it at {tails[0]}{elsewhere}, or name it with --weights FILE.",
            f"mkdir -p {tails[0].parent} && {command}",
        )

    def entry(self, spec: Mapping[str, Any]) -> str | None:
        return "last" if spec["name"].rsplit("/", 1)[-1] in _LAST_EPOCH else None

    def converter(self, net: nn.Module) -> Converter | None:
        return timm_converter(net)

    def mend(self, spec: Mapping[str, Any], state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if spec["name"].rsplit("/", 1)[-1] in _LEFTOVERS:
            state = {name: value for name, value in state.items() if name in own}
        return super().mend(spec, state, own)


def load_robustbench(
    name: str, dataset: str = "cifar10", threat_model: str = "Linf", model_dir: str | Path = "models"
) -> nn.Module:
    """RobustBench's own `load_model`, made to import, and only ever from a file that is already there.

    Args:
        name, dataset, threat_model: as RobustBench takes them.
        model_dir: holds DATASET/THREAT/NAME.pt.

    Returns:
        The network in eval mode: images (N, 3, H, W) in [0, 1] to logits.

    Raises:
        BadBackbone: the file is missing, or RobustBench cannot load it.
    """
    dataset, threat_model, name = split_zoo(f"{dataset}/{threat_model}/{name}")
    path = Path(model_dir) / dataset / threat_model / f"{name}.pt"
    ZooSource().spec(f"{dataset}/{threat_model}/{name}")  # refuses ensembles
    import_robustbench()
    if not path.is_file():
        command = _download(dataset, threat_model, name, path)
        raise BadBackbone(f"{path}: no such checkpoint; rtk downloads nothing.", command)
    if "XCiT" in name or name == "Standard_R50":
        # For these load_model takes weights from the internet only; build and load them as open_backbone does.
        from .opening import open_backbone

        return open_backbone(f"robustbench:{dataset}/{threat_model}/{name}", weights=path).model.net.eval()
    utilities = need("robustbench.utils", "robustbench")
    try:
        return utilities.load_model(name, model_dir=model_dir, dataset=dataset, threat_model=threat_model)
    except Exception as problem:  # whatever its loader raises for a damaged file
        reason = (str(problem).splitlines() or [type(problem).__name__])[0][:160]
        raise BadBackbone(f"{path}: RobustBench cannot load it: {reason}.") from problem


def model_dirs() -> list[Path]:
    """Folders that are searched for DATASET/THREAT/NAME.pt: $RTK_MODELS, or the cache and ./models without it."""
    chosen = os.environ.get("RTK_MODELS")
    return [files.home(chosen)] if chosen else [Path.home() / ".cache" / "rtk" / "models", Path("models")]


def import_robustbench() -> ModuleType:
    """Import robustbench's model zoo.

    Release 1.1.1 imports a module `autoattack` that its own requirements do not install. A stand-in is there while it
    is imported, and gone afterwards; the zoo does not use it.
    """
    with _autoattack_exists():
        need("robustbench", "robustbench")
        return need("robustbench.model_zoo", "robustbench")


@contextmanager
def _autoattack_exists() -> Iterator[None]:
    if "autoattack" in sys.modules or importlib.util.find_spec("autoattack") is not None:
        yield
        return
    package, state = ModuleType("autoattack"), ModuleType("autoattack.state")
    package.AutoAttack = _Absent  # type: ignore[attr-defined]
    state.EvaluationState = _Absent  # type: ignore[attr-defined]
    package.state = state  # type: ignore[attr-defined]
    sys.modules.update({"autoattack": package, "autoattack.state": state})
    try:
        yield
    finally:
        del sys.modules["autoattack"], sys.modules["autoattack.state"]


class _Absent:
    """In place of a class of autoattack."""

    def __init__(self, *args: object, **kwargs: object):
        raise ImportError("the package autoattack is not installed; rtk evaluates with torchattacks instead")


def _entry(package: ModuleType, dataset: str, norm: str, name: str) -> dict[str, Any]:
    for key, threats in package.model_dicts.items():
        if key.value == dataset:
            for threat, models in threats.items():
                if threat.value == norm and name in models:
                    return models[name]
    raise BadBackbone(f"robustbench:{dataset}/{norm}/{name}: not in the installed robustbench.", "rtk doctor")


def _xcit(dataset: str, name: str) -> str:
    """The name under which robustbench registers an XCiT in timm; importing the zoo registers it."""
    size = name.rsplit("-", 1)[-1].lower()
    return f"debenedetti2022light_xcit_{size}_{dataset}_linf"


def _download(dataset: str, norm: str, name: str, path: Path) -> str:
    """The command that fetches a checkpoint of the zoo to `path`."""
    if "XCiT" in name:
        configs = need("robustbench.model_zoo.architectures.xcit", "robustbench").default_cfgs
        config = configs[_xcit(dataset, name)]
        return f"curl -L -o {path} {config['url'] if isinstance(config, dict) else config.url}"
    if name == "Standard_R50":
        weights = need("torchvision.models", "torchvision").ResNet50_Weights.IMAGENET1K_V1
        return f"curl -L -o {path} {weights.url}"
    return f"gdown {_entry(import_robustbench(), dataset, norm, name)['gdrive_id']} -O {path}"
