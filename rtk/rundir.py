"""The folder of one run: who may write there, and what is in it.

    config.json        the resolved request; the same request goes on with, or refuses to overwrite, this run
    environment.json   versions, device
    log.jsonl          one JSON object per line
    report.json        what the strategy reported about itself
    source/            the network that the run started from
    backbone.json      how to rebuild the architecture without plugin code
    model.safetensors  the fine-tuned weights, with the network's own names
    evaluation/        verdicts per image
    result.json        written last; a run without it is unfinished
    work/              checkpoints of an unfinished run
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from . import files
from .errors import BadBackbone, RunExists

FILES = ("config.json", "environment.json", "log.jsonl", "report.json", "backbone.json", "model.safetensors", "result.json")
FOLDERS = ("work", "source", "evaluation")


@contextmanager
def claim(directory: Path, config: Mapping[str, Any], *, force: bool = False) -> Iterator[None]:
    """Hold `directory` for this process; it is new, or holds an unfinished run with the same `config`.

    Args:
        force: delete the run that is there; anything that is no run of rtk is never deleted.

    Raises:
        RunExists: in use, finished, a run with other settings, or no run at all.
        RunFailed: the folder cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(directory / ".lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunExists(f"{directory} is in use by another process.", "--out ANOTHER_DIR") from None
    except OSError as problem:
        raise files.write_error(directory, problem) from None
    try:
        _admit(directory, config, force)
        yield
    finally:
        lock.release()
        (directory / ".lock").unlink(missing_ok=True)


def _admit(directory: Path, config: Mapping[str, Any], force: bool) -> None:
    path = directory / "config.json"
    if not path.exists() and any(found.name != ".lock" for found in directory.iterdir()):
        raise RunExists(f"{directory} holds something that is no run of rtk; it is left alone.", "--out AN_EMPTY_DIR")
    if force:
        clear(directory)
    if not path.exists():
        files.write_json(path, config)
    elif files.read_json(path) != config:
        raise RunExists(f"{directory} holds a run with other settings.", "--force to replace it, or --out ANOTHER_DIR")
    elif (directory / "result.json").exists():
        raise RunExists(f"{directory} already holds this result.", f"rtk show {directory}; --force runs it again")


def clear(directory: Path) -> None:
    """Delete a run, but nothing else that lies in its folder."""
    for name in reversed(FILES):  # the result first, so that a kill in between leaves no result without its weights
        (directory / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(directory / name, ignore_errors=True)


def read_config(directory: Path) -> dict[str, Any]:
    """The resolved request of a run; BadBackbone when the folder is no run."""
    path = directory / "config.json"
    if not path.exists():
        raise BadBackbone(f"run:{directory}: {path} is missing, so this is no run of rtk.", "ls runs")
    config: dict[str, Any] = files.read_json(path)
    return config
