"""From results to tables: what is joined, what is kept apart, and what is computed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import rtk
from rtk.bench.cells import Cell, cells_of
from rtk.bench.formats import render
from rtk.bench.spec import Spec
from rtk.bench.standings import Table, tables
from rtk.results import Result

Found = list[tuple[Cell, Result]]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A result with a source row, as JSON."""
    out = tmp_path_factory.mktemp("bench") / "run"
    options = {"dataset": "fashion", "epochs": 0, "suite": "clean", "images": 20, "workers": 1, "out": out}
    return rtk.finetune("linear-probe", **options).model_dump(mode="json")


def cells(**content: Any) -> list[Cell]:
    run = [{"strategy": "linear-probe", "dataset": "fashion"}]
    return cells_of(Spec.model_validate({"name": "mine", "run": run, **content}))


def result(real: dict[str, Any], **changes: Any) -> Result:
    """The real result with other numbers: seed, accuracy, seconds, change, p, n, warning, backbone."""
    found = copy.deepcopy(real)
    tuned = found["rows"][-1]["scores"]["clean"]
    found["seed"] = changes.get("seed", 0)
    tuned["accuracy"] = changes.get("accuracy", tuned["accuracy"])
    found["seconds"]["finetune"] = changes.get("seconds", 1.0)
    found["trained"]["changed_parameters"] = changes.get("changed", 0)
    found["changes"]["clean"] |= {"value": changes.get("change", 0.0), "p": changes.get("p", 1.0)}
    found["backbone"]["uri"] = changes.get("backbone", found["backbone"]["uri"])
    if "identity" in changes:
        for row in found["rows"]:
            row["scores"]["clean"]["identity"] |= changes["identity"]
    if "warning" in changes:
        warning = {"name": "made", "verdict": "warning", "value": None, "limit": None, "item": "clean"}
        found["rows"][-1]["checks"].append({**warning, "text": changes["warning"]})
    return Result.model_validate(found)


def names(table: Table) -> list[str]:
    return [row.name for row in table.rows]


def test_mean_and_standard_deviation_over_two_seeds(real: dict[str, Any]) -> None:
    """By hand: 0.5 and 0.7 have mean 0.6 and deviation sqrt(0.01 + 0.01) = 0.1414; 10 and 13 s: 11.5 and 2.1213."""
    both = cells(seeds=[3, 5])
    found = [
        (both[0], result(real, seed=3, accuracy=0.5, seconds=10, change=-0.1, p=0.01, changed=7804)),
        (both[1], result(real, seed=5, accuracy=0.7, seconds=13, change=0.1, p=0.2, changed=7804)),
    ]
    (table,) = tables(both, reversed(found))
    source, row = table.rows
    entry = row.entries["clean"]
    assert (row.name, row.seeds, entry.interval) == ("linear-probe", (3, 5), None)
    assert (entry.accuracy.mean, entry.accuracy.deviation) == pytest.approx((0.6, 0.14142136))
    assert row.seconds and (row.seconds.mean, row.seconds.deviation) == pytest.approx((11.5, 2.1213203))
    assert entry.versus and entry.versus.value.mean == pytest.approx(0)
    assert (entry.versus.p, entry.versus.open, entry.versus.interval) == ((0.01, 0.2), 1, None)
    assert row.share == pytest.approx(7804 / 78042)
    text = render([table], "text")
    assert "60.0 ± 14.1" in text and "+0.00 ± 14.14, n.s. in 1 of 2" in text and "11.5 ± 2.1" in text
    assert "7804 ± 0 (10.0 %)" in text and "± sample standard deviation over seeds" in text
    assert source.name == "source" and source.seeds == () and source.seconds is None


@pytest.mark.parametrize(("p", "said"), [(0.049, False), (0.05, True), (1.0, True)])
def test_a_difference_is_marked_where_it_is_not_significant(p: float, said: bool, real: dict[str, Any]) -> None:
    (cell,) = cells()
    found = render(tables([cell], [(cell, result(real, change=0.25, p=p))]), "markdown")
    (row,) = (line for line in found.splitlines() if line.startswith("| linear-probe"))
    assert "+25.00 [" in row and ("] n.s. |" in row) == said


def test_one_seed_has_the_interval_of_its_result(real: dict[str, Any]) -> None:
    (cell,) = cells()
    found = result(real)
    (table,) = tables([cell], [(cell, found)])
    for row, judged in zip(table.rows, found.rows, strict=True):
        score = judged.scores["clean"]
        assert row.entries["clean"].interval == (score.low, score.high)
        assert (row.entries["clean"].accuracy.mean, row.entries["clean"].accuracy.deviation) == (score.accuracy, None)


@pytest.mark.parametrize(
    "identity", [{"protocol": 2}, {"n": 21}, {"chunk_size": 7}, {"data": "0"}, {"threat": {"eps": 0.2}}, {"seed": 4}]
)
def test_what_was_judged_differently_is_never_in_one_table(identity: dict[str, Any], real: dict[str, Any]) -> None:
    both = cells(vary={"lr": [0.1, 0.2]})
    found = [(both[0], result(real)), (both[1], result(real, identity=identity))]
    one, other = tables(both, found)
    assert names(one) == ["source", "linear-probe lr=0.1"] and names(other) == ["source", "linear-probe lr=0.2"]
    together = [(both[0], result(real)), (both[1], result(real, identity={"weights": "0", "id": "0"}))]
    assert [names(table) for table in tables(both, together)] == [
        ["source", "linear-probe lr=0.1", "linear-probe lr=0.2"]
    ]


def test_a_source_stands_once_for_each_backbone(real: dict[str, Any]) -> None:
    both = cells(seeds=[0, 1], vary={"lr": [0.1, 0.2]})
    found = [(cell, result(real, backbone="timm:x" if number > 1 else "rtk:y")) for number, cell in enumerate(both)]
    (table,) = tables(both, found)
    assert names(table) == ["source rtk:y", "source timm:x", "linear-probe lr=0.1", "linear-probe lr=0.2"]


def test_a_row_names_the_options_in_which_its_strategy_differs(real: dict[str, Any]) -> None:
    run = [
        {"strategy": "at", "epochs": 3, "lr": 0.5},
        {"strategy": "at", "epochs": 3, "dataset": "signs"},
        {"strategy": "full", "epochs": 9},
    ]
    found = cells(run=run, vary={"eps": ["8/255"]})
    default = found[1].request.config.model_dump()["lr"]
    (table,) = tables(found, [(cell, result(real)) for cell in found])
    assert names(table) == ["source", "at lr=0.5", f"at lr={default:g}", "full"]


def test_warnings_are_marked_and_explained(real: dict[str, Any]) -> None:
    both = cells(vary={"lr": [0.1, 0.2]})
    clean = copy.deepcopy(real)
    for row in clean["rows"]:
        row["checks"] = []
    found = [(both[0], result(clean)), (both[1], result(clean, warning="Too good to be true."))]
    for form in ("text", "markdown"):
        lines = render(tables(both, found), form).splitlines()  # type: ignore[arg-type]
        assert any("linear-probe lr=0.2 (!1)" in line for line in lines)
        assert "(!1) warning: linear-probe lr=0.2: clean: Too good to be true." in lines
        assert sum("(!" in line for line in lines) == 2


def test_nothing_done_is_no_table() -> None:
    assert tables(cells(), []) == [] and render([], "text") == ""
