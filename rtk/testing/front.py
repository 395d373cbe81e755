"""The checks as pytest tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from ..strategy import Strategy
from .networks import NETWORKS
from .suite import NAMES, SECONDS, Suite


def conformance(
    strategy: type[Strategy] | str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    norms: Sequence[str] = tuple(NETWORKS),
    seconds: float = SECONDS,
) -> Callable[[str], None]:
    """A pytest test for each check, with the check's name as its id; arguments as for `check`.

    test_conformance = conformance("my-strategy")
    """
    import pytest

    @cache
    def suite() -> Suite:
        return Suite(strategy, expected_failures=expected_failures, options=options, norms=norms, seconds=seconds)

    @pytest.mark.parametrize("check", NAMES)
    def test(check: str) -> None:
        row = suite().row(check)
        if row.verdict == "skipped":
            pytest.skip(row.sentence)
        if row.verdict == "expected":
            pytest.xfail(row.sentence)
        if row.verdict == "failed":
            pytest.fail(row.sentence, pytrace=False)

    return test
