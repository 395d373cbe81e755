"""Cut a network into a stem and an ordered chain of blocks, as layer-wise fine-tuning needs it (CARTL, last-k)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from .trace import Trace

# Residual and transformer blocks are numbered: layer1.0, blocks.11, encoder_layer_3, denselayer2, s1.b1, block1-0.
_NUMBERED = re.compile(r"\d+|b\d+|.*(layer|block|unit)[_-]?\d+(-\d+)?", re.IGNORECASE)
# A change of resolution between two stages is the beginning of the next block, not one of its own.
_BETWEEN = re.compile(r"merg|downsampl|transition", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """A step of the network: `modules` in the order in which they run; the input of the first is the block's input."""

    name: str
    modules: tuple[str, ...]


def find_blocks(net: nn.Module, seen: Trace) -> list[str]:
    """Names of the residual or transformer blocks of `net` in execution order.

    A block is a numbered module, no container, with at least two weight-bearing modules inside, that does not consist
    mostly of such modules itself (then it is a stage). Empty when there are fewer than two blocks, or when one does
    not compute on the output of the one before (Inception, HRNet): then there is no chain, and the user has to name
    the blocks.
    """
    modules = dict(net.named_modules())
    numbered = [name for name in seen.order if _looks_like_block(name, modules[name])]
    chosen: set[str] = set()
    for name in sorted(numbered, key=lambda each: -each.count(".")):
        inner = {other for other in chosen if _within(other, name)}
        if 2 * sum(_size(modules[other]) for other in inner) <= _size(modules[name]):
            chosen = chosen - inner | {name}
    found = [name for name in numbered if name in chosen]
    chained = all(seen.feeds(first, second) for first, second in pairwise(found))
    return found if len(found) >= 2 and chained else []


def partition(
    net: nn.Module, seen: Trace, blocks: Sequence[str], head: str
) -> tuple[tuple[str, ...], tuple[Block, ...], tuple[str, ...]]:
    """(stem, blocks, unused): every parameter of `net` lies in exactly one of them.

    What runs before the first block is the stem, together with parameters that no layer holds (class token, position
    embedding). What runs between two blocks joins the second. What runs between the last block and the classifier,
    usually a norm, is one block; the classifier is the last.
    """
    modules = dict(net.named_modules())
    holders = [name for name, module in modules.items() if name and bears_weights(module)]
    roofs = {roof for name in (*blocks, head) for roof in _ancestors(name)}
    ran = set(seen.order)
    inside = [name for name in holders if any(_within(name, block) for block in (*blocks, head))]
    loose = _outermost([name for name in seen.order if name in set(holders) - set(inside) - roofs])
    stem, chain = _chain(seen.order, set(blocks), set(loose), head)
    idle = [n for n in holders if n not in {*inside, *roofs, *ran} and not any(_within(n, each) for each in loose)]
    shells = [name for name in idle if any(_within(other, name) for other in ran)]  # only their children are called
    held = [name for roof in ("", *sorted(roofs), *shells) for name in _own_parameters(roof, modules[roof])]
    unused = _outermost(list(dict.fromkeys(_idle_root(name, ran) for name in idle if name not in shells)))
    return (*stem, *held), chain, tuple(unused)


def _chain(
    order: Sequence[str], blocks: set[str], loose: set[str], head: str
) -> tuple[tuple[str, ...], tuple[Block, ...]]:
    stem: list[str] = []
    chain: list[Block] = []
    waiting: list[str] = []
    for name in order:
        if name in loose:
            waiting.append(name)
        elif name in blocks:
            joined = waiting if chain else []
            stem += [] if chain else waiting
            chain.append(Block(name, (*joined, name)))
            waiting = []
        elif name == head:
            if chain and waiting:
                chain.append(Block(waiting[0], tuple(waiting)))
            stem += [] if chain else waiting
            waiting = []
            chain.append(Block(head, (head,)))
    if waiting and chain:  # parameters after the classifier, e.g. a learnt temperature
        chain[-1] = Block(chain[-1].name, (*chain[-1].modules, *waiting))
    return tuple(stem), tuple(chain)


def bears_weights(module: nn.Module) -> bool:
    """Whether the module itself (not a child) holds parameters or running statistics."""
    holds = any(parameter is not None for parameter in module._parameters.values())
    return holds or getattr(module, "running_mean", None) is not None


def _own_parameters(name: str, module: nn.Module) -> list[str]:
    """Names of the parameters that the module itself (not a child) holds."""
    return [f"{name}.{each}" if name else each for each, value in module._parameters.items() if value is not None]


def _looks_like_block(name: str, module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential | nn.ModuleList) or _BETWEEN.search(type(module).__name__):
        return False
    if not _NUMBERED.fullmatch(name.rsplit(".", 1)[-1]):
        return False
    return _size(module) >= 2


def _size(module: nn.Module) -> int:
    """Number of weight-bearing modules inside."""
    return sum(bears_weights(child) for child in module.modules())


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _idle_root(name: str, ran: set[str]) -> str:
    """The outermost module around `name` in which nothing ran."""
    return next(roof for roof in (*_ancestors(name), name) if not any(_within(other, roof) for other in ran))


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _outermost(names: Sequence[str]) -> list[str]:
    """Those that lie in no other of them."""
    known = set(names)
    return [name for name in names if known.isdisjoint(_ancestors(name))]
