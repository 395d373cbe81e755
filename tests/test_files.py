"""A file is either whole or absent."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtk import files
from rtk.errors import BadData, RunFailed


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB; skipped where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "rtk-test", place], capture_output=True)
    except OSError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("cannot mount a file system here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_written_json_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"a": [1, 2.5, None, "ä"]})
    assert files.read_json(path) == {"a": [1, 2.5, None, "ä"]}
    assert [found.name for found in path.parent.iterdir()] == ["a.json"]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_nan_is_refused_and_the_earlier_version_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, 1)
    with pytest.raises(ValueError, match=r"JSON"):
        files.write_json(path, float("nan"))
    assert files.read_json(path) == 1


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_while_writing_leaves_the_earlier_version(tmp_path: Path, kind: type[BaseException]) -> None:
    path = tmp_path / "a"
    files.write(path, lambda file: file.write(b"old"))

    def fail(file: object) -> None:
        raise kind("stop")

    with pytest.raises(kind):
        files.write(path, fail)
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_full_disk_is_one_sentence_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a"
    files.write(path, lambda file: file.write(b"old"))

    def full(*given: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((files._File, "write", full) if step == "write" else (os, "fsync", full)))
    with pytest.raises(RunFailed, match=r"Disk full while writing .*/a; what was finished is kept. Try: free space"):
        files.write(path, lambda file: file.write(b"new"))
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


def test_a_disk_that_is_really_full(full_disk: Path) -> None:
    torch = pytest.importorskip("torch")
    path = full_disk / "a.pt"
    files.write(path, lambda file: torch.save({"w": torch.zeros(10)}, file))
    old = path.read_bytes()
    # torch.save makes a RuntimeError of it that says nothing of the disk
    with pytest.raises(RunFailed, match=r"Disk full while writing"):
        files.write(path, lambda file: torch.save({"w": torch.rand(100_000)}, file))
    assert path.read_bytes() == old
    assert [found.name for found in full_disk.iterdir()] == ["a.pt"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunFailed, match=r"Cannot write /proc/rtk/a"):
        files.write(Path("/proc/rtk/a"), lambda file: None)
    (tmp_path / "file").touch()
    with pytest.raises(RunFailed, match=r"Cannot write .*: (File exists|Not a directory)"):
        files.write(tmp_path / "file" / "a", lambda file: None)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"a": 1} x'])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(BadData, match=r"not JSON"):
        files.read_json(path)


def test_missing_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"No such file"):
        files.read_json(tmp_path / "a.json")


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert files.digest({"a": 1, "b": [2]}) == files.digest({"b": [2], "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})


def test_only_temporary_files_are_leftovers(tmp_path: Path) -> None:
    for name in (".lock", ".gitignore", "a.0123abcd", ".a.0123abcz", ".a.json"):
        assert not files.is_leftover(tmp_path / name)
    assert files.is_leftover(tmp_path / ".a.json.0123abcd")


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_held_folder_that_goes_while_it_is_written_is_told_from_one_that_cannot_be(tmp_path: Path, when: str) -> None:
    """Else a benchmark, for which a folder that cannot be written is no cell's failure, would end."""
    lock = tmp_path / "run" / ".lock"
    lock.parent.mkdir()
    lock.write_text("12 on here\n")

    def taken_away(_: object) -> None:
        shutil.rmtree(lock.parent)

    with pytest.raises(RunFailed, match=f"run {files.GONE}"), files.holding(lock):
        if when == "before":
            taken_away(None)
            files.append(lock.parent / "log", "line")
        files.write(lock.parent / "a.json", taken_away)
    shutil.rmtree(lock.parent, ignore_errors=True)
    with pytest.raises(RunFailed, match=f"run {files.GONE}"), files.holding(lock):
        pytest.fail("it had gone before it was held")
