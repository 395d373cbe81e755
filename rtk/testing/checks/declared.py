"""What a strategy says of itself, before it runs."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rtk

from ...config import bounds, choices, default, flag, members_of, origin, resolve
from ...errors import RtkError
from ...registry import faults
from ..report import Fault, Skip
from ..trial import Trial, brief

LONGEST = 120
"""Characters of a summary that a listing shows without breaking it twice."""

PUBLIC = {"rtk.lazy", "rtk.testing", "rtk.schedules"}


def loads_as_a_plugin(trial: Trial) -> None:
    """The registry accepts the class: name, `finetune`, setting, paper, departures and names of options."""
    for fault in faults(trial.strategy):
        raise Fault(f"{trial.strategy.__name__}{fault}.")


def says_what_it_is(trial: Trial) -> None:
    """Listings and results can say what the strategy does, and which publication to check it against."""
    kind = trial.strategy
    summary = kind.summary.strip()
    if not summary.endswith(".") or "\n" in summary or len(summary) > LONGEST:
        raise Fault(f"{kind.__name__}.summary must be one sentence of up to {LONGEST} characters that ends in a stop.")
    if kind.paper is None:
        return
    for part in ("title", "authors", "venue", "url"):
        if not getattr(kind.paper, part).strip():
            raise Fault(f"{kind.__name__}.paper has no {part}; fill it in, or set paper = None.")
    if not kind.paper.url.startswith(("https://", "http://")):
        raise Fault(f"{kind.__name__}.paper.url is {kind.paper.url!r}; it must begin with https://.")


def options_are_documented(trial: Trial) -> None:
    """Every option says what it means and where its default comes from, so that a result can be compared."""
    for name, field in trial.strategy.config_type.model_fields.items():
        if not (field.description or "").strip():
            raise Fault(f"Option {flag(name)} has no help; declare it with rtk.option(default, 'Help.', origin=...).")
        if not origin(field).strip():
            raise Fault(f"Option {flag(name)} has no origin; say where the default comes from, e.g. origin='paper'.")


def options_are_bounded(trial: Trial) -> None:
    """A number that makes no sense is refused before anything is loaded."""
    for name, field in trial.strategy.config_type.model_fields.items():
        members = members_of(field.annotation)
        if (int in members or float in members) and not bounds(field):
            raise Fault(f"Option {flag(name)} takes any number; give it limits, e.g. ge=0 in rtk.option.")


def options_resolve_from_text(trial: Trial) -> None:
    """Every default can be typed: on the command line and in a file it means what it means in Python."""
    kind = trial.strategy.config_type
    typed = {name: default(field) for name, field in kind.model_fields.items() if not field.is_required()}
    required = {name: value for name, value in trial.options.items() if kind.model_fields[name].is_required()}
    for name, text in typed.items():
        try:
            found = getattr(resolve(kind, {**required, name: text}), name)
        except RtkError as problem:
            raise Fault(f"The default of {flag(name)} cannot be typed as {text!r}: {brief(problem)}.") from problem
        wanted = kind.model_fields[name].get_default(call_default_factory=True)
        if not _alike(found, wanted):
            hint = "" if not choices(kind.model_fields[name]) else " or a list of choices"
            raise Fault(f"{flag(name)} {text} means {found!r}, but the default is {wanted!r}; choose a type{hint}.")


def _alike(found: Any, wanted: Any) -> bool:
    """Equal, but for the digits of a number that are not shown."""
    if isinstance(wanted, float) and isinstance(found, float):
        return math.isclose(found, wanted, rel_tol=1e-5)
    if isinstance(wanted, tuple) and isinstance(found, tuple) and len(found) == len(wanted):
        return all(map(_alike, found, wanted))
    return bool(found == wanted)


def imports_public_names_only(trial: Trial) -> None:
    """The strategy's module reaches neither test data nor anything else of rtk that may change without notice."""
    place = inspect.getsourcefile(trial.strategy)
    if place is None or not Path(place).is_file():
        raise Skip("The source of the strategy is not there.")
    public = PUBLIC | {"rtk"} | {f"rtk.{name}" for name in rtk.__all__}
    for name in _imported(ast.parse(Path(place).read_text(encoding="utf-8"))):
        if name.partition(".")[0] == "rtk" and name not in public and name.rpartition(".")[0] not in PUBLIC:
            raise Fault(f"{Path(place).name} imports {name}; use `import rtk` and what `run` offers.")


def _imported(tree: ast.Module) -> Iterator[str]:
    """Names of everything that is imported when the file runs, also inside functions."""
    for statement in tree.body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING"):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
