"""The mutations of tests/mutations.py still fit the code; the script itself carries them out."""

from __future__ import annotations

import pytest

from .mutations import MUTATIONS, REPOSITORY, Mutation, survives


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_text_that_a_mutation_changes_is_there_once(mutation: Mutation) -> None:
    assert (REPOSITORY / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_strategy_fails_its_tests(mutation: Mutation) -> None:
    """Slow: each runs the tests of a strategy in a copy of the repository."""
    assert not survives(mutation)
