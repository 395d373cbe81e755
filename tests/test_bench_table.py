"""From results to tables: what is joined, what is kept apart, and what is computed."""

from __future__ import annotations

import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

import rtk
from rtk.bench.cells import Cell, cells_of
from rtk.bench.formats import Format, render
from rtk.bench.records import Record
from rtk.bench.spec import Spec
from rtk.bench.standings import Table, tables
from rtk.bench.store import Missing
from rtk.errors import BadValue, UnknownName
from rtk.results import Change, Result, Score
from rtk.site.board import Board
from rtk.statistics import Estimate
from rtk.verdicts import pack

Found = list[tuple[Cell, Record]]
N = 20
BITS = st.lists(st.booleans(), min_size=N, max_size=N)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A result with a source row, as JSON."""
    out = tmp_path_factory.mktemp("bench") / "run"
    options = {"dataset": "fashion", "epochs": 0, "suite": "clean,pgd20", "images": N, "workers": 1, "out": out}
    return rtk.finetune("linear-probe", **options).model_dump(mode="json")


def cells(**content: Any) -> list[Cell]:
    run = [{"strategy": "linear-probe", "dataset": "fashion"}]
    return cells_of(Spec.model_validate({"name": "mine", "run": run, **content}))


def judged(row: dict[str, Any], item: str, right: list[bool]) -> None:
    """Give a row other verdicts."""
    found = Estimate(sum(right), N)
    low, high = found.interval
    row["scores"][item] |= {
        "correct": sum(right),
        "accuracy": found.value,
        "low": low,
        "high": high,
        "verdicts": pack(right),
    }


def result(real: dict[str, Any], **changes: Any) -> Record:
    """The real result with other facts: seed, seconds, p, changed, backbone, identity, warning; and verdicts."""
    found = copy.deepcopy(real)
    tuned = found["rows"][-1]
    found["seed"] = changes.get("seed", 0)
    found["seconds"] |= {"finetune": changes.get("seconds", 1.0), "cpu": changes.get("cpu", 6.0)}
    found["trained"]["changed_parameters"] = changes.get("changed", 0)
    found["backbone"]["uri"] = changes.get("backbone", found["backbone"]["uri"])
    for item, right in changes.get("rights", {}).items():
        judged(tuned, item, right)
    for item, right in changes.get("source", {}).items():
        judged(found["rows"][0], item, right)
    found["rows"][0]["weights"] = changes.get("weights", found["rows"][0]["weights"])
    for item in found["changes"]:
        before, after = (Score.model_validate(row["scores"][item]) for row in found["rows"])
        found["changes"][item] = Change.between(before, after).model_dump()
    found["changes"]["clean"]["p"] = changes.get("p", found["changes"]["clean"]["p"])
    if "identity" in changes:
        for row in found["rows"]:
            row["scores"]["clean"]["identity"] |= changes["identity"]
    if "warning" in changes:
        warning = {"name": "made", "verdict": "warning", "value": None, "limit": None, "item": "clean"}
        tuned["checks"].append({**warning, "text": changes["warning"]})
    return Record.of(Result.model_validate(found))


def share(right: int) -> list[bool]:
    """The first `right` images are right."""
    return [number < right for number in range(N)]


def names(table: Table) -> list[str]:
    return [row.name for row in table.rows]


def test_mean_and_standard_deviation_over_two_seeds(real: dict[str, Any]) -> None:
    """By hand: 0.5 and 0.7 have mean 0.6 and deviation sqrt(0.01 + 0.01) = 0.1414; 10 and 13 min: 11.5 and 2.1213."""
    both = cells(seeds=[3, 5])
    source = {"clean": share(12)}
    found = [
        (both[0], result(real, seed=3, rights={"clean": share(10)}, source=source, seconds=600, p=0.01, changed=7804)),
        (both[1], result(real, seed=5, rights={"clean": share(14)}, source=source, seconds=780, p=0.2, changed=7804)),
    ]
    (table,) = tables(both, reversed(found))
    first, row = table.rows
    entry = row.entries["clean"]
    assert (row.name, row.seeds, entry.interval) == ("linear-probe", (3, 5), None)
    assert row.runs == tuple(cell.name for cell in both) and row.configuration == both[0].configuration
    assert (entry.accuracy.mean, entry.accuracy.deviation) == pytest.approx((0.6, 0.14142136))
    assert row.minutes and (row.minutes.mean, row.minutes.deviation) == pytest.approx((11.5, 2.1213203))
    assert row.cpu_minutes and row.cpu_minutes.mean == pytest.approx(0.1)
    assert (row.host_bytes, row.device_bytes) == tuple(real["peak_bytes"][key] for key in ("finetune", "device"))
    assert entry.versus and entry.versus.value.mean == pytest.approx(0) and entry.versus.to == "source"
    assert (entry.versus.p, entry.versus.open, entry.versus.interval) == ((0.01, 0.2), 1, None)
    assert row.share == pytest.approx(7804 / 78042)
    text = render([table], "text")
    assert "60.0 ± 14.1" in text and "+0.00 ± 14.14, n.s. in 1 of 2" in text and "11.50 ± 2.12" in text
    assert "7804 ± 0 (10.0 %)" in text and "± sample standard deviation over seeds" in text
    assert first.name == "source" and first.seeds == () and first.minutes is None and first.runs == (both[0].name,)


@pytest.mark.parametrize(("p", "said"), [(0.049, False), (0.05, True), (1.0, True)])
def test_a_difference_is_marked_where_it_is_not_significant(p: float, said: bool, real: dict[str, Any]) -> None:
    (cell,) = cells()
    made = result(real, rights={"clean": share(15)}, source={"clean": share(10)}, p=p)
    found = render(tables([cell], [(cell, made)]), "markdown")
    (row,) = (line for line in found.splitlines() if line.startswith("| linear-probe"))
    assert "+25.00 [" in row and ("+44.3] n.s. |" in row) == said


def test_one_seed_has_the_interval_of_its_result(real: dict[str, Any]) -> None:
    (cell,) = cells()
    found = Result.model_validate(real)
    (table,) = tables([cell], [(cell, Record.of(found))])
    for row, shown in zip(table.rows, found.rows, strict=True):
        score = shown.scores["clean"]
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


def test_random_sources_are_one_row_over_seeds(real: dict[str, Any]) -> None:
    run = [{"strategy": "linear-probe", "dataset": "fashion"}, {"strategy": "full", "dataset": "fashion"}]
    found = cells(run=run, seeds=[0, 1], vary={"weights": ["random", "none"]})
    made = []
    for cell in found:
        seed = cell.settings.all["seed"]
        random = cell.request.options.weights == "random"
        source = {"clean": share(2 + seed if random else 12)}
        made.append((cell, result(real, seed=seed, source=source, weights=f"{seed if random else 'own'}")))
    (table,) = tables(found, made)
    random_row, own, *_ = table.rows
    assert (random_row.name, random_row.seeds) == ("source weights=random", (0, 1))
    assert (own.name, own.seeds) == ("source", ())
    assert random_row.start == f"{own.start}, weights random", "other weights are another network"
    accuracy = random_row.entries["clean"].accuracy
    assert accuracy.mean == pytest.approx(0.125) and accuracy.deviation == pytest.approx(0.035355339)
    assert {row.entries["clean"].versus.to for row in table.rows[2:] if row.entries["clean"].versus} == {
        "source weights=random",
        "source",
    }


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BITS, BITS, BITS)
def test_a_baseline_is_compared_seed_by_seed(
    real: dict[str, Any], first: list[bool], second: list[bool], other: list[bool]
) -> None:
    """With the run of the same seed; a baseline is not compared with itself."""
    found = cells(run=[{"strategy": name, "dataset": "fashion"} for name in ("at", "full")], seeds=[0, 1])
    rights = {("at", 0): first, ("at", 1): second, ("full", 0): other, ("full", 1): first}
    made = [
        (
            cell,
            result(
                real,
                seed=cell.settings.all["seed"],
                rights={"clean": rights[cell.request.strategy.name, cell.settings.all["seed"]]},
            ),
        )
        for cell in found
    ]
    _, row, base = tables(found, made, "full")[0].rows
    versus = row.entries["clean"].baseline
    assert versus and (versus.to, versus.seeds) == ("full", (0, 1)) and base.entries["clean"].baseline is None
    assert versus.value.mean == pytest.approx((sum(second) - sum(other)) / N / 2)
    gained = sum(new > old for old, new in zip(other, first, strict=True))
    lost = sum(new < old for old, new in zip(other, first, strict=True))
    assert versus.p[0] == pytest.approx(binomtest(gained, gained + lost).pvalue if gained + lost else 1)
    (_, alone, _) = tables(found, made[:3], "full")[0].rows
    versus = alone.entries["clean"].baseline
    assert versus and versus.seeds == (0,), "a seed that the baseline lacks is not compared with another one"
    assert versus.value.mean == pytest.approx((sum(first) - sum(other)) / N)


def test_what_is_missing_is_said(real: dict[str, Any]) -> None:
    """In the table, and beside it: a configuration that failed is a result too."""
    found = cells(run=[{"strategy": name, "dataset": "fashion"} for name in ("at", "full")], seeds=[0, 1, 2])
    made = [(cell, result(real, seed=cell.settings.all["seed"])) for cell in found if cell is not found[4]]
    table = tables(found, made, "full")[0]
    missing = [Missing("full seed=1", "failed", "the loss is NaN"), Missing("more", "waiting", "")]
    said = {form: render([table], form, missing=missing) for form in ("text", "markdown", "csv", "json")}
    for form in ("text", "markdown"):
        assert "2 of 3" in said[form] and "in 2 of 3 seeds" in said[form], form
        assert "failed: full seed=1: the loss is NaN" in said[form] and "waiting" not in said[form]
    rows = [*csv.DictReader(io.StringIO(said["csv"]))]
    assert {(row["strategy"], row["seeds"], row["planned"]) for row in rows if row["planned"]} == {
        ("at", "0 1 2", "3"),
        ("full", "0 2", "3"),
    }
    assert {row["baseline_seeds"] for row in rows if row["strategy"] == "at"} == {"0 2"}
    assert [each["state"] for each in json.loads(said["json"])[-1]["missing"]] == ["failed", "waiting"]
    at, full = Board(1, table).lines[-2:]
    assert (at.cells[-1].text, full.cells[-1].text) == ("3", "2 of 3")
    assert sum("2 of 3 seeds" in cell.below for cell in at.cells) == len(table.items)


def test_runs_that_were_not_made_alike_are_said(real: dict[str, Any]) -> None:
    found = cells(seeds=[0, 1])
    alike = [(cell, result(real, seed=seed)) for seed, cell in enumerate(found)]
    assert tables(found, alike)[0].mixed == {}
    environment = alike[1][1].environment
    other = {**environment, "threads": 99, "packages": {**environment["packages"], "torch": "0.1"}}
    record = alike[1][1]._replace(rtk="0.0.9", images=7, environment=other)
    table = tables(found, [alike[0], (found[1], record)])[0]
    torch, images = environment["packages"]["torch"], alike[0][1].images
    assert {name: set(values) for name, values in table.mixed.items()} == {
        "rtk": {"0.0.9", alike[0][1].rtk},
        "torch": {"0.1", torch},
        "training images of linear-probe": {"7", str(images)},
    }
    assert f"Not all runs were made alike: torch: 0.1, {torch}." in render([table], "text")
    begun = alike[1][1]._replace(environment={**environment, "earlier": [{"torch": "0.2"}]})
    assert tables(found, [alike[0], (found[1], begun)])[0].mixed == {"torch": ("0.2", torch)}


def test_of_rows_with_one_name_that_of_the_same_data_is_the_baseline(real: dict[str, Any], tmp_path: Path) -> None:
    """Two training sets with the same test images."""
    rights = {}
    for name, right in (("a", 5), ("b", 9)):
        (tmp_path / name / "train").mkdir(parents=True)
        rights[f"folder:{tmp_path / name}"] = share(right)
    found = cells(run=[{"strategy": "full"}, {"strategy": "at"}], vary={"dataset": [*rights]})
    made = []
    for cell in found:
        data, full = cell.request.dataset, cell.request.strategy.name == "full"
        made.append((cell, result(real, rights={"clean": rights[data] if full else share(10)})._replace(dataset=data)))
    (table,) = tables(found, made, "full")
    compared = {(row.name, row.dataset): row.entries["clean"].baseline for row in table.rows}
    values = [versus and round(versus.value.mean * N) for versus in (compared["at", data] for data in rights)]
    assert values == [5, 1]
    assert [compared["full", data] for data in rights] == [None, None], "none is compared with itself"


def test_a_strategy_as_baseline_is_that_of_the_same_network(real: dict[str, Any]) -> None:
    run = [{"strategy": name, "dataset": "fashion"} for name in ("full", "at")]
    found = cells(run=run, vary={"backbone": ["rtk:fashion-resnet", "timm:resnet18"]})
    made = [
        (
            cell,
            result(real, backbone=cell.request.options.backbone, rights={"clean": share(5 + number)}),
        )
        for number, cell in enumerate(found)
    ]
    (table,) = tables(found, made, "full")
    compared = {row.name: row.entries["clean"].baseline for row in table.rows}
    for backbone in ("rtk:fashion-resnet", "timm:resnet18"):
        versus = compared[f"at backbone={backbone}"]
        assert versus and versus.to == f"full backbone={backbone}" and versus.value.mean == pytest.approx(0.1)
    text = render([table], "text")
    assert "to full" in text and "+10.00 [" in text


def test_a_baseline_that_is_not_there_is_refused_with_what_is_meant() -> None:
    found = cells(run=[{"strategy": "full"}, {"strategy": "at", "vary": {"lr": [0.1, 0.2]}}])
    with pytest.raises(
        UnknownName, match=r"Unknown baseline 'ful'. Did you mean 'full'\? Allowed: at lr=0.1, at lr=0.2, full\."
    ):
        tables(found, [], "ful")
    with pytest.raises(BadValue, match=r"2 rows from the same network are of this strategy.*at lr=0.1"):
        tables(found, [], "at")
    assert tables(found, [], "at lr=0.1") == []


def test_each_table_has_its_own_baseline(real: dict[str, Any]) -> None:
    found = cells(run=[{"strategy": name, "dataset": "fashion"} for name in ("full", "at", "trades")])
    made = [(found[0], result(real)), (found[1], result(real))]
    made.append((found[2], result(real, identity={"data": "other"})))
    first, second = tables(found, made, "full")
    compared = [[row.entries["clean"].baseline is not None for row in table.rows] for table in (first, second)]
    assert compared == [[True, False, True], [False, False]]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(BITS, BITS), min_size=2, max_size=5))
def test_no_row_of_the_front_is_dominated_and_the_highest_is_marked(
    real: dict[str, Any], rights: list[tuple[list[bool], list[bool]]]
) -> None:
    found = cells(vary={"lr": [0.1 * (1 + number) for number in range(len(rights))]})
    attacked = next(key for key in real["rows"][0]["scores"] if key.startswith("pgd20"))
    made = [
        (cell, result(real, rights={"clean": clean, attacked: robust}))
        for cell, (clean, robust) in zip(found, rights, strict=True)
    ]
    (table,) = tables(found, made)
    assert table.axes == ("clean", attacked)
    points = {row.name: (row.entries["clean"].accuracy.mean, row.entries[attacked].accuracy.mean) for row in table.rows}
    for row in table.rows:
        own = points[row.name]
        beaten = any(each != own and each[0] >= own[0] and each[1] >= own[1] for each in points.values())
        assert row.pareto != beaten
    for key in table.items:
        highest = max(row.entries[key].accuracy.mean for row in table.rows)
        assert all(row.entries[key].best for row in table.rows if row.entries[key].accuracy.mean == highest)


def test_the_noise_is_marked_whole_and_what_is_plainly_worse_is_not(real: dict[str, Any]) -> None:
    found = cells(vary={"lr": [0.1, 0.2, 0.3]})
    made = [
        (cell, result(real, rights={"clean": share(right)}, source={"clean": share(20)}))
        for cell, right in zip(found, (20, 18, 3), strict=True)
    ]
    (table,) = tables(found, made)
    assert [row.entries["clean"].best for row in table.rows] == [True, True, True, False]
    lines = render([table], "text").splitlines()
    assert [line.count("] *") for line in lines[2:6]] == [2, 2, 2, 1] and "*: not significantly worse" in lines[7]
    assert "front: the Pareto front of clean against PGD-20" in lines[7]
    assert lines[6] == "All rows start from rtk:fashion-resnet."


@pytest.mark.parametrize(
    "weaker, stronger", [("pgd20", "autoattack"), ("pgd20", "pgd100"), ("pgd10", "pgd20"), ("pgd10", "autoattack")]
)
def test_the_stronger_of_two_attacks_is_that_of_the_front(real: dict[str, Any], weaker: str, stronger: str) -> None:
    both = copy.deepcopy(real)
    for row in both["rows"]:
        for key in [key for key in row["scores"] if key.startswith("pgd20")]:
            score = row["scores"].pop(key)
            row["scores"] |= {key.replace("pgd20", name): score for name in (weaker, stronger)}
    both["changes"] = {}
    (cell,) = cells()
    (table,) = tables([cell], [(cell, Record.of(Result.model_validate(both)))])
    assert table.axes and table.axes[1].startswith(f"{stronger}@")
    for row in both["rows"]:
        row["scores"] = {"clean": row["scores"]["clean"]}
    both["changes"] = {}
    (table,) = tables([cell], [(cell, Record.of(Result.model_validate(both)))])
    assert table.axes is None and not any(row.pareto for row in table.rows)


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
    forms: tuple[Format, ...] = ("text", "markdown")
    for form in forms:
        lines = render(tables(both, found), form).splitlines()
        assert any("linear-probe lr=0.2 (!1)" in line for line in lines)
        assert "(!1) warning: linear-probe lr=0.2: clean: Too good to be true." in lines
        assert sum("(!" in line for line in lines) == 2


def test_nothing_done_is_no_table() -> None:
    assert tables(cells(), []) == [] and render([], "text") == ""
