"""Writing so that a file is either whole or absent, also after a kill or a full disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from .errors import RunFailed


def write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Let `fill` write into a temporary file beside `path`, flush it to disk, and put it in place in one step.

    Raises:
        RunFailed: the disk is full or the folder cannot be written; an earlier version of `path` is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as problem:
        raise write_error(path, problem) from problem


def write_error(path: Path, problem: OSError) -> RunFailed:
    """What to tell the user when `path` could not be written."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunFailed(f"Disk full while writing {path}; what was finished is kept.", "free space, then the same command")
    return RunFailed(f"Cannot write {path}: {problem.strerror or problem}.", "--out DIR with a folder you can write to")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused, since JSON has none."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any:
    """Read JSON written by `write_json`."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    # without this a power loss can forget the rename although the file's bytes are on disk
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
