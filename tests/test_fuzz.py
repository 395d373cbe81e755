"""Nothing that a file, a URI or an option can hold gets past a reader but as an error of rtk.

Every test feeds one reader. A few examples, always the same, run with the other tests;
`pytest -m slow tests/test_fuzz.py` tries MANY others for each reader, new ones every time, and prints what fails. What
was found lies in tests/damaged and is read by tests/test_damaged.py.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from rich.console import Console

from rtk.errors import RtkError

from .readers import MADE, READERS, Reader, readers_of_own_files

FEW, MANY = 15, 800


def feed(reader: Reader, count: int, *, again: bool) -> None:
    """Feed a reader with `count` examples; `again` for the same ones every time."""

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=again,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(reader.given)
    def check(example: Any) -> None:
        try:
            reader.read(example)
        except RtkError as problem:
            assert problem.message and len(problem.message) < 20_000

    check()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return readers_of_own_files(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked for on a network, and nothing is printed."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(Console, "file", io.StringIO())


@pytest.mark.parametrize("name", READERS)
def test_a_reader_raises_nothing_but_errors_of_rtk(name: str) -> None:
    feed(READERS[name], FEW, again=True)


@pytest.mark.parametrize("name", MADE)
def test_a_reader_of_what_rtk_writes_raises_nothing_but_errors_of_rtk(name: str, made: dict[str, Reader]) -> None:
    feed(made[name], FEW, again=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*READERS, *MADE])
def test_a_reader_raises_nothing_else_in_many_examples(name: str, made: dict[str, Reader]) -> None:
    """Slow since there are MANY examples for each of some forty readers, more than 30,000 over all."""
    feed({**READERS, **made}[name], MANY, again=False)


def test_there_are_ten_thousand_examples_over_all() -> None:
    assert MANY * (len(READERS) + len(MADE)) >= 10_000
