"""What an adapter to a library of backbones has to provide."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from .. import files
from ..errors import BadBackbone
from ..threat import Threat
from .naming import Converter, complete

# Everything needed to build an architecture again, as JSON:
#   family, name        which adapter, and what it calls the network
#   native_classes      outputs of the classifier that the adapter builds
#   classes, head       outputs of the classifier in use, and its name in the network
#   mean, std, size     of the Classifier around it
Spec = dict[str, Any]


class Source:
    """One library of backbones. Nothing of the library is imported before a method is called."""

    def spec(self, name: str) -> tuple[Spec, Threat | None]:
        """The architecture that `name` stands for, and the threat that its weights were trained for.

        Raises:
            UnknownName, BadBackbone: no such backbone.
        """
        raise NotImplementedError

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        """The network with random weights and `native_classes` outputs; draws from torch's global random state."""
        raise NotImplementedError

    def locate(self, spec: Mapping[str, Any]) -> Path:
        """The file that holds the pre-trained weights, its hash checked where its publisher states one.

        Raises:
            BadBackbone: it is not on this machine, and the message says where to get it and where to put it; or it is
                another file than the published one.
        """
        raise NotImplementedError

    def entry(self, spec: Mapping[str, Any]) -> str | None:
        """Which state dict to take from a file that holds several."""
        return None

    def converter(self, net: nn.Module) -> Converter | None:
        """Translates checkpoints of older formats for this network."""
        return None

    def mend(self, spec: Mapping[str, Any], state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add what the checkpoint may omit, drop what it may hold beyond the network's `own` state."""
        return complete(state, own)


def check_published(path: Path, published: str, what: str) -> Path:
    """`path`, once its SHA-256 is known to begin with what its publisher states.

    Raises:
        BadBackbone: it does not.
    """
    if not (found := files.unchanged_sha256(path)).startswith(published):
        raise BadBackbone(
            f"{what}: {path} is not the file that was published (SHA-256 {found[: len(published)]}, published "
            f"{published}); delete it and download it again.",
            f"--weights {path}, if you mean this file",
        )
    return path


def need(module: str, package: str) -> ModuleType:
    """Import a module of a library; BadBackbone when that fails, since nothing else of rtk needs it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the libraries; none is for the user to mend
            return importlib.import_module(module)
    except Exception as problem:  # a broken install raises anything while importing
        reason = (str(problem).splitlines() or [type(problem).__name__])[0][:160]
        raise BadBackbone(f"{package} cannot be imported: {reason}.", "rtk doctor") from problem


def timm_converter(net: nn.Module) -> Converter | None:
    """timm's own translation of old checkpoints, for a timm network that may be wrapped as (normalize, model)."""
    inner = getattr(net, "model", net)
    function = getattr(sys.modules.get(type(inner).__module__), "checkpoint_filter_fn", None)
    if function is None:
        return None

    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(function({name.removeprefix("model."): value for name, value in state.items()}, inner))

    return convert
