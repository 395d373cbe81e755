"""Command-line options made from declared hyper-parameters."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo

from ..config import Config, bounds, choices, default, flag, members_of, origin
from ..errors import BadValue

LONGEST = 20
"""Characters of a list of choices that still stands beside its option."""


def options(kind: type[Config], *, show_origin: bool) -> list[click.Option]:
    """One option per field. Values stay text here; `rtk.config.resolve` is the one place that judges them."""
    return [_option(name, field, show_origin) for name, field in kind.model_fields.items()]


def _option(name: str, field: FieldInfo, show_origin: bool) -> click.Option:
    if field.annotation is bool:
        spelling = f"{flag(name)}/--no-{flag(name)[2:]}"
        return click.Option([spelling, name], default=None, help=describe(field, show_origin))
    return click.Option([flag(name), name], metavar=_metavar(field), help=describe(field, show_origin))


def describe(field: FieldInfo, show_origin: bool = True) -> str:
    """Help text: what it is, the default and where that comes from, and what is allowed.

    A default of None says nothing: the sentence before it tells what happens then.
    """
    facts = []
    if field.is_required():
        facts.append("required")
    elif default(field) != "none" or show_origin:
        facts.append(f"default {default(field)}" + (f" ({origin(field)})" if show_origin and origin(field) else ""))
    if (limits := bounds(field)) and limits != _metavar(field).replace("|", " | "):
        facts.append(f"allowed: {limits}")
    return f"{field.description or ''} [{'; '.join(facts)}]".replace(" []", "").strip()


def _metavar(field: FieldInfo) -> str:
    listed = "|".join(choices(field))
    if listed:
        return listed if len(listed) <= LONGEST else "NAME"
    members = members_of(field.annotation)
    if any(typing.get_origin(member) is tuple for member in members):
        return "A,B,.."
    return next((name for kind, name in ((int, "N"), (float, "X"), (Path, "PATH")) if kind in members), "TEXT")


def values_of(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The values of an option in a raw command line, as `--name VALUE`, `--name=VALUE`, `-n VALUE` or `-nVALUE`."""
    found: list[str] = []
    for position, argument in enumerate(arguments):
        for name in names:
            if argument == name:
                found += arguments[position + 1 : position + 2]
            elif name.startswith("--") and argument.startswith(name + "="):
                found.append(argument.removeprefix(name + "="))
            elif not name.startswith("--") and not argument.startswith("--") and argument.startswith(name):
                found.append(argument.removeprefix(name))
    return found


def check_values(arguments: Sequence[str], params: Sequence[click.Parameter]) -> None:
    """BadValue when an option stands without its value; click would take the next option for it."""
    takes = {param: isinstance(param, click.Option) and not param.is_flag and not param.count for param in params}
    spellings = {name: takes[param] for param in params for name in (*param.opts, *param.secondary_opts)}
    for argument, following in zip_longest(arguments, arguments[1:]):
        if spellings.get(argument) and (following is None or following.split("=")[0] in spellings):
            raise BadValue(f"{argument}: a value is missing.", f"{argument} VALUE")


class Checked(click.Command):
    """A command that says which of its options lacks its value."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        check_values(args, self.get_params(context))
        return super().parse_args(context, args)


def chosen(arguments: Sequence[str], *names: str) -> str | None:
    """The last value of an option in a raw command line, or None."""
    found = values_of(arguments, names)
    return found[-1] if found else None


def compared(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a benchmark's tables: what rows are compared with, and what is shown below them."""
    reported = click.option(
        "--reported",
        metavar="NAME",
        multiple=True,
        help="Published table, or JSON file of RobustBench, to show below; may be given several times.",
    )
    baseline = click.option("--baseline", metavar="NAME", help="Row to compare the others with; by default the spec's.")
    return baseline(reported(function))
