"""One forward pass, watched: which modules of a network run, in which order, and what goes through them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadBackbone
from .classifier import Classifier


@dataclass
class Trace:
    """What one forward pass of `model.net` showed.

    Attributes:
        order: names of the modules that ran, relative to `net`, in the order of their first call.
        entries, exits: nodes of the autograd graph that produced a module's inputs and outputs, at its first call.
        linear_outputs: last output of every nn.Linear that ran.
        logits: what the classifier returned.
    """

    order: list[str] = field(default_factory=list)
    entries: dict[str, list[Any]] = field(default_factory=dict)
    exits: dict[str, list[Any]] = field(default_factory=dict)
    linear_outputs: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def feeds(self, first: str, second: str) -> bool:
        """Whether what module `second` was given was computed from what module `first` returned."""
        wanted = set(self.exits.get(first, ()))
        waiting = deque(self.entries.get(second, ()))
        known = set(waiting)
        while waiting:  # breadth first: in a chain the wanted node is a few steps away
            node = waiting.popleft()
            if node in wanted:
                return True
            for earlier, _ in node.next_functions:
                if earlier is not None and earlier not in known:
                    known.add(earlier)
                    waiting.append(earlier)
        return False


def trace(model: Classifier, example: Tensor) -> Trace:
    """Run `model` once on `example` (N, C, H, W) in eval mode; modes, buffers and random state are as before after it.

    Raises:
        BadBackbone: the forward fails or gives no logits (N, classes).
    """
    record = Trace()
    hooks = []
    for name, module in model.net.named_modules():
        if name:
            hooks.append(module.register_forward_pre_hook(partial(_note_input, record, name), with_kwargs=True))
            hooks.append(module.register_forward_hook(partial(_note_output, record, name)))
    try:
        with untouched(model), torch.enable_grad():
            # The image requires a gradient so that there is a graph even when every parameter is frozen.
            record.logits = model(example.detach().clone().requires_grad_())
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, IndexError) as problem:
        shape = tuple(example.shape)
        reason = (str(problem).splitlines() or [type(problem).__name__])[0][:160]
        raise BadBackbone(f"The backbone fails on images of shape {shape}: {reason}.") from problem
    finally:
        for hook in hooks:
            hook.remove()
    if record.logits.ndim != 2 or len(record.logits) != len(example):
        shape = tuple(record.logits.shape)
        raise BadBackbone(
            f"The backbone gives an output of shape {shape} for one image; logits (N, classes) are needed."
        )
    return record


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module's mode, every buffer and the random state are what they were."""
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    cards = {tensor.device.index or 0 for tensor in model.parameters() if tensor.is_cuda}
    model.eval()
    try:
        with torch.random.fork_rng(devices=sorted(cards)):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


def _note_input(record: Trace, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if name not in record.entries:
        record.order.append(name)
        record.entries[name] = _nodes((args, kwargs))


def _note_output(record: Trace, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    record.exits.setdefault(name, _nodes(output))
    if isinstance(module, nn.Linear):
        record.linear_outputs[name] = output


def _nodes(value: Any) -> list[Any]:
    """The graph nodes of all tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [] if value.grad_fn is None else [value.grad_fn]
    if isinstance(value, dict):
        value = list(value.values())
    return [node for item in value for node in _nodes(item)] if isinstance(value, list | tuple) else []
