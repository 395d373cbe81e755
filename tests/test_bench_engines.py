"""What the engines of a benchmark share: devices, a cell's process, chunks that are handed over, and wrong requests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtk.bench import engines
from rtk.bench.cells import cells_of
from rtk.bench.engines import devices, tasks
from rtk.bench.engines.local import Local
from rtk.bench.engines.work import Work
from rtk.bench.spec import Group, Spec
from rtk.bench.store import Store
from rtk.cli import bench
from rtk.evaluation import handover
from rtk.progress import Silent

from .test_cli import processes, wait_for

TYPED = ["finetune", "--strategy", "linear-probe", "--epochs", "0", "--suite", "clean,pgd20", "--images", "20"]
TYPED += ["--chunk-size", "10", "--workers", "1", "--device", "cpu", "--quiet"]
RUN = [Group(strategy="linear-probe")]  # type: ignore[call-arg]


def rtk(*typed: str, **environment: str) -> subprocess.Popen[str]:
    pipe, own = subprocess.PIPE, {"OMP_NUM_THREADS": "1", **os.environ, **environment}
    return subprocess.Popen([sys.executable, "-m", "rtk.cli", *typed], env=own, stdout=pipe, stderr=pipe, text=True)


def said(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr."""
    _, err = process.communicate(timeout=120)
    return process.returncode, err


@given(st.lists(st.sampled_from("abc"), min_size=1, unique=True), st.integers(0, 20))
def test_devices_are_shared_out_evenly(names: list[str], cells: int) -> None:
    taken: list[str | None] = [None]  # a cell on the CPU takes none
    for _ in range(cells):
        taken.append(devices.freest(names, taken))
    uses = Counter(taken[1:])
    assert set(uses) <= set(names)
    assert max(uses.values(), default=0) - min(uses[name] for name in names) <= 1


def test_a_device_that_is_free_again_is_taken_first() -> None:
    assert devices.freest(["0", "1", "2"], ["0", "2", None]) == "1"
    assert devices.freest(["1", "0"], []) == "1", "in the order in which they are named"


@pytest.mark.parametrize(("device", "given"), [("auto", True), ("cuda", True), ("cpu", False), ("cuda:1", False)])
def test_cells_on_the_cpu_and_those_that_name_their_device_are_given_none(device: str, given: bool) -> None:
    (cell,) = cells_of(Spec(name="mine", options={"device": device}, run=RUN))
    assert devices.takes_one(cell) == given


@pytest.mark.parametrize(("named", "expected"), [(None, ["0", "1"]), ("3,5,7", ["3", "5"]), ("GPU-a,GPU-b", None)])
def test_devices_are_called_as_the_environment_calls_them(
    named: str | None, expected: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    if named is not None:
        monkeypatch.setenv(devices.VISIBLE, named)
    monkeypatch.setattr(devices, "COUNT", "print(2)")  # what torch would say on a machine with two
    assert devices.visible() == (expected or ["GPU-a", "GPU-b"])


def test_without_a_gpu_and_with_a_broken_torch_there_are_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VISIBLE, "")
    assert devices.visible() == []
    monkeypatch.setattr(devices, "COUNT", "import no_such_module")
    assert devices.visible() == []


@pytest.mark.parametrize(("asked", "jobs"), [(None, 3), (1, 1), (5, 5)])
def test_a_cell_for_each_device_at_once(
    asked: int | None, jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setattr(devices, "COUNT", "print(3)")
    assert Local(cells_of(Spec(name="mine", run=RUN)), Store(tmp_path), Silent(), jobs=asked).jobs == jobs


def environment(process: int) -> list[bytes]:
    path = Path(f"/proc/{process}/environ")
    wait_for(path.read_bytes)  # for a moment a process that has just been started has none
    return path.read_bytes().split(b"\0")


def test_a_cells_process_sees_its_device_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setattr(devices, "COUNT", "print(3)")
    cells = cells_of(Spec(name="mine", seeds=[0, 1, 2, 3], run=RUN))
    engine = Local(cells, Store(tmp_path), Silent(), jobs=4)
    try:
        for cell in cells:
            assert engine.room()
            engine.begin(cell)
        assert not engine.room()
        given = [environment(busy.work.process.pid) for busy in engine.busy]
    finally:
        engine.stop()
    seen = [entry.decode() for each in given for entry in each if entry.startswith(b"CUDA_VISIBLE_DEVICES=")]
    assert seen == [f"CUDA_VISIBLE_DEVICES={number}" for number in (0, 1, 2, 0)]


def test_chunks_that_are_handed_over_are_judged_as_if_they_were_not(tmp_path: Path) -> None:
    whole = rtk(*TYPED, "--out", str(tmp_path / "whole"))
    first = rtk(*TYPED, "--out", str(tmp_path / "parts"), RTK_HAND_OVER=str(tmp_path / "chunks"))
    assert said(first) == (handover.EXIT_CODE, "") and said(whole) == (0, "")
    assert (tmp_path / "parts" / "model.safetensors").exists() and not (tmp_path / "parts" / "result.json").exists()
    found = handover.read(tmp_path / "chunks")
    assert not found.cuda and len(found.chunks) == 4
    before = (tmp_path / "parts" / "model.safetensors").stat().st_mtime_ns
    for chunk in reversed(found.chunks):
        handover.judge(chunk)
    last = rtk(*TYPED, "--out", str(tmp_path / "parts"), RTK_HAND_OVER=str(tmp_path / "chunks"))
    assert said(last) == (0, ""), "nothing waits, so there is nothing to hand over"
    assert (tmp_path / "parts" / "model.safetensors").stat().st_mtime_ns == before
    one, other = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "parts"))
    assert one["rows"] == other["rows"] and one["trained"] == other["trained"]
    spent = json.loads((tmp_path / "parts" / "work" / "cost").read_text())
    assert other["seconds"]["finetune"] == round(spent["seconds"], 1) > 0
    assert other["seconds"]["cpu"] > spent["cpu"]


