"""The folder of one run or of one evaluation: who may write there, and what is in it.

A run

config.json        the resolved request; the same request goes on with, or refuses to overwrite, this run
environment.json   versions, device
log.jsonl          one JSON object per line
report.json        what the strategy reported about itself
source/            the network that the run started from
backbone.json      how to rebuild the architecture without plugin code
model.safetensors  the fine-tuned weights, with the network's own names
evaluation/        verdicts per image
result.json        written last; a run without it is unfinished
work/              checkpoints of an unfinished run, and what fine-tuning has cost

An evaluation

config.json        the resolved request
environment.json   versions, device
network/           what is judged, in the form of source/
verdicts/          verdicts per image
examples/          adversarial images, where they are kept
evaluation.json    written last
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import files
from .errors import AlreadyDone, BadBackbone, BadData, RequestError, RtkError, RunExists, RunFailed

CONFIG, RESULT, LOCK = "config.json", "result.json", ".lock"
IN_USE = "is in use by another process"
LOOK = 0.2
"""Seconds for which others may hold a lock to see whether it is held, or be at deleting a folder."""

FILES = (CONFIG, "environment.json", "log.jsonl", "report.json", "backbone.json", "model.safetensors", RESULT)
FOLDERS = ("work", "source", "evaluation", "pictures", "tensorboard")


@dataclass(frozen=True)
class Layout:
    """What a folder holds.

    Attributes:
        keys: what config.json has at least, by which the folder is known.
        files: all of them, config.json first and the result last.
        folders: beside them.
        work: those of both that were computed.
    """

    keys: frozenset[str]
    files: tuple[str, ...]
    folders: tuple[str, ...]
    work: tuple[str, ...]

    @property
    def result(self) -> str:
        """Written last; without it the work is unfinished."""
        return self.files[-1]

    @property
    def all(self) -> tuple[str, ...]:
        """Everything but the configuration."""
        return (*self.files[1:], *self.folders)


RUN = Layout(frozenset({"strategy", "config", "options"}), FILES, FOLDERS, ("work", "model.safetensors", "evaluation"))
EVALUATION = Layout(
    frozenset({"evaluate", "options"}),
    (CONFIG, "environment.json", "robustbench.json", "evaluation.json"),
    ("network", "verdicts", "examples", "pictures"),
    ("verdicts", "examples"),
)


@contextmanager
def claim(directory: Path, config: Mapping[str, Any], layout: Layout = RUN, *, force: bool = False) -> Iterator[None]:
    """Hold `directory` for this process; it is new, or holds an unfinished run with the same `config`.

    A new folder is deleted again when the request turns out to be wrong before anything was computed.

    Args:
        force: delete the run that is there; anything that is no run of rtk is never deleted.

    Raises:
        RunExists: in use, finished, a run with other settings, no run at all, or no folder.
        RunFailed: the folder cannot be written, or was taken away.
    """
    _admit(directory, config, layout, force)  # first without the lock: a folder that is left alone gets not even that
    made = not directory.exists()
    try:
        with _locked(directory):
            _admit(directory, config, layout, force)  # again: another process may have been quicker
            _prepare(directory, config, layout, force)
            fresh = not any((directory / name).exists() for name in layout.all)
            try:
                yield
            except Exception as problem:
                time.sleep(LOOK)  # where a file was missed that is being deleted, the lock may be deleted next
                if not files.is_held(directory / LOCK):
                    raise files.gone(directory) from problem  # whatever went wrong: nothing there is ours any more
                if isinstance(problem, OSError):  # such as a file of ours that was deleted
                    named = f": {problem.filename}" if problem.filename else ""
                    said = f"{problem.strerror or problem}{named}; what was finished is kept."
                    raise RunFailed(said, "the same command goes on with what is left") from problem
                computed = any((directory / name).exists() for name in layout.work)
                if isinstance(problem, RequestError) and fresh and not computed:
                    clear(directory, layout)
                    if made:
                        _remove_empty(directory)
                raise
            if not files.is_held(directory / LOCK):
                raise files.gone(directory)
    except files.Gone:
        _sweep(directory, layout)
        raise


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    import filelock  # later than for lists and usage errors, which want to be quick

    path = directory / LOCK
    lock = filelock.FileLock(path)
    try:
        files.make_folder(directory)
        lock.acquire(timeout=LOOK, poll_interval=LOOK / 4)
    except filelock.Timeout:
        raise RunExists(f"{directory} {IN_USE}{holder(directory)}.", "--out ANOTHER_DIR") from None
    except (FileExistsError, NotADirectoryError):
        raise RunExists(f"{directory} is a file, or lies in one; a folder is needed.", "--out ANOTHER_DIR") from None
    except OSError as problem:
        raise files.write_error(directory, problem) from None
    try:
        with suppress(OSError):  # a courtesy: not by `files.write`, which would put another file in its place
            path.write_text(f"{os.getpid()} on {os.uname().nodename}\n", encoding="utf-8")
        with files.holding(path):
            try:
                yield
            finally:
                # while it is still held: whoever opened the file meanwhile finds it unlinked and tries again
                if files.is_held(path):
                    path.unlink(missing_ok=True)
    finally:
        lock.release()


def holder(directory: Path) -> str:
    """Who works in a folder, as the end of a sentence; nothing where that is not known."""
    try:
        with (directory / LOCK).open(encoding="utf-8", errors="replace") as file:
            said = file.read(300).strip()
    except OSError:
        return ""
    return f" (process {said})" if re.fullmatch(r"\d+ on [\w.-]+", said) else ""


def _admit(directory: Path, config: Mapping[str, Any], layout: Layout, force: bool) -> None:
    """RunExists unless `config` may be run in `directory`; changes nothing."""
    if not _contents(directory):
        return
    found = _config(directory, layout)
    if found is None:
        raise RunExists(f"{directory} holds something that is no run of rtk; it is left alone.", "--out AN_EMPTY_DIR")
    if force:
        return
    if found != config:
        hint = "--force to replace it, or --out ANOTHER_DIR"
        if layout is RUN and (directory / RESULT).exists() and _trained_alike(found, config):
            hint = f"rtk evaluate {directory} with these options, which trains nothing again; {hint}"
        raise RunExists(f"{directory} holds a run with other settings ({_difference(found, config)}).", hint)
    if (directory / layout.result).exists():
        raise AlreadyDone(f"{directory} already holds this result.", f"rtk show {directory}; --force runs it again")


def _contents(directory: Path) -> list[Path]:
    """What lies there, but for the lock and for what a killed process left of its first file."""
    try:
        return [found for found in directory.iterdir() if found.name != LOCK and not files.is_leftover(found)]
    except (FileNotFoundError, NotADirectoryError):
        return []  # new; or a file or below one, which making the folder will say
    except OSError as problem:
        raise files.write_error(directory, problem) from None


def _config(directory: Path, layout: Layout = RUN) -> Any:
    """The request of the run in `directory`; None when it is no run of rtk. Others call their files config.json too."""
    try:
        found = files.read_json(directory / CONFIG)
    except BadData:
        return None
    return found if isinstance(found, dict) and set(found) >= layout.keys else None


def _trained_alike(found: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether two requests of runs differ in nothing but how the network is judged."""
    from .options import EvaluationOptions  # which brings pydantic: later than for lists and usage errors

    def training(request: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in request["options"].items() if key not in EvaluationOptions.model_fields}
        return {**request, "options": kept}

    return isinstance(found["options"], dict) and training(found) == training(asked)


