"""Who may write into the folder of a run."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rtk import files, rundir
from rtk.errors import BadBackbone, BadValue, RunExists, RunFailed

CONFIG = {"strategy": "full", "config": {"lr": 0.1}, "options": {"dataset": "signs"}}
OTHER = {**CONFIG, "config": {"lr": 0.2}}


def finish(directory: Path, config: dict[str, Any] = CONFIG, **options: bool) -> None:
    with rundir.claim(directory, config, **options):
        for name in rundir.FILES[1:]:
            (directory / name).write_text("{}")
        for name in rundir.FOLDERS:
            (directory / name).mkdir(exist_ok=True)
            (directory / name / "deep").write_text("")


def names(directory: Path) -> list[str]:
    return sorted(found.name for found in directory.iterdir())


def test_a_new_folder_is_made_with_its_configuration(tmp_path: Path) -> None:
    with rundir.claim(tmp_path / "a" / "b", CONFIG):
        assert rundir.read_config(tmp_path / "a" / "b") == CONFIG
    assert names(tmp_path / "a" / "b") == ["config.json"]


def test_an_unfinished_run_goes_on(tmp_path: Path) -> None:
    with rundir.claim(tmp_path, CONFIG):
        (tmp_path / "work").mkdir()
    with rundir.claim(tmp_path, CONFIG):
        assert (tmp_path / "work").exists()


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    finish(tmp_path)
    before = names(tmp_path)
    with pytest.raises(RunExists, match=rf"already holds this result. Try: rtk show {tmp_path}; --force runs it again"):
        finish(tmp_path)
    assert names(tmp_path) == before


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with rundir.claim(tmp_path, CONFIG):
        pass
    with pytest.raises(
        RunExists, match=r"other settings \(lr: 0.1 there, 0.2 asked\). Try: --force to replace it, or --out"
    ):
        finish(tmp_path, OTHER)
    assert rundir.read_config(tmp_path) == CONFIG


@pytest.mark.parametrize("config", [CONFIG, OTHER])
def test_force_replaces_a_run_and_nothing_else(tmp_path: Path, config: dict[str, Any]) -> None:
    finish(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with rundir.claim(tmp_path, config, force=True):
        assert names(tmp_path) == [".lock", "config.json", "notes.txt"]
    assert rundir.read_config(tmp_path) == config


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [("thesis.tex", "x"), ("config.json", '{"model_type": "vit"}'), ("config.json", "[]"), ("config.json", "{")],
)
def test_what_is_no_run_is_never_touched(tmp_path: Path, name: str, content: str, force: bool) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "model.safetensors").write_text("somebody's weights")  # as in a folder of the Hugging Face hub
    with pytest.raises(RunExists, match=r"no run of rtk; it is left alone. Try: --out AN_EMPTY_DIR"):
        finish(tmp_path, force=force)
    assert names(tmp_path) == sorted([name, "model.safetensors"])
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("below", ["", "deep", "deep/er"])
def test_a_file_is_no_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunExists, match=r"is a file, or lies in one"):
        finish(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    holder = "import sys; from rtk import rundir; from pathlib import Path\n"
    holder += f"with rundir.claim(Path({str(tmp_path)!r}), {CONFIG!r}): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", holder], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        for force in (False, True):
            with pytest.raises(RunExists, match=rf"is in use by another process \(process {process.pid} on \S+\)\. "):
                finish(tmp_path, force=force)
        process.stdin.close()
        assert process.wait() == 0
    finish(tmp_path)


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    holder = "import os; from rtk import rundir; from pathlib import Path\n"
    holder += f"with rundir.claim(Path({str(tmp_path)!r}), {CONFIG!r}): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", holder]).returncode == -9
    assert ".lock" in names(tmp_path)
    finish(tmp_path)
    assert ".lock" not in names(tmp_path)


def test_what_a_killed_process_left_half_written_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".config.json.01234567").write_text("half")  # killed before the first file was in place
    with rundir.claim(tmp_path, CONFIG):
        (tmp_path / "evaluation" / "full").mkdir(parents=True)
    halves = [tmp_path / ".model.safetensors.89abcdef", tmp_path / "evaluation" / "full" / ".00000.json.01234567"]
    for path in halves:
        path.write_text("half")
    (tmp_path / ".gitignore").write_text("*")
    with rundir.claim(tmp_path, CONFIG):
        assert not any(path.exists() for path in halves)
    assert names(tmp_path) == [".gitignore", "config.json", "evaluation"]


def test_a_wrong_request_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadValue), rundir.claim(tmp_path / "run", CONFIG):
        (tmp_path / "run" / "source").mkdir()
        raise BadValue("--module: no such module")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(BadValue), rundir.claim(tmp_path / "run", CONFIG):
        raise BadValue("--module: no such module")
    assert names(tmp_path / "run") == []  # it was there before


def test_a_wrong_request_does_not_delete_what_was_there(tmp_path: Path) -> None:
    with rundir.claim(tmp_path, CONFIG):
        (tmp_path / "work").mkdir()
    with pytest.raises(BadValue), rundir.claim(tmp_path, CONFIG):
        raise BadValue("--device cuda:7")
    assert names(tmp_path) == ["config.json", "work"]


@pytest.mark.parametrize("problem", [RunFailed("x"), KeyboardInterrupt()])
def test_a_failed_or_interrupted_run_is_kept(tmp_path: Path, problem: BaseException) -> None:
    with pytest.raises(type(problem)), rundir.claim(tmp_path / "run", CONFIG):
        raise problem
    assert names(tmp_path / "run") == ["config.json"]


def test_a_kill_while_clearing_leaves_something_that_is_still_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path)
    steps = len(rundir.FILES) + len(rundir.FOLDERS)
    for allowed in range(steps):
        done = iter(range(allowed))

        def stop(original: Any, done: Any = done) -> Any:
            def step(*given: Any, **options: Any) -> Any:
                if next(done, None) is None:
                    raise KeyboardInterrupt
                return original(*given, **options)

            return step

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "unlink", stop(Path.unlink))
            patch.setattr(rundir.shutil, "rmtree", stop(rundir.shutil.rmtree))
            rundir.clear(tmp_path)
        assert rundir.read_config(tmp_path) == CONFIG
        assert not (tmp_path / "result.json").exists() or (tmp_path / "model.safetensors").exists()
        finish(tmp_path, force=True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_fails_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunFailed, match=r"Disk full" if number == errno.ENOSPC else "Cannot write .*run: "):
        finish(tmp_path / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_fails_in_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunFailed, match=r"Cannot write .*Permission denied"):
        finish(tmp_path / "run")


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"model_type": "vit"}', '{"strategy": 1, "config": 2, "options": 3}']
)
def test_a_folder_without_a_run_is_no_backbone(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadBackbone):
        rundir.read_config(tmp_path)


def test_json_of_the_configuration_is_what_was_given(tmp_path: Path) -> None:
    with rundir.claim(tmp_path, CONFIG):
        pass
    assert files.read_json(tmp_path / "config.json") == CONFIG
