"""Seeing what a strategy does to its process: random states, torch's settings, every forward pass."""

from __future__ import annotations

import pickle
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ..process_state import Access
from ..seeds import derive


class Interruption(KeyboardInterrupt):
    """A Ctrl-C of the kit's own; one of the user's is another."""


def moved(before: dict[str, Any], table: dict[str, Access]) -> list[str]:
    """Names in `table` whose state is no longer `before`."""
    return [name for name, (read, _) in table.items() if pickle.dumps(read()) != pickle.dumps(before[name])]


def state_of(table: dict[str, Access]) -> dict[str, Any]:
    """What every entry of the table reads now."""
    return {name: read() for name, (read, _) in table.items()}


def seed_globally(key: int) -> None:
    """Seed torch, numpy and random for `key`, with a seed that no strategy hits upon."""
    seed = derive(key, "global") % 2**32  # numpy takes no more
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def forwards(see: Callable[[nn.Module, tuple[Any, ...]], None]) -> Iterator[None]:
    """`see(module, arguments)` is called before every forward pass of every module, whoever made it."""

    def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        see(module, arguments)

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class Counter:
    """Counts forward passes of modules, and sends SIGTERM at number `stop`."""

    def __init__(self, stop: int | None = None):
        self.stop = stop
        self.count = 0

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.count += 1
        if self.count == self.stop:
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def interrupted(count: int) -> Iterator[None]:
    """SIGTERM comes with a forward pass, which `run.fit` takes after its step and everything else at once."""

    def stop(*_: object) -> None:
        raise Interruption

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with forwards(Counter(count)):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
