"""Cut a network at some of its weights, so that what does not depend on them is computed once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

from .classifier import Classifier
from .trace import untouched

Before = Callable[[Tensor], tuple[Tensor, ...]]


class Operations:
    """The operations of a network in evaluation mode, in the order in which they run.

    Args:
        model: in evaluation mode; shares its parameters with everything that is made of it.
    """

    def __init__(self, model: Classifier, traced: fx.GraphModule, images: Tensor):
        self.model = model
        self.net = traced
        self.nodes = [node for node in traced.graph.nodes if node.op != "output"]
        (self.result,) = (node.args[0] for node in traced.graph.nodes if node.op == "output")
        values = _run(traced, self.nodes, {}, model.prepared(images), wanted=self.nodes)
        self.rows = {node for node in self.nodes if _has_rows(values[node], len(images))}
        self.same = torch.equal(values[self.result], model(images))

    @classmethod
    def of(cls, model: nn.Module, images: Tensor) -> Operations | None:
        """Trace a `Classifier` symbolically; None where that does not give the same logits on `images` (N, C, H, W)."""
        if not isinstance(model, Classifier):
            return None
        try:
            with untouched(model), torch.no_grad():
                found = cls(model, fx.symbolic_trace(model.net), images)
        except Exception:  # control flow that depends on values fails in as many ways as there are networks
            return None
        return found if found.same else None

    def split_at(self, *parameters: str) -> tuple[Before, After] | None:
        """What comes before the parameters of these native names, and what depends on them; None where none is used.

        `after(*before(images))` are the logits, by the same operations as those of the whole network. Every tensor
        between the two has the images as its first dimension.
        """
        used = [node for node in self.nodes if any(self._uses(node, each) for each in parameters)]
        if not used:
            return None
        later: set[fx.Node] = set()
        for node in self.nodes:
            if node in used or not later.isdisjoint(node.all_input_nodes):
                later.add(node)
        # numbers, such as a size, and tensors without rows are computed again, from tensors that have them
        while rest := {node for node in self._between(later) if node not in self.rows}:
            later |= rest
        between = self._between(later)
        earlier = self._needed(between)

        def before(images: Tensor) -> tuple[Tensor, ...]:
            with untouched(self.model), torch.no_grad():
                values = _run(self.net, earlier, {}, self.model.prepared(images), wanted=between)
            return tuple(values[node] for node in between)

        return before, After(self.net, [node for node in self.nodes if node in later], between, self.result)

    def _between(self, later: set[fx.Node]) -> list[fx.Node]:
        """What `later` needs of the other nodes."""
        return [node for node in self.nodes if node not in later and not later.isdisjoint(node.users)]

    def _needed(self, wanted: list[fx.Node]) -> list[fx.Node]:
        """Everything that has to be computed for `wanted`."""
        found = set(wanted)
        for node in reversed(self.nodes):
            if node in found:
                found.update(node.all_input_nodes)
        return [node for node in self.nodes if node in found]

    def _uses(self, node: fx.Node, parameter: str) -> bool:
        if node.op not in ("call_module", "get_attr"):
            return False
        return parameter == node.target or parameter.startswith(f"{node.target}.")


class After(nn.Module):
    """The operations that depend on some parameters; the parameters have the names that they have in a `Classifier`."""

    def __init__(self, net: fx.GraphModule, nodes: list[fx.Node], between: list[fx.Node], result: fx.Node):
        super().__init__()
        self.net = net
        self.nodes, self.between, self.result = nodes, between, result

    def forward(self, *values: Tensor) -> Tensor:
        """What `before` returned to logits (N, classes)."""
        known = dict(zip(self.between, values, strict=True))
        found: Tensor = _run(self.net, self.nodes, known, wanted=[self.result])[self.result]
        return found


def _run(
    net: fx.GraphModule,
    nodes: list[fx.Node],
    values: dict[fx.Node, Any],
    *inputs: Tensor,
    wanted: Collection[fx.Node],
) -> dict[fx.Node, Any]:
    """The values of the nodes that are `wanted`; every other one goes as soon as nothing needs it any more."""
    interpreter = fx.Interpreter(net)
    interpreter.args_iter = iter(inputs)
    interpreter.env = dict(values)
    last = {needed: node for node in nodes for needed in node.all_input_nodes}
    kept = set(wanted)
    for node in nodes:
        interpreter.env[node] = interpreter.run_node(node)
        for needed in node.all_input_nodes:
            if last[needed] is node and needed not in kept:
                interpreter.env.pop(needed, None)
    return interpreter.env


def _has_rows(value: Any, count: int) -> bool:
    """Whether it is a tensor with a row for each image; that of two images is taken for one of a batch of any size."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count
