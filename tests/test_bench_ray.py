"""A benchmark on a Ray cluster, as a user runs it. The cluster is a real one, of three nodes on this machine.

Slow because a cluster takes ten seconds to start, and a cell about ten more: its process begins twice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from .test_bench_run import SPEC, Folder, until

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = pytest.mark.slow

ONE = """
name = "tiny"
[options]
suite = "clean,pgd20"
images = 40
chunk_size = 16
[[run]]
strategy = "third"
eps = 0.1
"""
THREE = (
    ONE
    + """
[[run]]
strategy = "linear-probe"
epochs = 1
[[run]]
strategy = "last-k"
k = 1
epochs = 0
"""
)
NODE = {"num_gpus": 0, "include_dashboard": False, "object_store_memory": 80_000_000}


class Machines:
    """A head without CPUs, and nodes with one each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
        self.nodes: dict[int, Any] = {}
        self.add()
        self.add()

    def add(self) -> None:
        node = self.cluster.add_node(**NODE, num_cpus=1)
        self.nodes[node.all_processes["raylet"][0].process.pid] = node
        self.cluster.wait_for_nodes()

    def kill(self, raylet: int) -> None:
        """As a power failure ends a node, all its processes at once and without a word."""
        self.cluster.remove_node(self.nodes.pop(raylet), allow_graceful=False)

    def of(self, name: str) -> int | None:
        """The node that works on a task of this name, if one does."""
        return next((place for place, task in at_work() if task == name and place in self.nodes), None)


def at_work() -> set[tuple[int, str]]:
    """Tasks of this moment: the process of the node, and the kind of task with the strategy."""
    listed = subprocess.run(["ps", "-eo", "ppid=,args="], capture_output=True, text=True, check=True).stdout
    found = [line.split(None, 2) for line in listed.splitlines() if " ray::finetune " in line or " ray::judge " in line]
    return {(int(parent), f"{kind.removeprefix('ray::')} {rest.rsplit('-', 2)[0]}") for parent, kind, rest in found}


@pytest.fixture(scope="module")
def running() -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Machines()
        yield found
        found.cluster.shutdown()


@pytest.fixture
def machines(running: Machines) -> Machines:
    """Two nodes that are alive."""
    while len(running.nodes) < 2:
        running.add()
    return running


Make = Callable[..., "Bench"]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes folders whose benchmarks do not outlive the test."""
    made: list[Bench] = []

    def one(spec: str, *, held: bool = False) -> Bench:
        made.append(Bench(tmp_path / str(len(made)), spec))
        if held:
            (made[-1].path / "hold").touch()
        return made[-1]

    yield one
    for process in [process for folder in made for process in folder.started]:
        process.kill()
        process.wait()


class Bench(Folder):
    """A folder that remembers what it has started."""

    def __init__(self, path: Path, spec: str):
        super().__init__(path, spec)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, action: str, *options: str) -> subprocess.Popen[str]:
        self.started.append(super().start(action, *options))
        return self.started[-1]

    def begun(self) -> list[str]:
        """The radii with which the strategy `third` has begun."""
        place = self.path / "began"
        return place.read_text().split() if place.exists() else []

    def go_on(self) -> None:
        (self.path / "hold").unlink()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """THREE, run on this machine without Ray."""
    folder = Folder(tmp_path_factory.mktemp("local"), THREE)
    code, _, err = folder.rtk("run", "--jobs", "1")
    assert code == 0, err
    return folder


def on(machines: Machines) -> tuple[str, ...]:
    return "--engine", "ray", "--address", machines.cluster.address


def numbers(folder: Folder) -> dict[str, Any]:
    """All that the results say but when, where and how fast."""
    found = {name: json.loads(text) for name, text in folder.results().items()}
    for result in found.values():
        for key in ("created", "command", "seconds", "peak_bytes", "environment"):
            del result[key]
    return found


def table(folder: Folder) -> Any:
    """The table but for its costs."""
    (found,) = json.loads(folder.look("table", "--format", "json")[0])
    for row in found["rows"]:
        for cost in ("minutes", "cpu_minutes", "host_bytes", "device_bytes"):
            del row[cost]
    return found


def chunks(folder: Folder) -> dict[Path, int]:
    """Chunks that are judged, with the time at which each was written."""
    found = (folder.path / "runs").glob("bench-tiny/cells/*/evaluation/*/*/[0-9]*.json")
    return {path: path.stat().st_mtime_ns for path in found}


def processes_of(folder: Folder) -> str:
    """The command lines of processes that work in a folder."""
    listed = [path for path in Path("/proc").glob("[0-9]*") if cwd(path) == str(folder.path)]
    return "\n".join(read(path / "cmdline").decode() for path in listed)


def read(path: Path) -> bytes:
    """A file of a process, which may have ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def cwd(process: Path) -> str:
    try:
        return os.readlink(process / "cwd")  # noqa: PTH115 - a path that may not be there
    except OSError:
        return ""


