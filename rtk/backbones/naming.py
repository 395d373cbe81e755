"""Make the names in a checkpoint agree with those of a network, and say clearly when they cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from ..errors import BadBackbone

# What training scripts and wrappers put in front of every name.
_PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
# Constants of the network itself that a checkpoint may omit: how to normalise, and BatchNorm's step counter.
_CONSTANTS = ("mu", "sigma", "mean", "std", "num_batches_tracked")

Converter = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def rename(state: Mapping[str, Tensor], wanted: Iterable[str], convert: Converter | None = None) -> dict[str, Tensor]:
    """The same tensors under the names in `wanted` as far as prefixes allow; leftovers keep their own names.

    Args:
        convert: translates checkpoints of older formats; tried when the names do not agree without it.
    """
    names = set(wanted)
    if names == state.keys():
        return dict(state)
    best = max(_variants(dict(state), names), key=lambda variant: _agreement(variant, names))
    if convert is not None and not names.issuperset(best):
        try:
            converted = convert(dict(best))
        except Exception:  # not of a format that the converter knows
            return best
        candidates = [best, *_variants(converted, names)]
        best = max(candidates, key=lambda variant: _agreement(variant, names))
    return best


def complete(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the constants that the checkpoint omits from the network's own state `own`."""
    omitted = {name: value for name, value in own.items() if name not in state and _is_constant(name)}
    return {**state, **omitted}


def check_fit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str, network: str) -> None:
    """Raise BadBackbone unless both have the same names, shapes and kinds of numbers.

    Args:
        what: the subject of the message, e.g. 'net.pt'.
        network: what the state should fit.
    """
    missing = sorted(own.keys() - state.keys())
    surplus = sorted(state.keys() - own.keys())
    if missing or surplus:
        parts = [f"missing {_some(missing)}"] if missing else []
        parts += [f"unexpected {_some(surplus)}"] if surplus else []
        raise BadBackbone(f"{what}: a checkpoint of another architecture than {network}: {'; '.join(parts)}.")
    for name in sorted(own):
        if state[name].shape != own[name].shape:
            raise BadBackbone(
                f"{what}: a checkpoint of another architecture than {network}: '{name}' is "
                f"{tuple(state[name].shape)}, the network has {tuple(own[name].shape)}."
            )
        if fault := _kind_fault(state[name], own[name]):
            raise BadBackbone(f"{what}: '{name}' {fault}.")


def _kind_fault(given: Tensor, own: Tensor) -> str | None:
    """Why loading `given` into `own` would change what it says; a half precision checkpoint is one of float32."""
    if given.dtype == own.dtype:
        return None
    if given.is_floating_point() != own.is_floating_point():
        return f"is {_dtype(given)}, the network has {_dtype(own)}"
    if given.is_floating_point() and not bool(torch.isfinite(given.to(own.dtype)).all()):
        return f"holds values of {_dtype(given)} that {_dtype(own)}, which the network has, cannot hold"
    return None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _variants(state: dict[str, Tensor], names: set[str]) -> Iterator[dict[str, Tensor]]:
    """The state with up to three prefixes taken off or one put on; with and without the names that had none."""
    level = [state]
    yield state
    for _ in range(3):
        level = [shorter for each in level for prefix in _PREFIXES for shorter in _strip(each, prefix)]
        yield from level
    for prefix in {name.split(".", 1)[0] + "." for name in names if "." in name}:
        yield {prefix + name: value for name, value in state.items()}
        for other in _PREFIXES:
            for shorter in _strip(state, other):
                yield {prefix + name: value for name, value in shorter.items()}


def _strip(state: dict[str, Tensor], prefix: str) -> list[dict[str, Tensor]]:
    with_prefix = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not with_prefix:
        return []
    rest = {name: value for name, value in state.items() if not name.startswith(prefix)}
    return [with_prefix, {**rest, **with_prefix}] if rest else [with_prefix]


def _agreement(state: Mapping[str, Tensor], names: set[str]) -> tuple[int, int]:
    found = len(names & state.keys())
    return found, found - len(state)


def _is_constant(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in _CONSTANTS


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"'{names[0][:80]}'{more}"
