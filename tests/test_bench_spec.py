"""What a benchmark is asked to do, and by what its cells are known."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtk import results
from rtk.bench.cells import cells_of
from rtk.bench.spec import Spec, expand, read_spec
from rtk.bench.store import Store
from rtk.errors import RtkError
from rtk.registry import Registry

ROOT = Path(__file__).parent.parent
NAMES = ("lr", "epochs", "eps", "images")
AXES = st.dictionaries(st.sampled_from(NAMES), st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True))
FIXED = st.dictionaries(st.sampled_from(NAMES), st.integers(100, 199))
SEEDS = st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True)


def spec(**content: Any) -> Spec:
    return Spec.model_validate({"name": "mine", "run": [{"strategy": "linear-probe"}], **content})


def written(folder: Path, text: str) -> Path:
    path = folder / "spec.toml"
    path.write_text(text)
    return path


def reverse(content: Any) -> Any:
    """The same tables with their keys, but not their lists, the other way round."""
    return {key: reverse(content[key]) for key in reversed(content)} if isinstance(content, dict) else content


def alike(first: Spec, second: Spec) -> bool:
    """Whether two specs have the same cells, in whichever order."""
    one, other = ([json.dumps(dict(found.all), sort_keys=True) for found in expand(each)] for each in (first, second))
    return sorted(one) == sorted(other)


@given(AXES, AXES, FIXED, FIXED, SEEDS)
def test_what_stands_nearer_wins_and_the_rest_is_multiplied_out(
    vary: dict[str, Any], own: dict[str, Any], options: dict[str, Any], group: dict[str, Any], seeds: list[int]
) -> None:
    found = expand(spec(options=options, vary=vary, seeds=seeds, run=[{"strategy": "at", **group, "vary": own}]))
    axes = {**vary, **{key: [value] for key, value in group.items()}, **own}
    assert len(found) == prod(map(len, axes.values())) * len(seeds)
    assert len({json.dumps(dict(each.all), sort_keys=True) for each in found}) == len(found)
    for name in {*axes, *options}:
        assert {each.all[name] for each in found} == set(axes.get(name, [options.get(name)]))
    assert [each.all["seed"] for each in found[: len(seeds)]] == seeds


@given(AXES, FIXED, FIXED)
def test_the_order_of_keys_decides_nothing(
    vary: dict[str, Any], options: dict[str, Any], group: dict[str, Any]
) -> None:
    content = {"options": options, "vary": vary, "run": [{"strategy": "at", **group}]}
    assert alike(spec(**content), spec(**{**reverse(content), "run": [reverse(content["run"][0])]}))


def test_hyphens_are_underscores() -> None:
    hyphens = spec(
        options={"chunk-size": 4}, run=[{"strategy": "at", "attack-steps": 3, "vary": {"weight-decay": [0]}}]
    )
    underscores = spec(
        options={"chunk_size": 4}, run=[{"strategy": "at", "attack_steps": 3, "vary": {"weight_decay": [0]}}]
    )
    assert alike(hyphens, underscores)


def keys(**options: Any) -> set[str]:
    return {cell.key for cell in cells_of(spec(options=options))}


PLACE = st.fixed_dictionaries(
    {},
    optional={
        "device": st.sampled_from(("cpu", "auto")),
        "workers": st.integers(1, 4),
        "data_root": st.sampled_from(("a", "b")),
        "evaluation_batch_size": st.integers(1, 64),
    },
)
OTHER = {
    "epochs": st.integers(0, 9),
    "lr": st.floats(0.001, 1),
    "batch_size": st.integers(2, 64),
    "eps": st.floats(0.001, 0.5),
    "images": st.integers(1, 500),
    "chunk_size": st.integers(1, 64),
    "suite": st.sampled_from(("clean", "clean,pgd20", "pgd20,clean")),
    "evaluation_seed": st.integers(1, 9),
    "weights": st.just("random"),
    "dataset": st.sampled_from(("signs", "fashion")),
    "norm": st.sampled_from(("Linf", "L2")),
}


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(PLACE, PLACE, st.fixed_dictionaries({}, optional=OTHER))
def test_where_it_is_computed_does_not_change_the_key(one: Any, other: Any, rest: Any) -> None:
    assert keys(**rest, **one) == keys(**dict(reversed(rest.items())), **other)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_other_option_changes_the_key(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(OTHER)))
    first, second = data.draw(OTHER[name]), data.draw(OTHER[name] | st.none())
    default = second is None  # the option is left out
    one, other = (cells_of(spec(options=given))[0] for given in ({name: first}, {} if default else {name: second}))
    assert (one.key == other.key) == (one.request.describe() == other.request.describe())
    assert default or (one.key == other.key) == (first == second)


def test_cells_that_differ_in_their_seed_alone_are_repetitions() -> None:
    cells = cells_of(spec(seeds=[0, 1], vary={"lr": [0.1, 0.2]}))
    assert len({cell.key for cell in cells}) == 4
    assert [cell.configuration == cells[0].configuration for cell in cells] == [True, True, False, False]


def test_a_cell_that_is_asked_for_twice_is_run_once() -> None:
    assert len(cells_of(spec(vary={"eps": ["8/255", 8 / 255]}))) == 1


@pytest.mark.parametrize(("name", "values"), [("data_root", ["/tmp/a", "/tmp/b"]), ("workers", [1, 2])])
def test_cells_that_differ_in_where_they_are_computed_are_refused(name: str, values: list[Any]) -> None:
    """They are one cell, so that one of them would be left out without a word."""
    with pytest.raises(RtkError, match=f"are the same run: {name} says where it is computed") as refused:
        cells_of(spec(vary={name: values}))
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("option", ["weights", "dataset"])
def test_a_file_is_known_by_its_content(option: str, tmp_path: Path) -> None:
    file = tmp_path / "given.npz"

    def key(content: bytes) -> set[str]:
        file.write_bytes(content)
        return keys(**{option: f"npz:{file}" if option == "dataset" else str(file)})

    assert key(b"one") != key(b"other") and key(b"one") == key(b"one")


def test_a_run_to_start_from_is_known_by_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"strategy": "at", "config": {}, "options": {"dataset": "fashion"}}')
    found = []
    for content in (b"one", b"other", b"one"):
        (tmp_path / "model.safetensors").write_bytes(content)
        found.append(keys(backbone=f"run:{tmp_path}"))
    assert found[0] != found[1] and found[0] == found[2]


BAD = [
    ("", "name is required", "name ="),
    ('name = "a/b"', "name: String should match", "quickstart.toml"),
    ('name = "a"\nsede = [1]', "Unknown key in", "[options]"),
    ('name = "a"\nsede = [1]', "Did you mean 'seeds'?", ""),
    ('name = "a"\nseeds = []', "seeds: List should have at least 1 item", ""),
    ('name = "a"\nseeds = [true]', "seeds.0: Input should be a valid integer", ""),
    ('name = "a"\n[vary]\nlr = 0.1', "vary.lr: Input should be a valid list, got '0.1'", ""),
    ('name = "a"\n[[run]]\nstrategy = "at"\n[run.vary]\nlr = []', "run.0.vary.lr: List should have at least 1", ""),
    ('name = "a"', "needs the name of a strategy", "strategy ="),
    ('name = "a"\n[options]\nseed = 1', "seed: is no option of a cell", "seeds = [0, 1, 2]"),
    ('name = "a"\n[[run]]\nout = "x"', "out: is no option of a cell", "--out DIR"),
    ('name = "a"\n[[run]]\nstrategy = "rfit"', "Cell 'rfit seed=0': Unknown strategy 'rfit'. Did you mean 'rift'?", ""),
    ('name = "a"\n[[run]]\nstrategy = "at"\nepocs = 1', "Cell 'at epocs=1 seed=0': Unknown option", "--help"),
    ('name = "a"\n[[run]]\nstrategy = "at"\n[run.vary]\nlr = [0.1, -1]', "Cell 'at lr=-1 seed=0': --lr: needs", "--lr"),
    ('name = "a"\n[[run]]\nstrategy = "rift"\ndataset = "signs"', "Cell 'rift dataset=signs seed=0': rift fine-", ""),
    ("name = ", "not a TOML file", ""),
    ('name = "a"\n[options]\neps = 0.1\n"weight-decay" = 0\nweight_decay = 1', "weight_decay: stands twice", "once"),
    ('name = "a"\n[[run]]\nweight_decay = 1\n"weight-decay" = 0', "weight_decay: stands twice", "once"),
    ('name = "a"\n[vary]\nweight_decay = [1]\n"weight-decay" = [0]', "weight_decay: stands twice", "once"),
]


@pytest.mark.parametrize(("text", "said", "hint"), BAD)
def test_a_wrong_spec_is_refused_with_the_cell(text: str, said: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(RtkError) as refused:
        cells_of(read_spec(written(tmp_path, text)))
    assert (
        said in refused.value.message and "\n" not in refused.value.message and "--config" not in refused.value.message
    )
    assert hint in (refused.value.hint or "")
    assert refused.value.exit_code == 2


def test_a_spec_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RtkError, match=r"none.toml: no such file."):
        read_spec(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["quickstart", "directions"])
def test_the_specs_of_the_repository_can_be_run(name: str) -> None:
    cells = cells_of(read_spec(ROOT / "benchmarks" / f"{name}.toml"))
    used = {cell.request.strategy.name for cell in cells}
    own = {plugin.name for plugin in Registry().plugins if plugin.distribution == "rtk"}
    assert used == (own if name == "quickstart" else {"cartl", "last-k"})


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "evidence").glob("*.toml")), ids=lambda path: path.stem)
def test_the_specs_of_the_evidence_plan_cells_that_differ_and_are_named_in_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for weights in re.findall(r'"(runs/.*?\.safetensors)"', path.read_text()):  # which the commands of its head make
        Path(weights).parent.mkdir(parents=True)
        Path(weights).touch()
    for run in map(Path, re.findall(r'"run:(runs/.*?)"', path.read_text())):
        run.mkdir(parents=True)
        (run / "config.json").write_text('{"strategy": "at", "config": {}, "options": {"dataset": "cifar10"}}')
        (run / "model.safetensors").touch()
    cells = cells_of(read_spec(path))
    assert len({cell.name for cell in cells}) == len(cells) > 1
    assert f"](evidence/{path.name})" in (ROOT / "benchmarks" / "EVIDENCE.md").read_text()


def test_every_committed_result_belongs_to_a_spec_and_can_be_read() -> None:
    """Its cell may have changed since; the strategy's source is part of a cell's name."""
    evidence = ROOT / "benchmarks" / "evidence"
    found = sorted(evidence.glob("results/*/cells/*/result.json"))
    assert found
    for path in found:
        result, spec = results.read(path), read_spec(evidence / f"{path.parts[-4]}.toml")
        used = {cell.all["strategy"] for cell in expand(spec)}
        assert result.strategy["name"] in used and path.parts[-2].startswith(result.strategy["name"])


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "evidence").glob("*.toml")), ids=lambda path: path.stem)
def test_the_evidence_can_be_printed_from_the_repository(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the sources that come with it, put where specs look for them; one is too large for that."""
    if "run:" in path.read_text():
        pytest.skip("starts from a network that is not in the repository")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(path.parent / "sources", "runs")
    cells, store = cells_of(read_spec(path)), Store(path.parent / "results" / path.stem)
    current = {cell.request.strategy.name: cell.code for cell in cells}
    found = {each.parent.name: results.read(each).strategy for each in store.root.glob("cells/*/result.json")}
    kept = {name for name, strategy in found.items() if strategy["source_sha256"] == current[strategy["name"]]}
    assert kept <= {cell.name for cell in cells if store.state(cell) == "done"}


