"""Files of weights: read without running code from them, write, and identify by content."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import BadBackbone

_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
# Values that training scripts leave beside the weights; building them runs no code from the file.
_HARMLESS = [argparse.Namespace, np.dtype, type(np.dtype("float64")), type(np.dtype("float32"))]


def read_state(path: str | Path, inside: str | None = None) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` file or from a file of torch.save, in its own names, on the CPU.

    Args:
        path: the file.
        inside: name of the entry to take when the file holds several state dicts, e.g. 'last' next to 'best'; a file
            without it is read as usual: {'state_dict': ...}, {'model': ...} or the state dict itself.

    Raises:
        BadBackbone: missing, empty, truncated, a web page, code instead of weights, no tensors, or NaN among them.
    """
    path = Path(path)
    head = _first_bytes(path)
    if path.suffix == ".safetensors":
        state: Any = _read_safetensors(path)
    else:
        state = _read_torch(path, head)
    tensors = _unwrap(state, inside)
    if not tensors:
        found = ", ".join(map(str, list(state)[:6])) if isinstance(state, Mapping) else type(state).__name__
        raise BadBackbone(f"{path}: no state dict in it (a mapping of names to tensors is needed; found: {found}).")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadBackbone(f"{path}: '{name}' holds NaN or infinite weights; nothing can be trained from them.")
    return tensors


def write_state(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict as safetensors, atomically, so that a killed process leaves the old file or the new one."""
    path = Path(path)
    # Copies: safetensors refuses strided (channels_last) tensors and tensors that share memory.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_bytes(save(plain))  # save_file would make it unreadable for other users, whatever the umask
    partial.replace(path)


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
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise BadBackbone(f"{path}: no such file of weights.") from None
    except IsADirectoryError:
        raise BadBackbone(f"{path}: a folder, not a file of weights.", f"--backbone run:{path}") from None
    except OSError as problem:
        raise BadBackbone(f"{path}: cannot be read ({problem.strerror}).") from None
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
    except (SafetensorError, ValueError, OSError) as problem:
        raise BadBackbone(f"{path}: not a whole safetensors file ({_line(problem)}); copy it again.") from None


def _read_torch(path: Path, head: bytes) -> object:
    try:
        with torch.serialization.safe_globals(_HARMLESS + _numpy_scalar()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch thinks of the file is said by the errors below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        if "Unsupported global" in str(problem) or "GLOBAL" in str(problem) or "Unsupported class" in str(problem):
            wanted = _wanted_code(str(problem))
            raise BadBackbone(
                f"{path}: needs code from the file to be run{wanted}, which rtk refuses; save the bare state dict "
                "where you trust it: torch.save(model.state_dict(), FILE)."
            ) from None
        raise BadBackbone(f"{path}: not a file of torch.save, or one with more than tensors in it.") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, UnicodeDecodeError) as problem:
        if "TorchScript" in str(problem):
            raise BadBackbone(f"{path}: a TorchScript archive; a state dict is needed.") from None
        kind = "truncated or damaged" if head.startswith((b"PK", b"\x80")) else "not a file of torch.save"
        raise BadBackbone(f"{path}: {kind} ({_line(problem)}); copy or download it again.") from None


def _numpy_scalar() -> list[Any]:
    """numpy's rebuilder of scalars, under both names that it has had."""
    scalar = np.float64(0).__reduce__()[0]
    return [scalar, (scalar, "numpy.core.multiarray.scalar")]


def _wanted_code(message: str) -> str:
    """The class that a pickle asks for, as ' (name)'; empty when the message does not say."""
    for marker in ("Unsupported global: GLOBAL ", "Unsupported class "):
        if marker in message:
            return f" ({message.split(marker, 1)[1].split()[0].rstrip('.,')})"
    return ""


def _unwrap(state: object, inside: str | None) -> dict[str, Tensor]:
    for key in (inside, *_WRAPPERS) if inside else _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            return _unwrap(state[key], None)
    if not isinstance(state, Mapping):
        return {}
    return {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _line(problem: BaseException) -> str:
    """The first sentence of an exception's message, short enough for one line."""
    text = str(problem).strip().splitlines()
    return (text[0].split(". ")[0][:140] if text else type(problem).__name__).rstrip(".")
