"""The listings in plugins/README.md are code that works as it stands there."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rtk
from rtk.backbones import Backbone, open_backbone
from rtk.testing.checks import CHECKS, name_of, sentence_of
from rtk.testing.scaffold import render

from .small_run import changed, small_run, snapshot

TEXT = (Path(__file__).parent.parent / "plugins" / "README.md").read_text(encoding="utf-8")
LISTINGS = dict(re.findall(r"```python\n# (\S+\.py(?:, step \d)?)\n(.*?)```", TEXT, re.DOTALL))
MODULE = "rtk_my_strategy.py"
HEAD = ("layer2.0.", "layer3.0.", "fc.")
MOVES = {f"{MODULE}, step 1": (), f"{MODULE}, step 2": ("",), f"{MODULE}, step 3": ("",), MODULE: HEAD}
"""Beginnings of the names of what each listing trains."""


@pytest.fixture(scope="module")
def target() -> Backbone:
    return open_backbone("rtk:fashion-resnet", classes=10, new_head=True)


@pytest.fixture
def strategy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[rtk.Strategy]:
    """What a listing offers when it is the module that it says it is."""
    module = ModuleType("rtk_my_strategy")
    monkeypatch.setitem(sys.modules, "rtk_my_strategy", module)
    exec(compile(LISTINGS[request.param], MODULE, "exec"), vars(module))
    offered: type[rtk.Strategy] = module.rtk_strategies()
    return offered


@pytest.mark.parametrize(("strategy", "moves"), MOVES.items(), indirect=["strategy"], ids=list(MOVES))
def test_each_listing_is_a_strategy_that_trains_what_it_says(
    strategy: type[rtk.Strategy], moves: tuple[str, ...], target: Backbone, tmp_path: Path
) -> None:
    run = small_run(target, tmp_path, dataset="signs")
    tuned = strategy(strategy.config_type()).finetune(copy.deepcopy(target.model), run)
    moved = changed(snapshot(target.model), snapshot(tuned))
    assert all(name.startswith(moves) for name in moved) and bool(moved) == bool(moves)
    assert any("running" in name for name in moved) == bool(moves)


def test_the_last_listing_is_the_file_that_a_new_plugin_begins_with() -> None:
    assert LISTINGS[MODULE] == render("strategy.py.template", "my-strategy")
    assert LISTINGS["tests/test_my_strategy.py"] == render("test_strategy.py.template", "my-strategy")
    (entry,) = re.findall(r"```toml\n# pyproject\.toml\n(.*?)```", TEXT, re.DOTALL)
    assert entry in render("pyproject.toml.template", "my-strategy")


def test_the_table_of_checks_is_what_the_checks_say() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \|$", TEXT, re.MULTILINE)
    assert rows == [(name_of(check), sentence_of(check)) for check in CHECKS]
