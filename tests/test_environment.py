"""What a result says of the machines and versions that it was made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rtk.environment import continued

HERE = {"cores": 2, "device": "cpu", "packages": {"torch": "3", "timm": None}}


def after(tmp_path: Path, *parts: dict[str, Any]) -> dict[str, Any]:
    """What is kept of work that was done in parts, each of them elsewhere."""
    kept, said = tmp_path / "environment.json", {}
    kept.unlink(missing_ok=True)
    for part in parts:
        said = continued(kept, part)
        kept.write_text(json.dumps(said))
    return said


def test_work_that_went_on_elsewhere_says_where_it_was_begun(tmp_path: Path) -> None:
    old = {**HERE, "packages": {"torch": "1", "timm": None}}
    elsewhere = {**HERE, "cores": 8, "node": "other"}
    assert after(tmp_path, HERE, HERE, HERE) == HERE
    assert after(tmp_path, old, HERE, HERE) == {**HERE, "earlier": [{"torch": "1"}]}
    assert after(tmp_path, old, elsewhere, HERE)["earlier"] == [{"torch": "1"}, {"cores": 8, "node": "other"}]
    assert after(tmp_path, old, elsewhere)["earlier"] == [{"torch": "1", "cores": 2, "node": None}]


def test_a_damaged_record_is_written_anew(tmp_path: Path) -> None:
    for damaged in ("", "[]", "{", '{"packages": 3, "earlier": [4]}'):
        (tmp_path / "environment.json").write_text(damaged)
        assert continued(tmp_path / "environment.json", HERE)["packages"] == HERE["packages"]
