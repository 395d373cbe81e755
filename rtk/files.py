"""Writing so that a file is either whole or absent, also after a kill or a full disk."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from .errors import BadData, RunFailed


def write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Let `fill` write into a temporary file beside `path`, flush it to disk, and put it in place in one step.

    Raises:
        RunFailed: the disk is full or the folder cannot be written; an earlier version of `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_new(temporary, fill)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as problem:
        raise write_error(path, problem) from problem


def _write_new(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    # not tempfile: its files are readable by their owner alone, whatever the umask says
    raw = _File(path, "xb")
    try:
        with io.BufferedWriter(raw) as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
    except Exception:
        if raw.problem is not None:  # torch.save turns a full disk into a RuntimeError without its number
            raise raw.problem from None
        raise


class _File(io.FileIO):
    """A file that remembers why it could not be written."""

    problem: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as problem:
            self.problem = problem
            raise


def is_leftover(path: Path) -> bool:
    """Whether `path` is a temporary file that `write` left because its process was killed."""
    head, dot, token = path.name.rpartition(".")
    return head.startswith(".") and bool(dot) and len(token) == 8 and set(token) <= set("0123456789abcdef")


def write_error(path: Path, problem: OSError) -> RunFailed:
    """What to tell the user when `path` could not be written."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunFailed(
            f"Disk full while writing {path}; what was finished is kept.", "free space, then the same command"
        )
    return RunFailed(f"Cannot write {path}: {problem.strerror or problem}.", "--out DIR with a folder you can write to")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused, since JSON has none."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any:
    """Read JSON written by `write_json`; BadData when it cannot be read or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise BadData(f"{path}: {problem.strerror or problem}.") from None
    except (ValueError, RecursionError) as problem:
        raise BadData(f"{path}: not JSON ({problem}).") from None


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


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def unchanged_sha256(path: Path) -> str:
    """`sha256`, computed once until the file's size or time of change is another."""
    state = path.stat()
    return _hashed(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _hashed(path: Path, size: int, changed: int) -> str:
    return sha256(path)
