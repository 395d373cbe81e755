"""Files of weights: read without running code from them, write, and identify by content."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from .. import files
from ..errors import BadBackbone
from .pickled import line, load

_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_DEEPEST = 4  # wrappers in one another; a file can hold a mapping that holds itself
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPES = frozenset((*_FLOATS, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool))


def read_state(path: str | Path, inside: str | None = None) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` file or from a file of torch.save, in its own names, on the CPU.

    Args:
        path: the file.
        inside: name of the entry to take when the file holds several state dicts, e.g. 'last' next to 'best'; a file
            without it is read as usual: {'state_dict': ...}, {'model': ...} or the state dict itself.

    Raises:
        BadBackbone: missing, empty, truncated, a web page, code instead of weights, a zip bomb, no tensors, or one that
            no network can hold: NaN, sparse, of a dtype that is not real, of more values than the file has.
    """
    return read_checkpoint(path, inside, trusted=False)[0]


def read_checkpoint(
    path: str | Path, inside: str | None = None, *, trusted: bool
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What `read_state` reads, and the names of the code in the file that was run for it.

    Args:
        trusted: whether code that a file of torch.save asks for may be run, where it cannot be read without.
    """
    path = Path(path)
    head = _first_bytes(path)
    ran: tuple[str, ...] = ()
    if path.suffix == ".safetensors":
        state: Any = _read_safetensors(path)
    else:
        state, ran = load(path, head, trusted=trusted)
    tensors = _unwrap(state, inside)
    if not tensors:
        raise BadBackbone(
            f"{path}: no state dict in it (a mapping of names to tensors is needed; found: {_content(state)})."
        )
    for name, tensor in tensors.items():
        if fault := _fault(tensor):
            raise BadBackbone(f"{path}: '{name[:80]}' {fault}.")
    return tensors, ran


def _fault(tensor: Tensor) -> str | None:
    """Why no network can hold this tensor, as the end of a sentence; looks at no value before its number is known."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        kind = "quantized" if tensor.is_quantized else f"{str(tensor.layout).removeprefix('torch.')} on {tensor.device}"
        return f"is a {kind} tensor (allowed: plain ones with values)"
    if tensor.dtype not in _DTYPES:
        allowed = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in _DTYPES))
        return f"is {str(tensor.dtype).removeprefix('torch.')} (allowed: {allowed})"
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > held:
        return f"claims {tensor.numel():,} values, {tuple(tensor.shape)}, of which the file holds {held:,} bytes"
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        return "holds NaN or infinite weights; nothing can be trained from them"
    return None


def write_state(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict as safetensors, in one step."""
    # Copies: safetensors refuses strided (channels_last) tensors and tensors that share memory.
    plain = save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()})
    files.write_bytes(Path(path), plain)


def hash_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hexadecimal) of a state dict: names in order, each with dtype, shape and bytes.

    Independent of device, memory layout, file format and the order of the names.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            raise BadBackbone(f"{path}: a device or a pipe; a file of weights is needed.")  # reading may never end
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise BadBackbone(f"{path}: no such file of weights.") from None
    except IsADirectoryError:
        raise BadBackbone(f"{path}: a folder, not a file of weights.", f"--backbone run:{path}") from None
    except (OSError, ValueError) as problem:  # ValueError: no name that a file can have
        raise BadBackbone(f"{path}: cannot be read ({getattr(problem, 'strerror', problem)}).") from None
    text = head.lstrip().lower()
    if not head:
        raise BadBackbone(f"{path}: the file is empty; download it again.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise BadBackbone(f"{path}: a web page, not weights (a failed download); download it again.")
    if text.startswith(b"version https://git-lfs"):
        raise BadBackbone(f"{path}: a pointer of Git LFS, not the weights; run 'git lfs pull' where it comes from.")
    return head


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as problem:  # a foreign library on foreign bytes
        raise BadBackbone(f"{path}: not a whole safetensors file ({line(problem)}); copy it again.") from None


def _unwrap(state: object, inside: str | None) -> dict[str, Tensor]:
    for _ in range(_DEEPEST):
        keys = (inside, *_WRAPPERS) if inside else _WRAPPERS
        inside = None
        found = [state[key] for key in keys if isinstance(state, Mapping) and isinstance(state.get(key), Mapping)]
        if not found:
            break
        state = found[0]
    if not isinstance(state, Mapping):
        return {}
    return {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _content(state: object) -> str:
    """What was found instead of a state dict, in a few words."""
    if not isinstance(state, Mapping):
        return type(state).__name__
    return ", ".join(key[:40] if isinstance(key, str) else type(key).__name__ for key in list(state)[:6]) or "nothing"
