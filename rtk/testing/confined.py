"""The plain run in a process of its own, where everything that it opens, writes and prints is seen.

The process starts in an empty folder, with another seed of `hash`, so that nothing can depend on the order of a set.
Files are seen when Python opens, makes, renames or removes them, or when they are left in the empty folder.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .report import Skip

if TYPE_CHECKING:
    from .trial import Trial

CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink")
CONNECTIONS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
STARTUP = 60.0
"""Seconds for the start of Python and the imports, on a busy machine."""


@dataclass
class Sighting:
    """What was seen of one run.

    Attributes:
        unloaded: why the strategy could not be sent to the process or loaded there, or None.
        late: whether it was stopped because it took too long.
        error: what the strategy raised, or None.
        weights: SHA-256 of what it returned, or None.
        read: files of data sets that it opened.
        written: paths outside its run directory that it wrote, made or removed.
        connected: addresses that it asked for.
        printed: the beginning of what it wrote to stdout.
    """

    unloaded: str | None = None
    late: bool = False
    error: str | None = None
    weights: str | None = None
    read: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    connected: list[str] = field(default_factory=list)
    printed: str = ""


def look(trial: Trial) -> Sighting:
    """Make the plain run of `trial` in another process and tell what was seen."""
    folder = trial.folder()
    (folder / "empty").mkdir()
    try:
        asked = pickle.dumps((trial.strategy, trial.options, trial.norms, trial.seconds))
    except Exception as problem:
        return Sighting(unloaded=" ".join(str(problem).split()))
    (folder / "request").write_bytes(asked)
    # what the run imports is found as here; nothing is compiled on the way
    found = os.pathsep.join(str(Path(place).absolute()) for place in sys.path)
    hashes = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONPATH": found, "PYTHONHASHSEED": hashes, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", __name__, str(folder), str(_threads())]
    limit = STARTUP + trial.seconds
    try:
        ended = subprocess.run(
            command, cwd=folder / "empty", env=environment, capture_output=True, timeout=limit, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return Sighting(late=True)
    if b"Timeout (" in ended.stderr:  # of faulthandler
        return Sighting(late=True)
    if not (folder / "seen.json").exists():
        last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return Sighting(error=f"the process ended with code {ended.returncode}: {''.join(last)}")
    return Sighting(**json.loads((folder / "seen.json").read_text(encoding="utf-8")))


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def sighting(trial: Trial) -> Sighting:
    """What was seen, looked at once; Skip where there is nothing to see."""
    seen = first_look(trial)
    if seen.unloaded:
        raise Skip("The strategy does not reach another process: see works-in-another-process.")
    if seen.late or seen.error:
        raise Skip("The plain run does not end: see runs-to-the-end.")
    return seen


def first_look(trial: Trial) -> Sighting:
    """What was seen, looked at once."""
    if trial.seen is None:
        trial.seen = look(trial)
        trial.hangs = trial.seen.late
    return trial.seen


class _Watch:
    """An audit hook, which cannot be removed but is told when to look."""

    def __init__(self, seen: Sighting, own: Path, data: tuple[Path, ...]):
        self.seen, self.own, self.data = seen, own, data
        self.looking = False
        sys.addaudithook(self.hook)

    def hook(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.looking:
            return
        if event == "open":
            self._opened(*given)
        elif event in CHANGES:
            for path in given[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
                self._wrote(path)
        elif event in CONNECTIONS:
            self.seen.connected.append(" ".join(map(str, given[-1] if event == "socket.connect" else given[:2])))
            raise ConnectionRefusedError("a strategy has no network")

    def _opened(self, path: Any, mode: str | None, flags: int) -> None:
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or set(mode or "r") & set("wax+")
        if writes:
            self._wrote(path)
        elif (place := _place(path)) and any(place.is_relative_to(root) for root in self.data):
            self.seen.read.append(str(place))

    def _wrote(self, path: Any) -> None:
        place = _place(path)
        if place and not place.is_relative_to(self.own) and place != Path(os.devnull):
            self.seen.written.append(str(place))


def _place(path: Any) -> Path | None:
    """The absolute path; None for a file that is open already."""
    return None if isinstance(path, int) else Path(os.fsdecode(path)).resolve()


@contextlib.contextmanager
def _stdout_into(path: Path) -> Iterator[None]:
    """Everything that this process prints, also from C, goes into a file."""
    sys.stdout.flush()
    kept = os.dup(1)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)


def _main(folder: Path, threads: int) -> Sighting:
    import torch

    from .. import attacks, backbones, data  # here, so that their imports are not taken for the strategy's doing
    from .trial import Setup, Trial, brief

    torch.set_num_threads(threads)
    attacks.pgd  # noqa: B018  # as above
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)  # the first one makes a folder for torch's compiler
    seen = Sighting()
    try:
        trial = Trial(*pickle.loads((folder / "request").read_bytes()))
    except Exception as problem:
        seen.unloaded = brief(problem)
        return seen
    setup = Setup()
    trial.run(setup, trial.network(setup), folder)  # reads the images
    own = folder.resolve() / "run"
    own.mkdir()
    watch = _Watch(seen, own, (Path(backbones.__file__).resolve().parent.parent / "assets", data.data_root().resolve()))

    @contextlib.contextmanager
    def looking() -> Iterator[None]:
        faulthandler.dump_traceback_later(trial.seconds, exit=True)
        watch.looking = True
        try:
            yield
        finally:
            watch.looking = False
            faulthandler.cancel_dump_traceback_later()

    with _stdout_into(folder / "printed"):
        attempt = trial.attempt(setup, watch=looking(), directory=own)
    seen.written += [str(path) for path in Path.cwd().iterdir() if str(path) not in seen.written]
    seen.printed = (folder / "printed").read_text(encoding="utf-8", errors="replace")[:80]
    if attempt.error is not None:
        seen.error = brief(attempt.error)
    elif isinstance(attempt.tuned, torch.nn.Module):
        seen.weights = backbones.hash_state(attempt.state)
    return seen


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "seen.json").write_text(json.dumps(asdict(_main(place, int(sys.argv[2])))), encoding="utf-8")
