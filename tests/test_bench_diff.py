"""`rtk bench diff`: what is equal, what changed, and what cannot be compared."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

import rtk
from rtk.bench.cells import cells_of
from rtk.bench.changes import render
from rtk.bench.difference import compare
from rtk.bench.spec import read_spec
from rtk.bench.store import Store
from rtk.cli import main
from rtk.errors import BadValue
from rtk.results import Change, Score
from rtk.statistics import Estimate
from rtk.verdicts import pack

SPEC = """
name = "mine"
seeds = [0, 1]
[options]
dataset = "fashion"
epochs = 0
suite = "clean,pgd20"
images = 20
[[run]]
strategy = "linear-probe"
vary = {lr = [0.1, 0.2]}
"""
N = 20
BITS = st.lists(st.booleans(), min_size=N, max_size=N)
Edit = Callable[[dict[str, Any], int, float], None]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A result as JSON."""
    out = tmp_path_factory.mktemp("diff") / "run"
    options = {"dataset": "fashion", "epochs": 0, "suite": "clean,pgd20", "images": N, "workers": 1}
    return rtk.finetune("linear-probe", **options, out=out).model_dump(mode="json")


def bench(folder: Path, real: dict[str, Any], edit: Edit | None = None, spec: str = SPEC) -> Path:
    """A benchmark whose cells are all done; `edit` gets each result, its seed and its learning rate."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "given.toml").write_text(spec)
    store = Store(folder)
    store.keep_spec(folder / "given.toml")
    for cell in cells_of(read_spec(folder / "given.toml")):
        found = copy.deepcopy(real) | {"seed": cell.settings.all["seed"]}
        if edit is not None:
            edit(found, cell.settings.all["seed"], cell.settings.all["lr"])
            for item in found["changes"]:
                before, after = (Score.model_validate(row["scores"][item]) for row in found["rows"])
                found["changes"][item] = Change.between(before, after).model_dump()
        store.write_options(cell, {"workers": 1, **cell.settings.all})
        (store.directory(cell)).mkdir(parents=True, exist_ok=True)
        (store.directory(cell) / "result.json").write_text(json.dumps(found))
    return folder


def judged(row: dict[str, Any], item: str, right: list[bool]) -> None:
    score = row["scores"][item]
    estimate = Estimate(sum(right), N)
    low, high = estimate.interval
    classes = [sum(right), *[0] * (len(score["class_n"]) - 1)]
    score |= {"correct": sum(right), "class_correct": classes, "accuracy": estimate.value, "low": low, "high": high}
    score["verdicts"] = pack(right)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BITS)
def test_a_benchmark_does_not_differ_from_itself(
    real: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, right: list[bool]
) -> None:
    folder = bench(
        tmp_path_factory.mktemp("same"), real, lambda found, _, __: judged(found["rows"][-1], "clean", right)
    )
    found = compare(folder, folder)
    assert [pair.name for pair in found.pairs] == [
        "source rtk:fashion-resnet",
        "linear-probe lr=0.1",
        "linear-probe lr=0.2",
    ]
    for pair in found.pairs:
        assert pair.weights == len(pair.seeds)
        for number in pair.numbers.values():
            assert number.equal and not number.judged and number.versus
            assert number.versus.value.mean == 0 and set(number.versus.p) == {1.0}
    assert (found.only_first, found.only_second, found.environment, found.unreadable) == ((), (), {}, ())


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BITS, BITS)
def test_what_changed_is_compared_image_by_image(
    real: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, before: list[bool], after: list[bool]
) -> None:
    first = bench(tmp_path_factory.mktemp("a"), real, lambda found, _, __: judged(found["rows"][-1], "clean", before))

    def edit(found: dict[str, Any], seed: int, lr: float) -> None:
        judged(found["rows"][-1], "clean", after if lr == 0.1 else before)

    second = bench(tmp_path_factory.mktemp("b"), real, edit)
    one, other = compare(first, second), compare(second, first)
    changed, same = (one.pairs[number].numbers["clean"] for number in (1, 2))
    gained = sum(new > old for old, new in zip(before, after, strict=True))
    lost = sum(new < old for old, new in zip(before, after, strict=True))
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert changed.versus and changed.versus.p == pytest.approx((p, p)) and changed.equal == (before == after)
    assert changed.versus.value.mean == pytest.approx((sum(after) - sum(before)) / N)
    back = other.pairs[1].numbers["clean"].versus
    assert back and back.value.mean == pytest.approx(-changed.versus.value.mean) and back.p == changed.versus.p
    assert same.equal and one.pairs[1].numbers.keys() == real["rows"][0]["scores"].keys()


def test_an_upgrade_is_told_from_its_effects(real: dict[str, Any], tmp_path: Path) -> None:
    first = bench(tmp_path / "a", real)

    def upgrade(found: dict[str, Any], seed: int, lr: float) -> None:
        found["rtk"] = "9.9"
        found["environment"]["packages"]["torch"] = "9.0"
        found["strategy"]["source_sha256"] = "f" * 64
        found["rows"][-1]["weights"] = "0" * 64
        for row in found["rows"]:
            row["scores"]["clean"]["identity"]["protocol"] = 2
            for key in row["scores"]:
                row["scores"][key]["identity"] |= {"data": "other"} if key != "clean" else {}

    second = bench(tmp_path / "b", real, upgrade)
    found = compare(first, second)
    assert found.environment["rtk"] == (real["rtk"], "9.9") and found.environment["torch"][1] == "9.0"
    assert found.environment["code of linear-probe"][1] == "f" * 12
    source, pair, _ = found.pairs
    assert (source.weights, pair.weights) == (1, 0)
    clean, attacked = pair.numbers.values()
    assert clean.judged == ("protocol was 1, is 2",) and clean.versus, "the images are the same"
    assert attacked.versus is None and not attacked.equal, "the images are others"
    for form in ("text", "markdown"):
        text = render(found, form)  # type: ignore[arg-type]
        assert "changed: torch:" in text and "(!) clean: protocol was 1, is 2" in text and "other images" in text


def test_what_only_one_has_is_listed(real: dict[str, Any], tmp_path: Path) -> None:
    first = bench(tmp_path / "a", real)
    second = bench(tmp_path / "b", real, spec=SPEC.replace("[0, 1]", "[1, 2]").replace("[0.1, 0.2]", "[0.2, 0.3]"))
    found = compare(first, second)
    assert [(pair.name, pair.seeds) for pair in found.pairs[1:]] == [("linear-probe lr=0.2", (1,))]
    assert len(found.only_first) == len(found.only_second) == 3
    assert found.only_first[-1] == "linear-probe lr=0.2 on fashion, seed 0"


def test_runs_with_other_batch_sizes_are_other_runs(real: dict[str, Any], tmp_path: Path) -> None:
    """--batch-size of rtk evaluate says where it is computed; that of a strategy is a hyper-parameter."""
    varied = SPEC.replace("vary = {lr = [0.1, 0.2]}", "lr = 0.1\nvary = {batch_size = [16, 64]}")
    first = bench(tmp_path / "a", real, spec=varied)
    second = bench(tmp_path / "b", real, spec=varied.replace("[16, 64]", "[16]"))
    found = compare(first, second)
    assert [(pair.name, pair.seeds) for pair in found.pairs[1:]] == [("linear-probe batch_size=16", (0, 1))]
    assert len(found.only_first) == 2 and not found.only_second


def test_a_damaged_result_is_left_out_and_said(real: dict[str, Any], tmp_path: Path) -> None:
    first, second = bench(tmp_path / "a", real), bench(tmp_path / "b", real)
    broken = next((second / "cells").glob("*/result.json"))
    broken.write_text("{")
    found = compare(first, second)
    assert len(found.only_first) == 1 and str(broken) in found.unreadable[0]


def test_of_two_runs_with_the_same_options_the_newest_counts(real: dict[str, Any], tmp_path: Path) -> None:
    """As when a strategy's file changed, which keeps the folder of the run that was made before."""
    first, second = bench(tmp_path / "a", real), bench(tmp_path / "b", real)
    path = next((second / "cells").glob("*/result.json"))
    newer = second / "cells" / "linear-probe-fashion-newer"
    newer.mkdir()
    found = json.loads(path.read_text()) | {"created": "2999-01-01T00:00:00+00:00", "rtk": "9.9"}
    (newer / "result.json").write_text(json.dumps(found))
    (second / "cells" / f"{newer.name}.toml").write_text((second / "cells" / f"{path.parent.name}.toml").read_text())
    compared = compare(first, second)
    assert newer.name in {folder for pair in compared.pairs for _, folder in pair.runs}
    assert compared.environment["rtk"] == (real["rtk"], f"{real['rtk']}, 9.9")


