"""What goes wrong around a run: a full disk, a folder that cannot be written or is taken away, clocks that jump.

Always: one line that says what to do, earlier results intact, and afterwards the same call ends with the bits of a run
to which nothing happened.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rtk
from rtk import files, rundir
from rtk.bench.cells import Cell, cells_of
from rtk.bench.spec import read_spec
from rtk.bench.store import Store
from rtk.cli import main
from rtk.errors import BadData, RtkError, RunExists, RunFailed
from rtk.progress import Silent

from .small_files import OPTIONS, bits, few, finetune

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return few(tmp_path_factory.mktemp("few") / "few.npz")


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which nothing happened; read it, do not write there."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finetune(images, out)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_line(problem: BaseException) -> str:
    text = str(problem)
    assert "\n" not in text and "defect" not in text
    return text


class Meddling(Silent):
    """Does something when a stage has come so far."""

    def __init__(self, stage: str, amount: float, meddle: Callable[[], None]):
        self.when, self.left, self.meddle, self.now = stage, amount, meddle, ""

    def stage(self, name: str, total: float) -> Silent:
        self.now = name
        return self

    def advance(self, amount: float = 1, note: str = "") -> None:
        if self.now == self.when and self.left > 0:
            self.left -= amount
            if self.left <= 0:
                self.meddle()


TRAINING, JUDGING = ("fine-tune", 8), ("evaluate", 100)
"""In the second epoch, whose steps are five; in the second half of the evaluation."""


def interrupt() -> None:
    raise KeyboardInterrupt


# a full disk


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """A file system of its own; skipped where none can be mounted, which mostly takes root."""
    place.mkdir()
    done = subprocess.run(["mount", *options, place], capture_output=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_full_and_gets_room_bit_by_bit(images: Path, whole: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m", "rtk-test") as disk:
        said, ballast = [], disk / "ballast"
        ballast.write_bytes(bytes(4 * 2**20 - 2**13))  # what is left is less than the lock and a folder need
        while ballast.stat().st_size:
            try:
                finetune(images, disk / "run")
            except RunFailed as problem:
                said.append(one_line(problem))
                assert said[-1].startswith(f"Disk full while writing {disk}/run")
                assert (
                    "; what was finished is kept. Try: free space (" in said[-1] and f"are free in {disk}" in said[-1]
                )
                assert not [path for path in (disk / "run").rglob(".*") if files.is_leftover(path)]
            else:
                break
            os.truncate(ballast, ballast.stat().st_size - 150 * 2**10)
        assert bits(disk / "run") == bits(whole)
        assert len({line.split()[4] for line in said}) >= 3, said  # several files in turn
        assert any("KiB or more are needed" in line for line in said)


def evaluate(whole: Path, out: Path) -> dict[str, Any]:
    given = {name: OPTIONS[name] for name in ("suite", "images", "chunk_size", "workers", "device")}
    return rtk.evaluate(whole, out=out, **given).row.model_dump(mode="json")


@pytest.mark.parametrize("work", ["finetune", "evaluate"])
def test_a_disk_that_fills_up_at_any_moment(
    images: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    def do(out: Path) -> dict[str, Any]:
        if work == "evaluate":
            return evaluate(whole, out)
        finetune(images, out)
        return bits(out)

    expected = do(tmp_path / "plain")
    calls, sync, allowed = 0, os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for allowed in range(0, 100, 3):  # noqa: B007 - read by `full`
        calls = 0
        try:
            found = do(tmp_path / "run")
        except RunFailed as problem:
            assert "Disk full while writing" in one_line(problem)
        else:
            break
    assert allowed >= 15 and found == expected
    assert not [*tmp_path.rglob(".*")]


def test_a_file_that_may_not_grow_as_large(images: Path, whole: Path, tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))  # a real one that no user needs rights for
    try:
        with pytest.raises(RunFailed, match=r"^Cannot write .*/source/model.safetensors: File too large\. Try: "):
            finetune(images, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    finetune(images, tmp_path / "run")
    assert bits(tmp_path / "run") == bits(whole)


def test_a_full_disk_takes_no_half_of_a_line_into_a_log(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64k", "rtk-test") as disk:
        files.append(disk / "log", "first")
        with pytest.raises(RunFailed, match=r"Disk full while writing .*/log"):
            files.append(disk / "log", "x" * 100_000)
        files.append(disk / "log", "last")
        assert (disk / "log").read_text() == "first\nlast\n"


# a folder that cannot be written


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """A folder that this user cannot write: root needs a mount for that."""
    if os.geteuid():
        place.chmod(0o500)
        yield
        place.chmod(0o700)
        return
    done = subprocess.run(["mount", "--bind", place, place], capture_output=True)
    if done.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_folder_that_cannot_be_written(images: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "mine"
    (tmp_path / "runs").mkdir()
    with read_only(tmp_path / "runs"), pytest.raises(RunFailed, match=r"^Cannot write .*mine: .*\. Try: --out DIR"):
        finetune(images, out)
    assert not out.exists()
    with pytest.raises(RtkError):
        finetune(images, out, Meddling(*TRAINING, interrupt))
    begun = contents(out)
    with read_only(out), pytest.raises(RunFailed, match=r"^Cannot write .*mine: "):
        finetune(images, out)
    assert contents(out) == begun
    finetune(images, out)
    assert bits(out) == bits(whole)


def test_results_are_shown_where_nothing_can_be_written(
    whole: Path, bench: tuple[Path, Store, list[Cell]], capsys: pytest.CaptureFixture[str]
) -> None:
    spec, store, _ = bench
    commands = [["show", whole], *(["bench", name, spec, "--out", store.root] for name in ("status", "table"))]
    (store.root / "index.json").unlink(missing_ok=True)
    with read_only(whole), read_only(store.root):
        for command in commands:
            with pytest.raises(SystemExit) as ended:
                main([str(each) for each in command])
            assert not ended.value.code and capsys.readouterr().out
    assert not (store.root / "index.json").exists()


# what is deleted


@pytest.mark.parametrize("when", [TRAINING, JUDGING])
@pytest.mark.parametrize("name", ["", rundir.LOCK])
def test_a_folder_that_is_taken_away_is_not_written_again(
    images: Path, whole: Path, tmp_path: Path, name: str, when: tuple[str, float]
) -> None:
    out = tmp_path / "run"

    def delete() -> None:
        shutil.rmtree(out / name) if not name else (out / name).unlink()

    with pytest.raises(RunFailed, match=r"run was deleted or replaced while it was in use\. Try: the same command"):
        finetune(images, out, Meddling(*when, delete))
    assert out.exists() == bool(name)  # half a run would keep the next one from beginning
    finetune(images, out)
    assert bits(out) == bits(whole)


@pytest.mark.parametrize("theirs", [False, True])
def test_what_was_written_while_its_folder_was_deleted_is_deleted_too(
    images: Path, whole: Path, tmp_path: Path, theirs: bool
) -> None:
    """`rm -rf` reads a folder, the run writes there, what was read is deleted: once the rest was taken for no run."""
    out = tmp_path / "run"
    out.mkdir()

    def delete() -> None:
        if theirs:
            (out / "notes.txt").write_text("mine")
        for name in (rundir.LOCK, rundir.CONFIG):
            (out / name).unlink()

    with pytest.raises(RunFailed, match=r"run was deleted or replaced while it was in use\. Try: the same command"):
        finetune(images, out, Meddling(*TRAINING, delete))
    if theirs:
        assert {path.name for path in out.iterdir()} <= {"notes.txt", rundir.LOCK}
        (out / "notes.txt").unlink()
    else:
        assert not out.exists()
    finetune(images, out)
    assert bits(out) == bits(whole)


def test_a_folder_that_somebody_else_has_begun_anew_is_left_to_them(images: Path, tmp_path: Path) -> None:
    out, theirs = tmp_path / "run", {"strategy": "x", "config": {}, "options": {}}

    def replace() -> None:
        shutil.rmtree(out)
        out.mkdir()
        (out / rundir.CONFIG).write_text(json.dumps(theirs))
        (out / rundir.LOCK).write_text("1 on elsewhere")

    with pytest.raises(RunFailed, match=r"was deleted or replaced"):
        finetune(images, out, Meddling(*TRAINING, replace))
    assert {path.name for path in out.iterdir()} == {rundir.CONFIG, rundir.LOCK}
    assert files.read_json(out / rundir.CONFIG) == theirs


def test_a_lock_is_known_by_its_number_or_by_what_it_says(tmp_path: Path) -> None:
    with rundir.claim(tmp_path / "run", {"strategy": "x", "config": {}, "options": {}}):
        lock = tmp_path / "run" / rundir.LOCK
        said = lock.read_text()
        lock.write_text("")  # as versions of filelock do that only look whether it is held
        assert files.is_held(lock)
        lock.write_text(said)
        (tmp_path / "same").write_text(said)
        (tmp_path / "same").replace(lock)  # as file systems without lasting numbers have it
        assert files.is_held(lock)
        lock.write_text("1 on elsewhere")
        assert not files.is_held(lock)
        lock.write_text(said)


def test_evaluating_processes_do_not_write_where_the_folder_is_gone(tmp_path: Path) -> None:
    with rundir.claim(tmp_path / "run", {"strategy": "x", "config": {}, "options": {}}):
        held = files.held()
    files.hold(held)  # as a worker does that lives for longer than its folder
    try:
        with pytest.raises(RunFailed, match=r"was deleted or replaced"):
            files.write_json(tmp_path / "run" / "evaluation" / "0.json", 1)
    finally:
        files._held.clear()


def interrupted(images: Path, out: Path) -> set[str]:
    """Begin a run and interrupt it while it is judged; the files it left."""
    with pytest.raises(RtkError):
        finetune(images, out, Meddling(*JUDGING, interrupt))
    return set(contents(out))


def test_any_file_may_go_between_two_parts_of_a_run(images: Path, whole: Path, tmp_path: Path) -> None:
    found = interrupted(images, tmp_path / "begun")
    assert {"source/model.safetensors", "work/fine-tune.pt", "model.safetensors", "report.json"} < found
    for name in found - set(sorted(each for each in found if each.startswith("evaluation/"))[1:]):
        again = shutil.copytree(tmp_path / "begun", tmp_path / "again")
        (again / name).unlink()
        try:
            finetune(images, again)
        except RtkError as problem:
            assert name == "config.json" and "holds something that is no run of rtk" in one_line(problem)
        else:
            assert bits(again) == bits(whole), name
        shutil.rmtree(again)


@pytest.mark.parametrize("name", ["model.safetensors", "source/model.safetensors", "work/fine-tune.pt", "log.jsonl"])
def test_a_file_that_goes_while_it_is_in_use(images: Path, whole: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    try:
        finetune(images, out, Meddling(*JUDGING, lambda: (out / name).unlink()))
    except RtkError as problem:
        assert name in one_line(problem)
        finetune(images, out)
    assert bits(out) == bits(whole)


def test_weights_that_go_while_a_run_is_under_way(images: Path, whole: Path, tmp_path: Path) -> None:
    weights, out = tmp_path / "source.safetensors", tmp_path / "run"
    shutil.copy(whole / "model.safetensors", weights)
    finetune(images, tmp_path / "plain", weights=str(weights))
    with pytest.raises(RtkError):
        finetune(images, out, Meddling(*TRAINING, lambda: (weights.unlink(), interrupt())), weights=str(weights))
    kept = contents(out)
    with pytest.raises(RtkError, match=r"source\.safetensors"):
        finetune(images, out, weights=str(weights))
    assert contents(out) == kept
    shutil.copy(whole / "model.safetensors", weights)
    finetune(images, out, weights=str(weights))
    assert bits(out) == bits(tmp_path / "plain")


def test_a_chunk_that_goes_late_takes_nothing_else_with_it(images: Path, whole: Path, tmp_path: Path) -> None:
    """An error that speaks of a wrong request, since a file is missing, once deleted what days had computed."""
    with pytest.raises(BadData), rundir.claim(tmp_path / "run", {"strategy": "x", "config": {}, "options": {}}):
        files.write_bytes(tmp_path / "run" / "model.safetensors", b"days")
        raise BadData("a chunk is missing")
    assert (tmp_path / "run" / "model.safetensors").exists()


# a benchmark's folder


SPEC = """
name = "tiny"
[options]
dataset = "npz:{images}"
k = 1
{own}
[[run]]
strategy = "last-k"
vary = {{lr = [0.1, 0.2]}}
"""


@pytest.fixture(scope="module")
def benched(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec and its benchmark of two cells, both of them done."""
    folder = tmp_path_factory.mktemp("benched")
    own = "\n".join(f"{name} = {json.dumps(value)}" for name, value in OPTIONS.items() if name != "lr")
    (folder / "spec.toml").write_text(SPEC.format(images=images, own=own))
    for cell in cells_of(read_spec(folder / "spec.toml")):
        finetune(images, Store(folder / "bench").directory(cell), lr=cell.settings.all["lr"])
    return folder


