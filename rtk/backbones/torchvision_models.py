"""`torchvision:NAME`: classification models of torchvision, e.g. torchvision:resnet18."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BadBackbone, UnknownName
from ..threat import Threat
from .source import Source, Spec, check_published, need

_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
# Their pre-trained weights expect [-1, 1]; torchvision hides that in an option of the constructor (transform_input).
_FROM_TENSORFLOW = frozenset({"googlenet", "inception_v3"})
_STATED = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # NAME-HASH.pth: the beginning of the file's SHA-256
_SIGNED = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


class TorchvisionSource(Source):
    """torchvision's architectures with ImageNet normalisation."""

    def spec(self, name: str) -> tuple[Spec, Threat | None]:
        _check(name)
        side = _weights(name).transforms().crop_size[0]
        spec = {"family": "torchvision", "name": name, "native_classes": 1000}
        spec |= _SIGNED if name in _FROM_TENSORFLOW else _IMAGENET
        spec["size"] = [side, side]
        return spec, None

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        _check(spec["name"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = need("torchvision.models", "torchvision").get_model(spec["name"], weights=None)
        if hasattr(net, "transform_input"):
            net.transform_input = False
        return net

    def locate(self, spec: Mapping[str, Any]) -> Path:
        url = _weights(spec["name"]).url
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        if not path.is_file():
            raise BadBackbone(
                f"torchvision:{spec['name']}: its weights are not on this machine; put them at {path}, or name the "
                "file with --weights FILE.",
                f"mkdir -p {path.parent} && curl -L -o {path} {url}",
            )
        stated = _STATED.search(url)
        return check_published(path, stated[1], f"torchvision:{spec['name']}") if stated else path


def _check(name: str) -> None:
    models = need("torchvision.models", "torchvision")
    known = models.list_models(module=models)
    if name not in known:
        raise UnknownName("torchvision model", name, known)


def _weights(name: str) -> Any:
    """torchvision's record of the weights to take: its default, of those that fit the size the network is built for."""
    choices = need("torchvision.models", "torchvision").get_model_weights(name)
    at_224 = [each for each in choices if each.transforms().crop_size[0] == 224]
    fixed = name.startswith("vit_")  # built for 224; some of its weights need another size
    return at_224[-1] if fixed and choices.DEFAULT not in at_224 else choices.DEFAULT
