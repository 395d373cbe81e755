"""All checks on one strategy."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import BadValue, PluginError, UnknownName
from ..process_state import preserved
from ..registry import Registry
from ..strategy import Strategy
from .checks import CHECKS, Check, name_of
from .networks import NETWORKS
from .report import Fault, Report, Row, Skip
from .trial import Trial, brief
from .watching import Interruption

SECONDS = 60.0
"""That a small run may take before it counts as one that hangs."""

NAMES = tuple(name_of(check) for check in CHECKS)
"""Every check, in the order in which they are made."""


def check(
    strategy: type[Strategy] | str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    norms: Sequence[str] = tuple(NETWORKS),
    seconds: float = SECONDS,
) -> Report:
    """Run every check on a strategy, on small networks and a few real images, on the CPU.

    Args:
        strategy: a class, the name of an installed strategy, or "module:Class".
        expected_failures: names of checks that fail, each with the reason; one that passes all the same is a failure.
        options: values of the strategy's options; those that rtk's own strategies have for the length of a run are
            set to small values by themselves.
        norms: kinds of normalisation layer to try: "batch", "layer", "group"; every other check uses the first.
        seconds: that a small run may take.

    Raises:
        UnknownName: no such strategy, check, option or norm.
        BadValue: "module:Class" leads to no strategy.
        PluginError: the strategy's plugin cannot be loaded.
    """
    suite = Suite(strategy, expected_failures=expected_failures, options=options, norms=norms, seconds=seconds)
    return Report(suite.name, tuple(suite.rows()))


class Suite:
    """The checks on one strategy, each made when it is asked for; arguments as for `check`."""

    def __init__(
        self,
        strategy: type[Strategy] | str,
        *,
        expected_failures: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        norms: Sequence[str] = tuple(NETWORKS),
        seconds: float = SECONDS,
    ) -> None:
        self.strategy = find_strategy(strategy) if isinstance(strategy, str) else strategy
        self.name = strategy if isinstance(strategy, str) else f"{strategy.__module__}:{strategy.__qualname__}"
        self.expected = dict(expected_failures or {})
        if not norms:
            raise BadValue("norms: got none.", "one or more of " + ", ".join(NETWORKS))
        for kind, given, allowed in (
            ("check", self.expected, NAMES),
            ("norm", norms, NETWORKS),
            ("option", options or {}, self.strategy.config_type.model_fields),
        ):
            for name in given:
                if name not in allowed:
                    raise UnknownName(kind, name, allowed)
        self.trial = Trial(self.strategy, options or {}, tuple(norms), seconds)

    def rows(self) -> Iterator[Row]:
        """Every check, in their order."""
        yield from map(self.row, NAMES)

    def row(self, name: str) -> Row:
        """The outcome of one check; UnknownName when there is none of that name."""
        if name not in NAMES:
            raise UnknownName("check", name, NAMES)
        row = self._made(CHECKS[NAMES.index(name)])
        if name not in self.expected or row.verdict == "skipped":
            return row
        if row.verdict == "passed":
            return Row(name, "failed", "It passes, although a failure is declared; remove it from expected_failures.")
        return Row(name, "expected", self.expected[name])

    def _made(self, check: Check) -> Row:
        name = name_of(check)
        try:
            with preserved():
                return Row(name, "passed", check(self.trial) or "")
        except Fault as fault:
            return Row(name, "failed", str(fault))
        except Skip as reason:
            return Row(name, "skipped", str(reason))
        except (Exception, SystemExit, Interruption) as problem:  # of the strategy, where no check has words for it
            return Row(name, "failed", f"finetune raised {brief(problem)}, where it has to come to an end.")


def find_strategy(name: str) -> type[Strategy]:
    """The installed strategy `name`, or the class at "module:Class"; raises as `check` does."""
    module, separator, attribute = name.partition(":")
    if not separator:
        return Registry().strategy(name)
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as problem:
        raise PluginError(f"{module}: {brief(problem)}.", "an installed strategy, or module:Class") from problem
    if not (inspect.isclass(found) and issubclass(found, Strategy)):
        raise BadValue(f"{name}: leads to no subclass of rtk.Strategy.", "module:Class")
    return found
