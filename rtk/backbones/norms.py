"""Which normalisation layers a network has: what decides whether TWINS, statistics reuse and the like apply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

_LABELS = {
    "batch": "BatchNorm",
    "batch_without_stats": "BatchNorm without running statistics",
    "frozen_batch": "FrozenBatchNorm",
    "sync_batch": "SyncBatchNorm",
    "layer": "LayerNorm",
    "group": "GroupNorm",
    "instance": "InstanceNorm",
    "rms": "RMSNorm",
}


@dataclass(frozen=True)
class NormAudit:
    """Number of normalisation layers by kind; `batch` counts those with running statistics."""

    batch: int = 0
    batch_without_stats: int = 0
    frozen_batch: int = 0
    sync_batch: int = 0
    layer: int = 0
    group: int = 0
    instance: int = 0
    rms: int = 0

    def __str__(self) -> str:
        found = [f"{count} {_LABELS[kind]}" for kind, count in asdict(self).items() if count]
        return ", ".join(found) or "no normalisation layers"

    @property
    def running_statistics(self) -> int:
        """Layers that keep running statistics and update them while training."""
        return self.batch + self.sync_batch


def audit(modules: Iterable[nn.Module]) -> NormAudit:
    """Count the normalisation layers among `modules`."""
    counts: dict[str, int] = {}
    for module in modules:
        kind = norm_kind(module)
        if kind is not None:
            counts[kind] = counts.get(kind, 0) + 1
    return NormAudit(**counts)


def norm_kind(module: nn.Module) -> str | None:
    """The field of `NormAudit` that counts this module, or None when it is no normalisation layer.

    Libraries ship layers of their own that do not derive from torch's; those are known by their class name.
    """
    name = type(module).__name__.casefold().replace("_", "")
    if isinstance(module, nn.SyncBatchNorm):
        return "sync_batch"
    if "frozenbatchnorm" in name:
        return "frozen_batch"
    if isinstance(module, _BatchNorm) or name.startswith("batchnorm"):
        return "batch_without_stats" if getattr(module, "running_mean", None) is None else "batch"
    if isinstance(module, nn.LayerNorm) or name.startswith("layernorm"):
        return "layer"
    if isinstance(module, nn.GroupNorm) or name.startswith("groupnorm"):
        return "group"
    if isinstance(module, _InstanceNorm) or name.startswith("instancenorm"):
        return "instance"
    return "rms" if "rmsnorm" in name else None
