"""`rtk:NAME`: the backbones that come with the package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import BadBackbone, UnknownName
from ..threat import Threat
from .catalogue import embedded, embedded_file, threat_of
from .resnet import SmallResNet
from .source import Source, Spec

_ARCHITECTURES = {"small-resnet": SmallResNet}
_SHAPE = ("widths", "depths")


class EmbeddedSource(Source):
    """Small networks whose weights are files of the package, described by a sidecar NAME.json."""

    def spec(self, name: str) -> tuple[Spec, Threat | None]:
        known = embedded()
        if name not in known:
            raise UnknownName("embedded backbone", name, known, "--backbone rtk:fashion-resnet")
        facts = known[name]
        spec = {"family": "rtk", "name": name, "architecture": facts["architecture"]}
        spec |= {"native_classes": facts["classes"], "mean": facts["mean"], "std": facts["std"], "size": facts["size"]}
        spec |= {key: facts[key] for key in _SHAPE if key in facts}
        return spec, threat_of(facts)

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        kind = spec.get("architecture", "")
        if kind not in _ARCHITECTURES:
            raise UnknownName("embedded architecture", kind, _ARCHITECTURES)
        shape = {key: spec[key] for key in _SHAPE if key in spec}
        return _ARCHITECTURES[kind](classes=spec["native_classes"], **shape)

    def locate(self, spec: Mapping[str, Any]) -> Path:
        name = spec["name"]
        path = Path(str(embedded_file(name)))
        if not path.is_file():
            raise BadBackbone(f"rtk:{name}: its weights {path.name} are not installed in rtk/assets.", "--weights FILE")
        wanted = embedded()[name].get("sha256")
        if wanted and hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            raise BadBackbone(f"rtk:{name}: {path.name} is not the file that was published (sha256); reinstall rtk.")
        return path
