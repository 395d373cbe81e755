"""The folder of a benchmark: damage stays where it is, the index is never believed over the files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rtk
from rtk import rundir
from rtk.bench.cells import Cell, cells_of
from rtk.bench.index import Index
from rtk.bench.records import Record
from rtk.bench.spec import Spec
from rtk.bench.standings import tables
from rtk.bench.store import Store

OPTIONS = {"dataset": "fashion", "epochs": 0, "suite": "clean", "images": 20, "workers": 1}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("store") / "run"
    rtk.finetune("linear-probe", **OPTIONS, out=out)
    return out


def bench(folder: Path, real: Path) -> tuple[list[Cell], Store]:
    """Three cells that are done."""
    spec = Spec.model_validate({"name": "mine", "options": OPTIONS, "run": [{"strategy": "linear-probe"}]})
    cells = cells_of(spec.model_copy(update={"vary": {"lr": [0.1, 0.2, 0.3]}}))
    store = Store(folder)
    for cell in cells:
        shutil.copytree(real, store.directory(cell))
    return cells, store


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def older(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2, "new": 1}))


def changed(edit: Callable[[Any], None]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        found = json.loads(path.read_text())
        edit(found)
        path.write_text(json.dumps(found))

    return damage


DAMAGE = {
    "cut": cut,
    "older": older,
    "no UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "no network": changed(lambda found: found["rows"].clear()),
    "no data": changed(lambda found: found["dataset"].clear()),
    "other accuracy": changed(lambda found: found["rows"][-1]["scores"]["clean"].update(accuracy=0.99, high=1.0)),
    "other interval": changed(lambda found: found["rows"][-1]["scores"]["clean"].update(low=0.999, high=1.0)),
    "other classes": changed(lambda found: found["rows"][-1]["scores"]["clean"]["class_correct"].__setitem__(0, 9)),
    "other difference": changed(lambda found: found["changes"]["clean"].update(value=0.5)),
    "another seed's": changed(lambda found: found.update(seed=1)),
    "another strategy's": changed(lambda found: found["strategy"].update(name="at")),
    "of other code": changed(lambda found: found["strategy"].update(source_sha256="0" * 64)),
    "other verdicts": changed(lambda found: found["rows"][-1]["scores"]["clean"].update(verdicts="AAAA")),
    "no base64": changed(lambda found: found["rows"][-1]["scores"]["clean"].update(verdicts="!")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_result_fails_its_own_cell_alone(damage: Callable[[Path], None], real: Path, tmp_path: Path) -> None:
    cells, store = bench(tmp_path, real)
    path = store.directory(cells[1]) / rundir.RESULT
    damage(path)
    content = path.read_bytes()
    for each in (store, Store(tmp_path)):  # the second one reads what the first one has written down
        assert [each.state(cell) for cell in cells] == ["done", "failed", "done"]
        failure = each.failure(cells[1])
        assert failure.reason and "\n" not in failure.reason and failure.exit_code is None
        done = [(cell, record) for cell in cells if (record := each.record(cell)) is not None]
        assert [row.name for row in tables(cells, done)[0].rows][1:] == ["linear-probe lr=0.1", "linear-probe lr=0.3"]
        each.index.save()
    store.forget(cells[1])
    assert store.state(cells[1]) == "waiting" and path.with_name("result.json.unreadable").read_bytes() == content


def test_a_damaged_failure_is_still_one(real: Path, tmp_path: Path) -> None:
    cells, store = bench(tmp_path, real)
    (store.directory(cells[0]) / rundir.RESULT).unlink()
    (tmp_path / "failures").mkdir()
    for text in ("{", "[]", '{"reason": 1}'):
        (tmp_path / "failures" / f"{cells[0].key}.json").write_text(text)
        assert store.state(cells[0]) == "failed" and "cannot be read" in store.failure(cells[0]).reason


def test_the_index_says_what_the_files_say(real: Path, tmp_path: Path) -> None:
    cells, store = bench(tmp_path, real)
    read = [store.record(cell) for cell in cells]
    store.index.save()
    again = Store(tmp_path)
    assert [again.record(cell) for cell in cells] == read and again.index.new == 0
    assert all(isinstance(each, Record) for each in read)


def test_a_result_that_changed_is_read_again(real: Path, tmp_path: Path) -> None:
    cells, store = bench(tmp_path, real)
    before = store.record(cells[0])
    store.index.save()
    changed(lambda found: found.update(rtk="7"))(store.directory(cells[0]) / rundir.RESULT)
    for each in (store, Store(tmp_path)):
        after = each.record(cells[0])
        assert before and after and before.rtk != after.rtk == "7"
    (store.directory(cells[0]) / rundir.RESULT).unlink()
    assert store.record(cells[0]) is None and Store(tmp_path).state(cells[0]) == "waiting"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"form": [1, 3]}', '{"form": [0, 0], "runs": 1}', "null", "1"]
)
def test_an_index_that_cannot_be_used_is_as_none(content: str, real: Path, tmp_path: Path) -> None:
    cells, store = bench(tmp_path, real)
    (tmp_path / "index.json").write_text(content)
    assert [store.state(cell) for cell in cells] == ["done"] * 3
    store.index.save()
    assert Index(tmp_path / "cells", tmp_path / "index.json").said.keys() == {cell.name for cell in cells}


def test_a_folder_that_cannot_be_written_is_read_nevertheless(real: Path, tmp_path: Path) -> None:
    cells, store = bench(tmp_path, real)
    (tmp_path / "index.json").mkdir()  # in the way, also of the administrator
    assert store.state(cells[0]) == "done"
    store.index.save()
    assert (tmp_path / "index.json").is_dir()


def test_what_another_version_left_unfinished_is_begun_anew(real: Path, tmp_path: Path) -> None:
    cells, store = bench(tmp_path, real)
    for number, version in enumerate((None, "0.0.1", "0.0.1")):
        folder = store.directory(cells[number])
        if number < 2:
            (folder / rundir.RESULT).unlink()
        if version is not None:
            changed(lambda found: found["inputs"].update(rtk="0.0.1"))(folder / rundir.CONFIG)
    assert [store.forget(cell) for cell in cells] == [False, True, False]
    weights = [(store.directory(cell) / "model.safetensors").exists() for cell in cells]
    assert weights == [True, False, True], "unfinished by this version; by another; finished by another"
    assert [store.state(cell) for cell in cells] == ["waiting", "waiting", "done"]


def test_status_and_table_import_neither_torch_nor_scipy(real: Path, tmp_path: Path) -> None:
    bench(tmp_path / "runs" / "bench-mine", real)
    lines = [f"{name} = {json.dumps(value)}" for name, value in OPTIONS.items()]
    head = 'name = "mine"\nvary = {lr = [0.1, 0.2, 0.3]}\nrun = [{strategy = "linear-probe"}]\n[options]\n'
    (tmp_path / "spec.toml").write_text(head + "\n".join(lines))
    for command in ("status", "table"):
        code = (
            "import sys\nfrom rtk.cli import main\n"
            f"try:\n    main(['bench', {command!r}, 'spec.toml'])\n"
            "except SystemExit as ended:\n    print([name for name in ('torch', 'scipy') if name in sys.modules])"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert found.stdout.endswith("[]\n") and "linear-probe lr=0.3" in found.stdout, found.stderr
