"""Accuracy on one split, without and under an attack: what epochs, alphas and modules are selected by."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from . import processes
from .attacks import Attack, frozen
from .backbones.folded import fold
from .data import Batch, Loader
from .memory import Memory
from .seeds import derive
from .statistics import Estimate


def correct(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> Tensor:
    """Whether each image is classified as labelled, bool (N,), with at most `batch` of them in the network at once.

    In evaluation mode; NaN or infinite logits are wrong.
    """
    if len(images) == 0:
        return torch.zeros(0, dtype=torch.bool, device=images.device)
    with frozen(model), torch.no_grad():
        logits = torch.cat([model(part).float() for part in images.split(batch)])
    return (logits.argmax(1) == labels) & torch.isfinite(logits).all(1)


def estimate(model: nn.Module, loader: Loader, memory: Memory, attack: Attack | None = None, seed: int = 0) -> Estimate:
    """Share of a split that is classified correctly, and still is under `attack`; each process judges some batches.

    As in an evaluation, what is wrong without the attack is not attacked, and the attack searches on the network with
    BatchNorm folded into its convolutions, which is sooner done; the network itself judges what it finds.

    Args:
        seed: of the attack.
    """
    group = processes.current()
    searched: nn.Module | None = None

    def right(position: int, batch: Batch, at_once: int) -> int:
        nonlocal searched
        kept = correct(model, batch.images, batch.labels, at_once)
        if attack is None or not kept.any():
            return int(kept.sum())
        images, labels = batch.images[kept], batch.labels[kept]
        if searched is None:
            with frozen(model):
                searched, _ = fold(model, images)
        adversarial = attack(searched, images, labels, seed=derive(seed, position), batch=at_once)
        return int(correct(model, adversarial, labels, at_once).sum())

    found = n = 0
    for position, batch in enumerate(loader):
        if position % group.size == group.rank:
            found += memory.run(partial(right, position, batch))
        n += len(batch.labels)
    return Estimate(int(group.sum(found)), n)
