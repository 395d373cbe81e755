"""Command-line options made from declared hyper-parameters."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from typing import Any

import click
from pydantic.fields import FieldInfo

from ..config import Config, bounds, flag, origin


def options(kind: type[Config], *, show_origin: bool) -> list[click.Option]:
    """One option per field. Values stay text here; `rtk.config.resolve` is the one place that judges them."""
    return [_option(name, field, show_origin) for name, field in kind.model_fields.items()]


def _option(name: str, field: FieldInfo, show_origin: bool) -> click.Option:
    if field.annotation is bool:
        spelling = f"{flag(name)}/--no-{flag(name)[2:]}"
        return click.Option([spelling, name], default=None, help=describe(field, show_origin))
    return click.Option([flag(name), name], metavar=_metavar(field), help=describe(field, show_origin))


def describe(field: FieldInfo, show_origin: bool = True) -> str:
    """Help text: what it is, what is allowed, the default and where that comes from."""
    facts = [f"default {show(field.default)}"] if not field.is_required() else ["required"]
    if limits := bounds(field):
        facts.insert(0, limits)
    if show_origin and origin(field):
        facts.append(f"origin: {origin(field)}")
    return f"{field.description} [{'; '.join(facts)}]"


def show(value: Any) -> str:
    """A value as it would be typed."""
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metavar(field: FieldInfo) -> str:
    members = [field.annotation, *typing.get_args(field.annotation)]
    for member, name in ((int, "N"), (float, "X")):
        if member in members:
            return name
    return "A,B,.." if any(typing.get_origin(member) is tuple for member in members) else "VALUE"


def value_after(arguments: Iterable[str], name: str) -> str | None:
    """The value of `--name VALUE` or `--name=VALUE` in a raw command line; the last one counts."""
    found, listed = None, list(arguments)
    for position, argument in enumerate(listed):
        if argument == name and position + 1 < len(listed):
            found = listed[position + 1]
        elif argument.startswith(name + "="):
            found = argument.split("=", 1)[1]
    return found
