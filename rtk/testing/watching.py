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

from ..seeds import derive

Access = tuple[Callable[[], Any], Callable[[Any], Any]]
"""How to read a piece of global state, and how to set it."""

RANDOM: dict[str, Access] = {
    "torch": (lambda: torch.get_rng_state().numpy(), lambda state: torch.set_rng_state(torch.from_numpy(state))),
    "numpy": (np.random.get_state, np.random.set_state),
    "random": (random.getstate, random.setstate),
}

SETTINGS: dict[str, Access] = {
    "torch.set_grad_enabled": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.set_default_dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.use_deterministic_algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch.set_num_threads": (torch.get_num_threads, torch.set_num_threads),
    "torch.set_float32_matmul_precision": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "torch.autograd.set_detect_anomaly": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch.backends.cudnn.benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        lambda value: setattr(torch.backends.cudnn, "benchmark", value),
    ),
    "torch.backends.cudnn.deterministic": (
        lambda: torch.backends.cudnn.deterministic,
        lambda value: setattr(torch.backends.cudnn, "deterministic", value),
    ),
}


class Interruption(KeyboardInterrupt):
    """A Ctrl-C of the kit's own; one of the user's is another."""


def moved(before: dict[str, Any], table: dict[str, Access]) -> list[str]:
    """Names in `table` whose state is no longer `before`."""
    return [name for name, (read, _) in table.items() if pickle.dumps(read()) != pickle.dumps(before[name])]


def state_of(table: dict[str, Access]) -> dict[str, Any]:
    """What every entry of the table reads now."""
    return {name: read() for name, (read, _) in table.items()}


@contextmanager
def preserved() -> Iterator[None]:
    """Random states and settings of the caller are as before at the end, whatever a strategy did to them."""
    kept = [(write, read()) for table in (RANDOM, SETTINGS) for read, write in table.values()]
    try:
        yield
    finally:
        for write, value in kept:
            write(value)


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