def _difference(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The first setting in which two requests differ, in words."""
    for key in sorted({*found, *asked}):
        old, new = found.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old != new:
            return _difference(old, new)
        if old != new and key.endswith("_source"):
            return f"{key.replace('_', ' ')}: the code has changed"
        if old != new:
            return f"{key}: {str(old)[:40]} there, {str(new)[:40]} asked"
    return "none"


def _prepare(directory: Path, config: Mapping[str, Any], layout: Layout, force: bool) -> None:
    if force:
        clear(directory, layout)
    hidden = [*directory.glob(".*"), *(path for name in layout.folders for path in (directory / name).rglob(".*"))]
    for path in filter(files.is_leftover, hidden):
        path.unlink(missing_ok=True)
    if not (directory / CONFIG).exists():
        files.write_json(directory / CONFIG, config)


def clear(directory: Path, layout: Layout = RUN) -> None:
    """Delete a run, but nothing else that lies in its folder.

    The result goes first, so that a kill in between leaves no result without its weights, and the configuration last,
    so that what is left is still known as a run.
    """
    try:
        for name in reversed(layout.files[1:]):
            (directory / name).unlink(missing_ok=True)
        for name in layout.folders:
            if (directory / name).is_dir():
                shutil.rmtree(directory / name)
        (directory / CONFIG).unlink(missing_ok=True)
    except OSError as problem:
        raise files.write_error(directory, problem) from None


def _sweep(directory: Path, layout: Layout) -> None:
    """Delete what this process wrote into a folder that was being deleted.

    `rm -rf` looks first and deletes then, so that what is written in between stays, of no run that anybody knows.
    """
    time.sleep(LOOK)  # it may be at it still
    if not directory.is_dir() or (directory / CONFIG).exists():
        return
    with suppress(RtkError, OSError), _locked(directory):  # not where another process has begun
        if not (directory / CONFIG).exists():
            clear(directory, layout)
            _remove_empty(directory)


def _remove_empty(directory: Path) -> None:
    if not _contents(directory):
        (directory / LOCK).unlink(missing_ok=True)
        directory.rmdir()


def read_options(directory: Path) -> dict[str, Any]:
    """The options in the configuration of a run or an evaluation; BadData where there are none."""
    found = _config(directory, RUN) or _config(directory, EVALUATION)
    options = found["options"] if found else None
    if not isinstance(options, dict) or not isinstance(options.get("image_size"), int | None):
        raise BadData(f"{directory / CONFIG}: not the configuration of a run or an evaluation of rtk.", "ls runs")
    return options


def read_config(directory: Path) -> dict[str, Any]:
    """The resolved request of a run; BadBackbone when the folder is no run."""
    try:
        path = directory.expanduser() / CONFIG
        there = path.exists()
    except (OSError, ValueError, RuntimeError) as problem:  # too long, a null byte, no such user
        reason = getattr(problem, "strerror", None) or problem
        raise BadBackbone(f"run:{directory}: {reason}.", "ls runs") from None
    if not there:
        raise BadBackbone(f"run:{directory}: {path} is missing, so this is no run of rtk.", "ls runs")
    config: dict[str, Any] | None = _config(path.parent)
    if config is None or not isinstance(config["options"], dict) or "dataset" not in config["options"]:
        raise BadBackbone(f"run:{directory}: {path} is not the configuration of a run of rtk.", "ls runs")
    return config