@pytest.mark.parametrize("way", ["it is killed", "it ends"])
def test_a_process_on_a_leash_ends_with_who_holds_it(way: str, tmp_path: Path) -> None:
    """And what it has started: a process of its own for a third party's strategy, or for --time-limit."""
    read, write = os.pipe()
    code = (
        "import sys, subprocess, time; subprocess.Popen(sys.argv[1:], stdin=0, stderr=-3, stdout=-3); time.sleep(600)"
    )
    typed = [*TYPED, "--out", str(tmp_path / "run"), "--time-limit", "600", "--images", "all"]
    command = [sys.executable, "-c", code, sys.executable, "-m", "rtk.cli", *typed]
    holder = subprocess.Popen(command, stdin=read, env={**os.environ, "RTK_LEASH": "1"}, start_new_session=True)
    os.close(read)
    try:
        wait_for(lambda: (tmp_path / "run" / "evaluation").exists())
        assert len(processes(holder.pid)) >= 3
        if way == "it is killed":
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        os.close(write)
        wait_for(lambda: len(processes(holder.pid)) <= (way == "it ends"), 20)
    finally:
        for left in processes(holder.pid):
            os.kill(int(left), signal.SIGKILL)
        holder.wait()
    assert not (tmp_path / "run" / "result.json").exists()


@given(st.lists(st.binary(), max_size=30), st.integers(1, 40))
def test_chunks_are_shared_out_evenly(chunks: list[bytes], parts: int) -> None:
    found = tasks.shared_out(chunks, parts)
    assert Counter(chunk for part in found for chunk in part) == Counter(chunks)
    assert len(found) <= parts and all(found)
    assert max(map(len, found), default=0) - min(map(len, found), default=0) <= 1


def test_what_a_killed_process_has_started_does_not_go_on() -> None:
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    work = Work(["--version"], {})
    work.process.wait()
    work.process = subprocess.Popen([sys.executable, "-c", code + "time.sleep(600)"], start_new_session=True)
    group = work.process.pid
    wait_for(lambda: len(processes(group)) == 2)
    os.kill(group, signal.SIGKILL)
    work.process.wait()
    ended = work.ended()
    assert ended is not None and ended.code == -9 and ended.reason.startswith("ended by SIGKILL")
    work.close()
    wait_for(lambda: not processes(group), 1)


def test_the_command_line_knows_all_engines() -> None:
    assert tuple(engines.ENGINES) == bench.ENGINES


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "spec.toml"
    path.write_text('name = "mine"\n[[run]]\nstrategy = "linear-probe"\n')
    return str(path)


def test_an_address_is_a_clusters(spec: str) -> None:
    code, err = said(rtk("bench", "run", spec, "--address", "127.0.0.1:6379"))
    assert (code, err) == (2, "rtk: --address 127.0.0.1:6379: the engine 'local' has none. Try: --engine ray\n")


def test_ray_that_is_not_installed_is_asked_for(spec: str, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n")
    typed = ("bench", "run", spec, "--engine", "ray", "--out", str(tmp_path / "out"))
    code, err = said(rtk(*typed, PYTHONPATH=str(tmp_path / "without")))
    assert (code, err) == (2, "rtk: --engine ray: Ray is not installed. Try: pip install 'rtk[ray]'\n")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_no_cluster_at_the_address_is_one_sentence(address: str, spec: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    begun = time.monotonic()
    typed = ("bench", "run", spec, "--engine", "ray", "--address", address, "--out", str(tmp_path / "out"))
    code, err = said(rtk(*typed))
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in err
    assert err.startswith(f"rtk: --address {address}: no Ray cluster") and "ray start --head" in err
    assert time.monotonic() - begun < 30