@pytest.mark.parametrize("name", ["cifar10-linf", "cifar100-linf", "gtsrb-linf", "imagenet-transfer"])
def test_the_leaderboards_plan_as_many_cells_as_their_table_says(name: str) -> None:
    cells = cells_of(read_spec(ROOT / "benchmarks" / f"{name}.toml"))
    (row,) = re.findall(rf"^\| `{name}\.toml` \|.*\| ([0-9,]+) \|$", (ROOT / "benchmarks/README.md").read_text(), re.M)
    assert len(cells) == int(row.replace(",", ""))


def test_a_spec_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = written(tmp_path, 'name = "a"\n[[run]]\nstrategy = "at"\nlr = -1')
    code = (
        "import sys\nfrom rtk.cli import main\n"
        f"try:\n    main(['bench', 'run', {str(path)!r}])\n"
        "except SystemExit as ended:\n    print(ended.code, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout == "2 False\n" and "Cell 'at lr=-1 seed=0'" in found.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["spec.toml"]


def test_the_pictures_of_the_evidence_can_be_drawn_from_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    figures = importlib.import_module("evidence_figures")
    at_the_papers_rate, with_drift, ten_times = figures.rift().axes
    assert [len(axes.lines) for axes in (at_the_papers_rate, with_drift, ten_times)] == [19, 9, 19]  # 2 a source, and 3
    for axes in figures.cartl().axes:
        assert len(axes.containers) == 7  # LwF, last-k, and what was varied of CARTL


def test_the_gaps_between_attacks_are_those_of_the_committed_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    places = sorted((ROOT / "benchmarks" / "evidence" / "results").iterdir())
    monkeypatch.setattr("sys.argv", ["attack_gap.py", *map(str, places)])
    importlib.import_module("attack_gap").main()
    said = capsys.readouterr().out.splitlines()
    text = (ROOT / "benchmarks" / "EVIDENCE.md").read_text()
    _, table = text.split("## PGD beside AutoAttack")[1].split("|---|---|---|---|---|---|---|\n", 1)
    rows = table.split("\n\n")[0].splitlines()
    assert len(rows) > 10 and set(rows) <= set(said)


def test_evaluations_that_were_added_to_the_evidence_are_of_its_networks() -> None:
    evidence = ROOT / "benchmarks" / "evidence"
    added = sorted((evidence / "evaluations").glob("*/*/evaluation.json"))
    assert added
    for path in added:
        spec, cell = path.parent.parent.name, path.parent.name
        weights = results.read_evaluation(path).row.weights
        if spec == "sources":
            found = {row.weights for each in rows_of("rift-trades") for row in each[:1]}
        else:
            found = {results.read(evidence / "results" / spec / "cells" / cell / "result.json").rows[-1].weights}
        assert weights in found, path


def rows_of(spec: str) -> list[list[results.Row]]:
    """The networks of every committed result of a spec, the source first."""
    folder = ROOT / "benchmarks" / "evidence" / "results" / spec
    return [results.read(path).rows for path in folder.glob("cells/*/result.json")]