def test_the_command(real: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spec stands for its default folder; the exit code is 0 whatever changed."""
    monkeypatch.chdir(tmp_path)
    bench(tmp_path / "runs" / "bench-mine", real)
    bench(tmp_path / "other", real, lambda found, _, __: judged(found["rows"][-1], "clean", [False] * N))
    (tmp_path / "spec.toml").write_text(SPEC)

    def said(*options: str) -> str:
        out = io.StringIO()
        with redirect_stdout(out), pytest.raises(SystemExit) as ended:
            main(["bench", "diff", "spec.toml", "other", *options])
        assert ended.value.code in (0, None)
        return out.getvalue()

    text = said()
    assert "A: runs/bench-mine. B: other." in text and "6 numbers are in both" in text
    parsed = json.loads(said("--format", "json"))
    lines = list(csv.DictReader(io.StringIO(said("--format", "csv"))))
    assert [(line["run"], line["item"]) for line in lines] == [
        (pair["name"], item) for pair in parsed["pairs"] for item in pair["numbers"]
    ]
    assert "| linear-probe lr=0.1 | fashion |" in said("--format", "markdown")


def test_what_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"holds no spec.toml"):
        compare(tmp_path, tmp_path)
    with pytest.raises(BadValue, match=r"no such file"):
        compare(tmp_path / "none.toml", tmp_path)