@pytest.fixture
def bench(benched: Path, tmp_path: Path) -> tuple[Path, Store, list[Cell]]:
    """The same to write in."""
    shutil.copytree(benched, tmp_path, dirs_exist_ok=True)
    return tmp_path / "spec.toml", Store(tmp_path / "bench"), cells_of(read_spec(tmp_path / "spec.toml"))


def test_what_is_deleted_from_a_benchmark_is_missed_and_nothing_else(bench: tuple[Path, Store, list[Cell]]) -> None:
    _, store, (first, second) = bench
    records = [store.record(cell) for cell in (first, second)]
    store.index.new = 2
    store.index.save()
    (store.root / "index.json").unlink()
    assert [Store(store.root).record(cell) for cell in (first, second)] == records
    store.index.new = 2
    store.index.save()
    (store.directory(first) / rundir.RESULT).unlink()
    again = Store(store.root)
    assert [again.state(cell) for cell in (first, second)] == ["waiting", "done"]
    shutil.rmtree(store.directory(second))
    assert [again.state(cell) for cell in (first, second)] == ["waiting", "waiting"]


def test_what_killed_processes_left_is_swept_and_what_is_new_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for folder in (tmp_path, tmp_path / "cells", tmp_path / "failures"):
        folder.mkdir(exist_ok=True)
        for name, age in (("old", 7200), ("new", 0), ("ahead", -7200)):
            path = folder / f".{name}.json.01234567"
            path.write_text("half")
            os.utime(path, (time.time() - age,) * 2)
        (folder / ".gitignore").write_text("*")
    store.sweep()
    left = {path.name for path in tmp_path.rglob(".*") if path.is_file()}
    assert left == {".new.json.01234567", ".gitignore"}