def test_the_same_table_as_on_this_machine_from_both_nodes(machines: Machines, local: Folder, make: Make) -> None:
    folder = make(THREE)
    process = folder.start("run", *on(machines))
    seen: set[tuple[int, str]] = set()
    while process.poll() is None:
        seen |= at_work()
        time.sleep(0.05)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert all(line.startswith(("Ray: ", "[")) for line in err.splitlines()), "nobody else says anything"
    assert "Ray: 3 nodes, 2 CPUs, 0 GPUs" in err and err.count("done, ") == 3
    assert numbers(folder) == numbers(local)
    assert table(folder) == table(local)
    # a process that was just forked looks like its parent for a moment
    assert {place for place, _ in seen} >= set(machines.nodes), "both nodes have worked"
    assert {task.split()[0] for _, task in seen} == {"finetune", "judge"}
    again = folder.rtk("run", *on(machines))
    assert again[0] == 0 and again[2].count("before") == 3 and numbers(folder) == numbers(local)


def test_a_node_that_dies_while_a_cell_is_fine_tuned(machines: Machines, local: Folder, make: Make) -> None:
    folder = make(THREE, held=True)
    process = folder.start("run", *on(machines))
    until(folder.begun)
    place = machines.of("finetune third")
    assert place is not None
    machines.kill(place)
    until(lambda: folder.begun() == ["0.1", "0.1"], 300)
    folder.go_on()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "Ray: 2 nodes, 1 CPUs" in err, err
    assert numbers(folder) == numbers(local)


def test_a_node_that_dies_while_chunks_are_judged(machines: Machines, make: Make) -> None:
    spec = THREE.replace("images = 40", "images = 400").replace('[[run]]\nstrategy = "third"\neps = 0.1', "")
    folder = make(spec)
    process = folder.start("run", *on(machines))
    until(lambda: len(chunks(folder)) > 5 and machines.of("judge linear-probe") is not None)
    before = chunks(folder)
    place = machines.of("judge linear-probe") or machines.of("judge last-k")
    assert place is not None
    machines.kill(place)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert before.items() <= chunks(folder).items(), "a finished chunk is neither lost nor judged again"
    assert len(chunks(folder)) == 2 * 2 * 25
    here = make(spec)
    assert here.rtk("run")[0] == 0
    assert numbers(folder) == numbers(here)


