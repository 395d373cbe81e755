"""Charts of strategies: what is refused, what a result holds, and what is drawn of it."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rtk_plugins.cartl import Cartl, CartlConfig, Fdm, FdmConfig
from rtk_plugins.rift import Rift, RiftConfig
from rtk_plugins.twins import GRADIENTS, Twins, TwinsConfig

import rtk
from rtk.backbones import Backbone
from rtk.charts import MOST, Chart, charts_of
from rtk.errors import BadData, BadValue
from rtk.report.folder import draw

from .small_run import small_run

PLAIN: dict[str, Any] = {
    "name": "norms",
    "kind": "line",
    "x": [1, 2],
    "y": {"weights": [0.5, 0.25]},
    "x_label": "epoch",
    "y_label": "norm",
    "text": "They fall.",
}
FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(min_size=1).filter(str.strip)


@st.composite
def charts(draw: st.DrawFn) -> Chart:
    count = draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["bar", "line", "scatter"]))
    places = draw(st.sampled_from([FINITE, WORDS])) if kind == "bar" else FINITE
    x = draw(st.lists(places, min_size=count, max_size=count))
    values = st.lists(FINITE, min_size=count, max_size=count)
    y = draw(st.dictionaries(st.text(), values, min_size=1, max_size=3))
    return Chart(draw(WORDS), kind, x, y, draw(WORDS), draw(WORDS), draw(WORDS))


@given(charts())
def test_a_chart_is_read_as_it_was_written(chart: Chart) -> None:
    assert charts_of(json.loads(json.dumps({"charts": {chart.name: chart.describe()}}, allow_nan=False))) == [chart]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "pie"}, "kind is 'pie' (allowed: bar | line | scatter)"),
        ({"x": []}, "x is [] (allowed: a list with a place or more)"),
        ({"x": "ab"}, "x is 'ab'"),
        ({"x": [1, math.nan]}, "x[1] is nan (allowed: finite numbers; names are for bars)"),
        ({"x": ["a", "b"]}, "x[0] is 'a' (allowed: finite numbers; names are for bars)"),
        ({"kind": "bar", "x": ["a", 2]}, "x[0] is 'a' (allowed: finite numbers, or names throughout)"),
        ({"y": {}}, "y is {} (allowed: a series or more, {name: values})"),
        ({"y": [1, 2]}, "y is [1, 2]"),
        ({"y": {"a": [1]}}, "y['a'] is 1 values (allowed: a list of 2, one for each place of x)"),
        ({"y": {"a": 3}}, "y['a'] is 3"),
        ({"y": {"a": [1, math.inf]}}, "y['a'][1] is inf (allowed: finite numbers)"),
        ({"y": {"a": [1, None]}}, "y['a'][1] is None"),
        ({"y": {"a": [1, True]}}, "y['a'][1] is True"),
        ({"text": " "}, "text is ' ' (allowed: words)"),
        ({"x_label": None}, "x_label is None"),
        ({"x": [*range(MOST + 1)], "y": {"a": [0] * (MOST + 1)}}, f"holds {MOST + 1} values (allowed: up to {MOST}"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_what_is_allowed(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadValue) as caught:
        Chart(**{**PLAIN, **changes})
    assert caught.value.message.startswith("chart 'norms': ") and said in caught.value.message


@pytest.mark.parametrize("report", [{"charts": 3}, {"charts": {"a": 3}}, {"charts": {"a": {"kind": "bar"}}}])
def test_what_another_wrote_under_this_name_is_no_chart(report: dict[str, Any]) -> None:
    with pytest.raises(BadData):
        charts_of(report)
    assert charts_of({}) == []


def test_a_run_keeps_its_charts_beside_what_else_it_reports(source: Backbone, tmp_path: Path) -> None:
    run = small_run(source, tmp_path)
    run.report(chosen=["fc.weight"])
    for value in (1.0, 2.0):
        run.chart(**{**PLAIN, "y": {"weights": [value, value]}})
    run.chart(**{**PLAIN, "name": "other"})
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["chosen"] == ["fc.weight"]
    assert [(chart.name, chart.y["weights"][0]) for chart in charts_of(report)] == [("norms", 2.0), ("other", 0.5)]
    with pytest.raises(BadValue):
        run.chart(**{**PLAIN, "y": {"weights": [1.0]}})
    assert json.loads((tmp_path / "report.json").read_text()) == report


# what rtk's own strategies draw


def drawn(strategy: rtk.Strategy, source: Backbone, directory: Path) -> dict[str, Chart]:
    run = small_run(source, directory)
    strategy.finetune(copy.deepcopy(source.model), run)
    return {chart.name: chart for chart in charts_of(json.loads((directory / "report.json").read_text()))}


def test_rift_draws_criticality_and_interpolation(source: Backbone, tmp_path: Path) -> None:
    few = {"epochs": 1, "criticality_images": 16, "ascent_steps": 1, "attack_steps": 1, "alphas": 2}
    found = drawn(Rift(RiftConfig(**few)), source, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    bars, curve = found["criticality"], found["interpolation"]
    assert dict(zip(bars.x, bars.y["criticality"], strict=True)) == report["criticality"]
    assert list(curve.x) == [0, 0.5, 1] and f"alpha = {report['alpha']:g}" in curve.text
    assert curve.y["clean"] == pytest.approx([100 * point["clean"] for point in report["interpolation"]])


def test_cartl_draws_norms_that_end_at_beta(source: Backbone, tmp_path: Path) -> None:
    chart = drawn(Cartl(CartlConfig(epochs=1, milestones=(), beta=0.6)), source, tmp_path)["spectral norms"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(chart.x) == report["normalised"] and chart.y["after"] == pytest.approx([0.6] * len(chart.x), rel=1e-4)
    head = float(torch.linalg.matrix_norm(source.model.net.get_parameter("fc.weight").detach(), 2))
    assert dict(zip(chart.x, chart.y["before"], strict=True))["fc.weight"] == pytest.approx(head, rel=1e-4)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_fdm_draws_a_distance_per_image_for_every_epoch(source: Backbone, tmp_path: Path, reduction: str) -> None:
    config = FdmConfig(epochs=2, milestones=(), attack_steps=1, select_steps=0, reduction=reduction, penalty=0, lr=1e-9)
    chart = drawn(Fdm(config), source, tmp_path)["feature distance"]
    assert list(chart.x) == [1, 2] and 0 < chart.y["distance"][0] < 1


def test_twins_draws_norms_of_every_epoch_also_of_a_resumed_run(source: Backbone, tmp_path: Path) -> None:
    short = {"milestones": (), "attack_steps": 1, "select_steps": 0, "batch_size": 32}
    whole = drawn(Twins(TwinsConfig(epochs=2, **short)), source, tmp_path / "whole")
    drawn(Twins(TwinsConfig(epochs=1, **short)), source, tmp_path / "parts")
    assert drawn(Twins(TwinsConfig(epochs=2, **short)), source, tmp_path / "parts") == whole
    assert list(whole["gradient norms"].x) == [1, 2] and set(whole["gradient norms"].y) == set(GRADIENTS)
    first = {name: values[0] for name, values in whole["weight norms"].y.items()}
    assert first["frozen wing's BatchNorm"] == first["adaptive wing's BatchNorm"], "both begin with the source's"


def test_without_training_there_is_nothing_to_draw(source: Backbone, tmp_path: Path) -> None:
    assert drawn(Twins(TwinsConfig(epochs=0, milestones=())), source, tmp_path / "t") == {}
    assert drawn(Fdm(FdmConfig(epochs=0, milestones=())), source, tmp_path / "f") == {}


def test_rtk_plot_draws_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="part of the extra 'plots'")
    out = tmp_path / "run"
    rtk.finetune("cartl", epochs=0, suite="clean,pgd20", images=20, workers=1, out=out)
    result = json.loads((out / "result.json").read_text())
    line = Chart(**{**PLAIN, "name": "$a$/../b"}).describe()
    bars = Chart(**{**PLAIN, "name": "bars", "kind": "bar"}).describe()
    result["report"]["charts"] |= {"$a$/../b": line, "bars": bars}
    (out / "result.json").write_text(json.dumps(result))
    found = {one.name: one for one in draw(out)}
    for name in ("chart-spectral-norms.png", "chart-a-b.png", "chart-bars.png"):
        assert found[name].path == out / "pictures" / name
        with Image.open(out / "pictures" / name) as image:
            assert image.size[0] > 800 and image.info["Description"] == found[name].text
    assert "Largest singular value" in found["chart-spectral-norms.png"].text