# clocks


def test_clocks_that_jump_by_hours_change_nothing(
    images: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps, now = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: now() + jumps.uniform(-1e5, 1e5))
    with pytest.raises(RtkError):
        finetune(images, tmp_path / "run", Meddling(*TRAINING, interrupt))
    for path in (tmp_path / "run").rglob("*"):
        os.utime(path, (jumps.uniform(1e6, 4e9),) * 2)
    finetune(images, tmp_path / "run")
    assert bits(tmp_path / "run") == bits(whole)


@pytest.mark.parametrize("jump", [-1e5, 1e5])
def test_a_lock_does_not_get_old(tmp_path: Path, jump: float) -> None:
    config = {"strategy": "x", "config": {}, "options": {}}
    with rundir.claim(tmp_path / "run", config):
        os.utime(tmp_path / "run" / rundir.LOCK, (time.time() + jump,) * 2)
        said = rf"in use by another process \(process {os.getpid()} on "
        with pytest.raises(RunExists, match=said), rundir.claim(tmp_path / "run", config):
            pass


def test_results_count_whatever_their_time_is(bench: tuple[Path, Store, list[Cell]]) -> None:
    _, store, cells = bench
    records = [store.record(cell) for cell in cells]
    for number, cell in enumerate(cells):
        os.utime(store.directory(cell) / rundir.RESULT, (4e9 * number,) * 2)
    assert [store.record(cell) for cell in cells] == records


