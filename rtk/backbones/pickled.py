"""Files of torch.save: what reading them would run, what they unpack to, and what is in them without running anything.

A pickle is a program; the files of torch.save hold one. torch reads them with an interpreter of its own
(`weights_only`) that calls nothing but what rebuilds tensors and a few plain containers. Everything else is refused,
unless the user trusts the file as a program of its author.
"""

from __future__ import annotations

import argparse
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import BadBackbone
from ..memory import ran_out

LISTED = 8
"""Names of code that a message shows."""
SCANNED = 1 << 26
"""Bytes of a pickle that are looked through for names of code."""
# Values that training scripts leave beside the weights; building them runs no code from the file.
_HARMLESS = [argparse.Namespace, np.dtype, type(np.dtype("float64")), type(np.dtype("float32"))]
_LEGACY = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)  # how files of torch before 1.6 begin
# What every state dict names: containers, and what torch rebuilds tensors with.
_PLAIN = re.compile(
    r"collections\.OrderedDict|torch\.(Size|device|\w*Storage|\w*Tensor)|torch\._utils\._rebuild_\w+"
    r"|torch\._tensor\._rebuild_\w+|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\.storage\.\w+Storage|torch\.(b?float|u?int)\d+"
)


def load(path: Path, head: bytes, *, trusted: bool = False) -> tuple[object, tuple[str, ...]]:
    """What torch.save wrote into a file, on the CPU, and the names of the code in the file that was run for it.

    Args:
        head: the first bytes of the file.
        trusted: whether code that the file asks for may be run, with everything that this user may do.

    Raises:
        BadBackbone: damaged, no file of torch.save, a zip bomb, or code that nobody has trusted; names the code.
    """
    if zipped := head.startswith(b"PK"):
        _check_size(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS + _numpy_scalar()):
            return _read(path, weights_only=True), ()
    except pickle.UnpicklingError:
        code = code_in(path)
        if not code or not (zipped or head.startswith(_LEGACY)):
            also = f"; as a pickle it would run {_listed(code)}" if code else ", or one with more than tensors in it"
            raise BadBackbone(f"{path}: not a file of torch.save{also}.") from None
        if not trusted:
            raise BadBackbone(
                f"{path}: needs code from the file to be run ({_listed(code)}), which rtk refuses; save the bare state "
                "dict where you trust it: torch.save(model.state_dict(), FILE).",
                "--trust-checkpoint, if you would run a program of its author",
            ) from None
    except Exception as problem:  # an interpreter of foreign bytes: anything that it raises means that they are damaged
        raise _damaged(path, head, problem) from None
    return _run(path), code


def code_in(path: Path) -> tuple[str, ...]:
    """Functions and classes that reading a file as a pickle would import, sorted; found without running anything.

    What every state dict names is left out. A pickle can put further names together while it runs; these are not found.
    """
    try:
        return tuple(sorted({name for data in _pickles(path) for name in _names(data) if not _PLAIN.fullmatch(name)}))
    except Exception:  # no archive, or a damaged one
        return ()


def _run(path: Path) -> object:
    """Read a file as the program that it is."""
    try:
        found = _read(path, weights_only=False)
        return found.state_dict() if isinstance(found, nn.Module) else found
    except Exception as problem:
        reason = " ".join(f"{type(problem).__name__}: {problem}".split())[:200]
        raise BadBackbone(f"{path}: its code was run, as --trust-checkpoint allows, and failed ({reason}).") from None


def _read(path: Path, *, weights_only: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch thinks of the file is said by its errors
        return torch.load(path, map_location="cpu", weights_only=weights_only)


def _check_size(path: Path) -> None:
    """Refuse an archive that unpacks to more bytes than the file has, before anything is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
    except Exception as problem:
        raise _damaged(path, b"PK", problem) from None
    if declared > (size := path.stat().st_size):
        raise BadBackbone(
            f"{path}: {size:,} bytes that unpack to {declared:,}, a zip bomb (allowed: {size:,}, since torch.save"
            " compresses nothing)."
        )


def _damaged(path: Path, head: bytes, problem: Exception) -> BadBackbone:
    if "TorchScript" in str(problem):
        return BadBackbone(f"{path}: a TorchScript archive; a state dict is needed.")
    if ran_out(problem):
        return BadBackbone(f"{path}: asks for more memory than there is ({line(problem)}).")
    kind = "truncated or damaged" if head.startswith((b"PK", b"\x80")) else "not a file of torch.save"
    return BadBackbone(f"{path}: {kind} ({line(problem)}); copy or download it again.")


def _pickles(path: Path) -> Iterator[bytes]:
    """The bytes of every pickle of an archive, or the beginning of any other file."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield file.read(SCANNED)
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".pkl"):
                with archive.open(entry) as file:
                    yield file.read(SCANNED)


def _names(data: bytes) -> Iterator[str]:
    """MODULE.NAME of everything that the pickles in `data`, one after another, import while they are read."""
    stream = io.BytesIO(data)
    memo: dict[int, str | None] = {}
    texts: list[str | None] = []  # what was last put on the stack, None where it is no text
    try:
        while True:
            for operation, argument, _ in pickletools.genops(stream):
                name = operation.name
                if name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".", 1)
                elif name == "STACK_GLOBAL":  # takes module and name from the stack
                    yield ".".join(text or "?" for text in texts[-2:])
                if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                    memo[len(memo) if argument is None else argument] = texts[-1] if texts else None
                elif name in ("GET", "BINGET", "LONG_BINGET"):
                    texts.append(memo.get(argument or 0))
                else:
                    texts.append(argument if isinstance(argument, str) else None)
    except Exception:  # the end of the last pickle, or whatever follows it
        return


def _numpy_scalar() -> list[Any]:
    """numpy's rebuilder of scalars, under both names that it has had."""
    scalar = np.float64(0).__reduce__()[0]
    return [scalar, (scalar, "numpy.core.multiarray.scalar")]


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(name[:80] for name in names[:LISTED]) + more


def line(problem: BaseException) -> str:
    """The first sentence of an exception's message, short enough for one line."""
    text = str(problem).strip().splitlines()
    return (text[0].split(". ")[0][:140] if text else type(problem).__name__).rstrip(".")