def test_ctrl_c_ends_the_tasks_and_keeps_what_is_finished(machines: Machines, local: Folder, make: Make) -> None:
    folder = make(THREE, held=True)
    process = folder.start("run", *on(machines))
    until(lambda: folder.begun() and len(folder.results()) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "2 of 3 cells are done" in err, err
    assert "finetune" not in processes_of(folder)
    assert sorted(folder.states()) == ["done", "done", "waiting"]
    kept = folder.results()
    folder.go_on()
    assert folder.rtk("run", *on(machines))[0] == 0
    assert kept.items() < folder.results().items() and numbers(folder) == numbers(local)


def test_a_killed_driver_leaves_nobody_at_work(machines: Machines, make: Make) -> None:
    folder = make(ONE, held=True)
    process = folder.start("run", *on(machines))
    until(folder.begun)
    process.kill()
    process.communicate()
    until(lambda: "finetune" not in processes_of(folder) and folder.states() == ["waiting"], 30)


def test_a_failure_is_the_cells_own_and_comes_once(machines: Machines, make: Make) -> None:
    folder = make(SPEC)
    code, out, err = folder.rtk("run", *on(machines))
    reason = "plugin 'third' of rtk-third 2.5: ValueError: needs mending"
    assert code == 1 and f"failed: third eps=0.04 seed=0: {reason}" in out and err.count("done, ") == 2
    assert folder.states() == ["failed", "done", "done"]
    assert sorted(folder.begun()) == ["0.04", "0.1"], "tried once"
    (failure,) = (folder.path / "runs" / "bench-tiny" / "failures").iterdir()
    assert json.loads(failure.read_text())["exit_code"] == 1


def test_what_is_lost_on_the_way_to_the_evaluation_is_made_again(machines: Machines, local: Folder, make: Make) -> None:
    """The weights are deleted after fine-tuning, while two other cells hold both CPUs: no chunk can be judged."""
    probe = '[[run]]\nstrategy = "linear-probe"\nepochs = 1\n'
    both = 'strategy = "third"\nvary = {eps = [0.1, 0.11]}'
    spec = ONE.replace("[[run]]", f"{probe}[[run]]").replace('strategy = "third"\neps = 0.1', both)
    folder = make(spec, held=True)
    process = folder.start("run", *on(machines), "--jobs", "3")
    until(lambda: len(folder.begun()) == 2)
    (weights,) = (folder.path / "runs" / "bench-tiny" / "cells").glob("linear-probe-*/model.safetensors")
    weights.unlink()
    folder.go_on()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    name = weights.parent.name
    assert numbers(folder)[name] == numbers(local)[name]


def test_a_node_that_does_not_see_the_folder_is_refused(machines: Machines, make: Make) -> None:
    """/proc/self/cwd is another folder for every process, as a local disk is for every machine."""
    folder = make(ONE)
    code, _, err = folder.rtk("run", *on(machines), "--out", "/proc/self/cwd/runs")
    assert code == 2 and "does not see /proc/self/cwd/runs; all nodes must share this folder" in err
    assert not list(folder.path.glob("runs/probe-*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPUs of this test are not there")
def test_a_cell_has_a_gpu_of_its_own(local: Folder, make: Make) -> None:
    """Ray takes our word for the two GPUs; torch finds none, and the cells run on the CPU."""
    from ray.cluster_utils import Cluster

    folder = make(ONE.replace("eps = 0.1", "vary = {eps = [0.1, 0.11, 0.12]}"), held=True)
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 3, "num_gpus": 2})
    try:
        process = folder.start("run", "--engine", "ray", "--address", cluster.address)
        until(lambda: len(folder.begun()) == 2)
        time.sleep(2)  # enough for a third to begin
        given = {
            entry.decode()
            for path in Path("/proc").glob("[0-9]*")
            if cwd(path) == str(folder.path) and b"finetune" in read(path / "cmdline")
            for entry in read(path / "environ").split(b"\0")
            if entry.startswith(b"CUDA_VISIBLE_DEVICES=")
        }
        assert given == {"CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1"}
        assert len(folder.begun()) == 2, "the third waits for a GPU"
        folder.go_on()
        _, err = process.communicate(timeout=240)
    finally:
        cluster.shutdown()
    assert process.returncode == 0 and err.count("done, ") == 3, err
    found, expected = numbers(folder), numbers(local)
    (shared,) = set(found) & set(expected)
    assert found[shared] == expected[shared]