# two processes


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("12 on node-7.cluster.example", " (process 12 on node-7.cluster.example)"),  # of another machine, over NFS
        ("", ""),
        ("12 on \x1b[2J", ""),
        ("x" * 10_000, ""),
    ],
)
def test_who_holds_a_folder_is_said_where_it_is_known(tmp_path: Path, said: str, told: str) -> None:
    (tmp_path / rundir.LOCK).write_text(said)
    assert rundir.holder(tmp_path) == told


# power loss


def test_a_file_is_on_disk_before_its_name_and_its_name_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(str(tmp_path))
        done.append("sync " + (".new" if "/." in name else name or "/"))
        sync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        done.append(f"name {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    files.write_json(tmp_path / "a" / "b" / "c.json", 1)
    assert done == ["sync /", "sync /a", "sync .new", "name c.json", "sync /a/b"]


METHODS = {"write_text", "write_bytes", "touch", "savefig", "tofile"}
FUNCTIONS = {"save", "savez", "savetxt", "save_file", "dump", "copy", "copy2", "copyfile", "copytree", "move"}
OTHERS = {"files", "formatter"}
"""Whose `write_text` or `write_bytes` is another: ours, and click's, which writes help."""
MODULES = {"torch", "np", "numpy", "json", "pickle", "shutil", "safetensors", "tomllib", "Image"}
ALLOWED = {
    ("rtk/files.py", "open"): "the one place",
    ("rtk/files.py", "_File"): "the one place",
    ("rtk/rundir.py", "write_text"): "who holds a lock stands in the lock file, which must stay the same file",
    ("rtk/testing/confined.py", "open"): "a temporary folder",
    ("rtk/testing/confined.py", "write_bytes"): "a temporary folder",
    ("rtk/testing/confined.py", "write_text"): "a temporary folder",
    ("rtk/report/canvas.py", "savefig"): "into memory",
}


def writes(tree: ast.AST, written: bool = False) -> Iterator[str]:
    """Names of calls that write a file by themselves, not in what is given to `files.write`."""
    for node in ast.iter_child_nodes(tree):
        inner = written
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
            inner = written or (owner, name) == ("files", "write")
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            opened = name in ("open", "fdopen", "_File", "FileIO") and any(
                set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes
            )
            method = isinstance(node.func, ast.Attribute) and name in METHODS and owner not in OTHERS
            function = name in FUNCTIONS and (owner in MODULES or name == "save_file")
            if (opened or method or function) and not inner:
                yield name
        yield from writes(node, inner)


def test_nothing_is_written_round_the_one_place_that_does_it_whole() -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for place in ("rtk", "plugins")
        for path in (ROOT / place).rglob("*.py")
        for name in writes(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found <= set(ALLOWED), "use rtk.files: write, write_bytes, write_json or append"


@pytest.mark.parametrize(
    "code",
    [
        "path.write_text('x')",
        "Path('a').write_bytes(b'x')",
        "open('a', 'w')",
        "path.open(mode='ab')",
        "torch.save(state, path)",
        "json.dump(value, file)",
        "save_file(state, path)",
        "np.savez(path, x=1)",
        "shutil.copyfile(a, b)",
        "files.write(path, fill); figure.savefig(path)",
    ],
)
def test_the_rule_finds_what_it_forbids(code: str) -> None:
    assert [*writes(ast.parse(code))]


@pytest.mark.parametrize(
    "code",
    ["files.write(path, lambda file: torch.save(state, file))", "path.open('rb')", "files.write_bytes(path, b'x')"],
)
def test_the_rule_forbids_nothing_else(code: str) -> None:
    assert not [*writes(ast.parse(code))]
