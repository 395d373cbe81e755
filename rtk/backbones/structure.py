"""What fine-tuning strategies have to know about a network: its classifier, its blocks and its norm layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import BadBackbone, BadValue, Refusal, UnknownName
from .classifier import Classifier
from .norms import NormAudit, audit, norm_kind
from .partition import Block, find_blocks, partition
from .trace import Trace, trace

__all__ = ["Block", "NormAudit", "Structure", "Tail", "inspect"]


@dataclass(frozen=True)
class Tail:
    """The last blocks of a network, by name.

    Attributes:
        blocks: their names, in execution order.
        modules: the modules of which they consist.
        trainable, statistics: what moves, as arguments of `run.fit`.
    """

    blocks: tuple[str, ...]
    modules: tuple[str, ...]
    trainable: tuple[str, ...]
    statistics: Literal["update"] | tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """The anatomy of one network, by name; names are relative to `Classifier.net`.

    Attributes:
        head: the classifier, an nn.Linear.
        feature_dim: its number of inputs.
        stem: what runs before the first block; modules, and parameters that belong to no layer (class token).
            Empty when no blocks were found.
        unused: modules with parameters that never run.
        norms: how many normalisation layers of which kind run.
        norm_layers: their names, in execution order.
        parameters: names of all parameters.
        chain: the blocks, or empty when none were found; use `blocks`, which raises then.
    """

    head: str
    feature_dim: int
    stem: tuple[str, ...]
    unused: tuple[str, ...]
    norms: NormAudit
    norm_layers: tuple[str, ...]
    parameters: tuple[str, ...]
    chain: tuple[Block, ...]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks in execution order, the classifier last; the stem is in none.

        Raises:
            BadBackbone: the network has no chain of blocks that can be found without help.
        """
        if not self.chain:
            raise BadBackbone(
                "No ordered blocks were found in this backbone (wanted: at least two numbered residual or transformer "
                "blocks in a chain).",
                "--blocks NAME,NAME,... with the modules in order",
            )
        return self.chain

    def last(self, count: int) -> tuple[Block, ...]:
        """The last `count` blocks in execution order; `last(1)` is the classifier.

        Raises:
            BadValue: count is not in 1..L.
            BadBackbone: no blocks were found.
        """
        total = len(self.blocks)
        if not 1 <= count <= total:
            raise BadValue(f"Asked for the last {count} blocks (allowed: 1 to {total} for this backbone).")
        return self.blocks[total - count :]

    def tail(self, count: int, *, reuse_statistics: bool | None = None, freeze_affine: bool = False) -> Tail:
        """What moves when the last `count` blocks are fine-tuned and everything before them stays.

        Args:
            reuse_statistics: running statistics before the tail stay (True), or adapt (False); None: they stay where
                there are any. Those in the tail always adapt.
            freeze_affine: weights and biases of norm layers in the tail stay as well.

        Raises:
            BadValue, BadBackbone: see `last`.
            Refusal: statistics are to be reused, but the network has none.
        """
        blocks = self.last(count)
        if reuse_statistics and not self.norms.running_statistics:
            raise Refusal(
                f"There are no running statistics to reuse in this backbone ({self.norms}).",
                "leave out --reuse-statistics",
            )
        modules = tuple(module for block in blocks for module in block.modules)
        fixed = self.parameters_in(self.norm_layers) if freeze_affine else ()
        return Tail(
            blocks=tuple(block.name for block in blocks),
            modules=modules,
            trainable=tuple(name for name in self.parameters_in(modules) if name not in fixed),
            statistics="update" if reuse_statistics is False else modules,
        )

    def parameters_in(self, names: Iterable[str]) -> tuple[str, ...]:
        """Names of the parameters that lie in the given modules (or are given themselves), in the network's order."""
        wanted = tuple(names)
        return tuple(
            name for name in self.parameters if any(name == each or name.startswith(each + ".") for each in wanted)
        )

    def named_parameters(self, model: Classifier, names: Iterable[str]) -> dict[str, nn.Parameter]:
        """The parameters of `model` that lie in the given modules, by native name."""
        wanted = set(self.parameters_in(names))
        return {name: parameter for name, parameter in model.net.named_parameters() if name in wanted}

    def head_of(self, model: Classifier) -> nn.Linear:
        """The classifier layer of `model`."""
        layer = model.net.get_submodule(self.head)
        assert isinstance(layer, nn.Linear)
        return layer

    def draw_head(self, model: Classifier, seed: int) -> None:
        """Draw weights and biases of the classifier from U[0, 1), as in CARTL's published code."""
        layer = self.head_of(model)
        generator = torch.Generator(layer.weight.device).manual_seed(seed)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, generator=generator)

    def features(self, model: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
        """(logits (N, classes), penultimate features (N, feature_dim)) of one forward; gradients flow through both."""
        caught: list[Tensor] = []
        hook = self.head_of(model).register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            logits = model(images)
        finally:
            hook.remove()
        return logits, caught[-1].flatten(1)


def inspect(
    model: Classifier, example: Tensor, head: str | None = None, blocks: Sequence[str] | None = None
) -> Structure:
    """Find out the structure of `model` by one forward pass in eval mode; the model is unchanged afterwards.

    Args:
        example: images (N, C, H, W) in [0, 1], on the model's device; one small image is enough.
        head: name of the classifier when it cannot be found.
        blocks: names of the blocks when they cannot be found; the classifier and a final norm are added.

    Raises:
        BadBackbone: no classifier was found or several could be it; the forward fails.
        UnknownName: `head` or `blocks` names no module.
    """
    seen = trace(model, example)
    modules = dict(model.net.named_modules())
    found = _find_head(modules, seen) if head is None else _check_head(head, modules, seen)
    starts = find_blocks(model.net, seen) if blocks is None else _check_blocks(blocks, found, modules, seen)
    starts = [name for name in starts if name != found]
    stem, chain, unused = partition(model.net, seen, starts, found)
    layer = modules[found]
    assert isinstance(layer, nn.Linear)
    return Structure(
        head=found,
        feature_dim=layer.in_features,
        stem=stem if starts else (),
        unused=unused,
        norms=audit(modules[name] for name in seen.order),
        norm_layers=tuple(name for name in seen.order if norm_kind(modules[name])),
        parameters=tuple(name for name, _ in model.net.named_parameters()),
        chain=chain if starts else (),
    )


def _find_head(modules: dict[str, nn.Module], seen: Trace) -> str:
    shape = seen.logits.shape
    fitting = [name for name, output in seen.linear_outputs.items() if output.shape == shape]
    exact = [name for name in fitting if seen.linear_outputs[name] is seen.logits]
    if len(exact) == 1:
        return exact[0]
    if len(fitting) == 1:
        return fitting[0]
    linear = fitting or list(seen.linear_outputs)[-6:]
    if not linear:
        raise BadBackbone(
            "No classifier was found: the backbone has no nn.Linear layer, and a convolution as classifier is not "
            "supported; choose another backbone."
        )
    reason = "several layers could be it" if fitting else f"no nn.Linear gives the {shape[1]} logits"
    raise BadBackbone(f"No classifier was found: {reason}. Candidates: {', '.join(linear)}.", f"--head {linear[-1]}")


def _check_head(head: str, modules: dict[str, nn.Module], seen: Trace) -> str:
    linear = [name for name in seen.order if isinstance(modules[name], nn.Linear)]
    if head not in modules or not head:
        raise UnknownName("--head", head, linear)
    if not isinstance(modules[head], nn.Linear):
        kind = type(modules[head]).__name__
        listed = ", ".join(linear[-6:]) or "none"
        raise BadBackbone(f"--head {head}: is a {kind}; an nn.Linear is needed (candidates: {listed}).")
    output = seen.linear_outputs.get(head)
    if output is None or output.ndim != 2:
        raise BadBackbone(f"--head {head}: does not run once per image in a forward pass, so it is no classifier.")
    return head


def _check_blocks(blocks: Sequence[str], head: str, modules: dict[str, nn.Module], seen: Trace) -> list[str]:
    if len(set(blocks)) != len(blocks) or not blocks:
        raise BadBackbone(f"--blocks {','.join(blocks)}: needs at least one name, and each name once.")
    for name in blocks:
        if name not in modules or not name:
            raise UnknownName("block", name, [each for each in modules if each], "--blocks NAME,NAME,...")
        if name not in seen.order:
            raise BadBackbone(f"--blocks: '{name}' does not run in a forward pass.")
        nested = [other for other in (*blocks, head) if other.startswith(name + ".")]
        if nested:
            raise BadBackbone(
                f"--blocks: '{name}' contains '{nested[0]}'; blocks (and the classifier) must not overlap."
            )
    return sorted(blocks, key=seen.order.index)
