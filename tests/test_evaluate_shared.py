"""A network that many runs start from is judged once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import rtk
from rtk.evaluation import attacked
from rtk.evaluation.shared import PLACE


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[int]]:
    """The numbers of images that were attacked, call by call; verdicts are shared in `tmp_path / "shared"`."""
    calls: list[int] = []
    judge = attacked.judge

    def counted(model, images, labels, attacks, *rest, **options):
        if attacks:
            calls.append(len(images))
        return judge(model, images, labels, attacks, *rest, **options)

    monkeypatch.setattr(attacked, "judge", counted)
    monkeypatch.setenv(PLACE, str(tmp_path / "shared"))
    yield calls


def run(out: Path, **options: object) -> rtk.results.Result:
    return rtk.finetune(
        "full",
        dataset="fashion",
        suite="clean,pgd20",
        images=40,
        chunk_size=20,
        workers=1,
        epochs=0,
        out=out,
        **options,
    )


def files(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*.json"))}


def row(result: rtk.results.Result) -> dict:
    return json.loads(result.rows[0].model_dump_json())


def test_a_second_run_judges_its_source_no_more(judged: list[int], tmp_path: Path) -> None:
    first = run(tmp_path / "first")
    assert judged == [20] * 4  # two chunks, of the source and of the result
    second = run(tmp_path / "second", seed=1)
    assert judged == [20] * 6
    assert row(second) == row(first)
    assert files(tmp_path / "second/evaluation/source") == files(tmp_path / "first/evaluation/source") != {}


def test_another_protocol_shares_nothing(judged: list[int], tmp_path: Path) -> None:
    run(tmp_path / "first")
    run(tmp_path / "second", evaluation_seed=1)
    assert judged == [20] * 8


def test_what_cannot_be_read_is_judged_again(judged: list[int], tmp_path: Path) -> None:
    first = run(tmp_path / "first")
    for path in (tmp_path / "shared").rglob("*.json"):
        path.write_bytes(path.read_bytes()[:50])
    assert row(run(tmp_path / "second", seed=1)) == row(first)
    assert judged == [20] * 8
    assert row(run(tmp_path / "third", seed=2)) == row(first)
    assert judged == [20] * 10


def test_nothing_is_shared_unless_somebody_says_where(
    judged: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PLACE)
    run(tmp_path / "first")
    run(tmp_path / "second", seed=1)
    assert judged == [20] * 8 and not (tmp_path / "shared").exists()
