"""The strategy in plugins/README.md is code that works as it stands there."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rtk
from rtk.backbones import open_backbone

from .small_run import changed, small_run, snapshot

TEXT = (Path(__file__).parent.parent / "plugins" / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def tutorial(monkeypatch) -> ModuleType:
    """The listing as the module that it says it is."""
    (listing,) = re.findall(r"```python\n# my_strategy\.py\n(.*?)```", TEXT, re.DOTALL)
    module = ModuleType("my_strategy")
    monkeypatch.setitem(sys.modules, "my_strategy", module)
    exec(compile(listing, "my_strategy.py", "exec"), vars(module))
    return module


def test_the_listing_is_a_strategy_that_trains_what_it_says(tutorial: ModuleType, tmp_path: Path) -> None:
    strategy = tutorial.rtk_strategies()
    assert issubclass(strategy, rtk.Strategy) and f"{strategy.name} = my_strategy" in TEXT
    target = open_backbone("rtk:fashion-resnet", classes=10, new_head=True)
    run = small_run(target, tmp_path, dataset="signs")
    tuned = strategy(strategy.config_type(epochs=1)).finetune(copy.deepcopy(target.model), run)
    moved = changed(snapshot(target.model), snapshot(tuned))
    assert moved and all(name.startswith(("layer3.0.", "fc.")) for name in moved)
    assert not any("running" in name for name in moved)
