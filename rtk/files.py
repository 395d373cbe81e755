"""Files that are either whole or absent, also after a kill or a full disk; and what a typed path means."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from .errors import BadData, BadValue, RunFailed

FULL, REFUSED = "Disk full", "Cannot write"
"""How messages begin that are the file system's fault: whatever else is written there will end alike."""

GONE = "was deleted or replaced while it was in use"


def write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Let `fill` write into a temporary file beside `path`, flush it to disk, and put it in place in one step.

    Raises:
        RunFailed: the disk is full or the folder cannot be written; an earlier version of `path` is untouched. Or the
            folder is one that is held, and is held no more; see `holding`.
    """
    _check(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        make_folder(path.parent)
        try:
            _write_new(temporary, fill)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as problem:
        _check(path)  # it may have gone meanwhile
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


def write_bytes(path: Path, data: bytes) -> None:
    """`write` what is in memory already."""
    write(path, lambda file: file.write(data))


class _Unwritten(OSError):
    """A file that could not be written; `needed` are the bytes that it has at least."""

    needed: int


class _File(io.FileIO):
    """A file that remembers why it could not be written."""

    problem: _Unwritten | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as problem:
            self.problem = _Unwritten(problem.errno, problem.strerror)
            self.problem.needed = self.tell() + len(data)
            raise self.problem from None


def append(path: Path, line: str) -> None:
    """Add a line to a log, all of it or nothing; a power loss can take the last lines, by which nothing is decided.

    Raises:
        RunFailed: as `write`.
    """
    _check(path)
    data = f"{line}\n".encode()
    try:
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(before)
                raise
    except OSError as problem:
        _check(path)
        raise write_error(path, problem) from problem


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, so that a power loss forgets none of them."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        _sync_folder(each.parent)


def is_leftover(path: Path) -> bool:
    """Whether `path` is a temporary file that `write` left because its process was killed."""
    head, dot, token = path.name.rpartition(".")
    return head.startswith(".") and bool(dot) and len(token) == 8 and set(token) <= set("0123456789abcdef")


def write_error(path: Path, problem: OSError) -> RunFailed:
    """What to tell the user when `path` could not be written."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        space = _space(path, getattr(problem, "needed", None))
        message = f"{FULL} while writing {path}; what was finished is kept."
        return RunFailed(message, f"free space{space}, then the same command")
    return RunFailed(f"{REFUSED} {path}: {problem.strerror or problem}.", "--out DIR with a folder you can write to")


def _space(path: Path, needed: int | None) -> str:
    """What a file needs and what its disk has, in brackets."""
    said = [f"{size(needed)} or more are needed"] if needed else []
    try:
        place = next(each for each in path.absolute().parents if each.exists())
        said.append(f"{size(shutil.disk_usage(place).free)} are free in {place}")
    except OSError:
        pass
    return f" ({', '.join(said)})" if said else ""


def size(count: int) -> str:
    """Bytes, in the unit that suits them."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 2**10:.0f} KiB"


_held: dict[Path, frozenset[str]] = {}
"""Lock files of the folders that this process works in, and what tells them from others of the same name."""


@contextmanager
def holding(lock: Path) -> Iterator[None]:
    """Work in the folder of `lock`, which is locked: in the block nothing is written there once that file has gone.

    Else a folder that was deleted would come to life again as half a run, and one that another process has begun
    anew would be written by two.

    Raises:
        RunFailed: it has gone already.
    """
    try:
        _held[lock] = _marks(lock)
    except OSError:
        raise gone(lock.parent) from None
    try:
        yield
    finally:
        del _held[lock]


def held() -> Mapping[Path, frozenset[str]]:
    """What this process holds, for `hold` in another that works for it."""
    return dict(_held)


def hold(locks: Mapping[Path, frozenset[str]]) -> None:
    """Hold what another process holds, until this one ends."""
    _held.update(locks)


def is_held(lock: Path) -> bool:
    """Whether a lock file that is held is there still, and no other."""
    try:
        return bool(_held.get(lock, frozenset()) & _marks(lock))
    except OSError:
        return False


def _marks(lock: Path) -> frozenset[str]:
    # either will do: some network file systems number a file anew, and some versions of filelock empty it
    state = lock.stat()
    return frozenset({f"{state.st_dev}:{state.st_ino}", lock.read_bytes()[:300].decode(errors="replace")} - {""})


class Gone(RunFailed):
    """A folder is held no more."""


def gone(folder: Path) -> Gone:
    """What to tell the user when a folder is held no more."""
    return Gone(f"{folder} {GONE}.", "the same command goes on with what is left")


def _check(path: Path) -> None:
    for lock in _held:
        if path.is_relative_to(lock.parent) and not is_held(lock):
            raise gone(lock.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused, since JSON has none."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def read_json(path: Path) -> Any:
    """Read JSON written by `write_json`; BadData when it cannot be read or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise BadData(f"{path}: {problem.strerror or problem}.") from None
    except (ValueError, RecursionError) as problem:
        raise BadData(f"{path}: not JSON ({problem}).") from None


def home(path: str | Path) -> Path:
    """A path with `~` as the home directory; BadValue where it is that of nobody, or no path at all."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadValue(f"{path}: there is no such user.", "a path without ~") from None
    except ValueError as problem:  # a null byte
        raise BadValue(f"{path}: {problem}.") from None


def there(path: str | Path, test: Callable[[Path], bool] = Path.exists) -> bool:
    """Whether `test` holds for a path, `~` being the home directory; False for what cannot be a path."""
    try:
        return test(home(path))
    except (OSError, ValueError, BadValue):  # too long, a null byte, no such user
        return False


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
