"""A strategy's hyper-parameters, declared once.

One pydantic model gives validation, command-line options with help and bounds, `rtk strategies show`, TOML files and
the resolved values stored with a run:

    class RiftConfig(rtk.Config):
        epochs: int = rtk.option(10, "Epochs of fine-tuning.", origin="paper, section 4.1", ge=1)

Nothing here imports torch, so that a wrong value is refused before anything heavy is loaded.
"""

from __future__ import annotations

import copy
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import pydantic
from pydantic import ConfigDict, Field
from pydantic.fields import FieldInfo

from . import files
from .errors import BadValue, PluginError, RtkError, UnknownName


def fraction(text: object) -> object:
    """Turn '8/255' into a float; anything else is returned as given, for pydantic to judge."""
    if isinstance(text, str) and text.count("/") == 1:
        above, below = text.split("/")
        try:
            return float(above) / float(below)
        except (ValueError, ZeroDivisionError):
            return text
    return text


def option(default: Any = ..., help: str = "", *, origin: str, **bounds: Any) -> Any:
    """Declare one hyper-parameter.

    Args:
        default: its value when nobody sets it; leave it out to make the option required.
        help: one sentence, with the unit.
        origin: where the default comes from, e.g. "paper, section 4.1", "published code", "rtk".
        bounds: pydantic's constraints: ge, gt, le, lt, min_length, max_length, pattern.
    """
    return Field(default, description=help, json_schema_extra={"origin": origin}, **bounds)


class Config(pydantic.BaseModel):
    """Base of every strategy's hyper-parameters.

    Immutable; unknown keys and infinite numbers are refused. As text, a number may be '8/255', a tuple 'a,b,c', and
    'none' stands for None. A subclass changes inherited defaults, and says where the new ones come from, by
    `class C(Base, defaults={"lr": (0.003, "paper, section 4")})`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, defer_build=True)

    def __init_subclass__(cls, defaults: Mapping[str, tuple[Any, str]] | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)  # `defaults` is for the hook below: fields do not exist yet

    @classmethod
    def __pydantic_init_subclass__(cls, defaults: Mapping[str, tuple[Any, str]] | None = None, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if not defaults:
            return
        for name, (value, source) in defaults.items():
            if name not in cls.model_fields:
                raise TypeError(f"{cls.__name__}: defaults name {name!r}, which is not an inherited option")
            field = copy.copy(cls.model_fields[name])
            field.default, field.json_schema_extra = value, {"origin": source}
            cls.__pydantic_fields__[name] = field
        if cls.__pydantic_complete__:  # not with defer_build, which a subclass may undo
            cls.model_rebuild(force=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_text(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        for key, value in values.items():
            if isinstance(value, str) and (fault := _fault(value)):
                raise ValueError(f"{flag(key)}: no file name and no other value may hold {fault}")
        return {
            key: _parse(value, cls.model_fields[key].annotation) if key in cls.model_fields else value
            for key, value in values.items()
        }

    @pydantic.model_validator(mode="after")
    def _bounded(self) -> Self:
        for key, value in self:
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int) and abs(number) >= LIMIT:
                    raise ValueError(f"{flag(key)}: no number may need more than 64 bits")
        return self


LIMIT = 2**63
"""Integers from here on cannot be counted with, nor written to JSON that everybody reads."""


def _fault(text: str) -> str | None:
    """What keeps a value from being kept in a configuration; a file name of Linux can be any bytes."""
    if "\0" in text:
        return "a null character"
    return None if text.isascii() or text == text.encode(errors="ignore").decode() else "what is not UTF-8"


def _parse(value: Any, annotation: Any) -> Any:
    members = members_of(annotation)
    if isinstance(value, bool) and bool not in members:
        return str(value).lower()  # a number is wanted: pydantic would take TOML's true for 1
    if not isinstance(value, str):
        return value
    if type(None) in members and value.strip().casefold() == "none":
        return None
    for member in members:
        if typing.get_origin(member) is typing.Literal:
            return next((choice for choice in typing.get_args(member) if str(choice) == value), value)
        if typing.get_origin(member) is tuple:
            parts = [part.strip() for part in value.split(",")]
            return tuple(_parse(part, typing.get_args(member)[0]) for part in parts if part)
    return fraction(value) if float in members else value


def members_of(annotation: Any) -> tuple[Any, ...]:
    """The plain types of an annotation: `float | None` gives (float, NoneType)."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(member for part in typing.get_args(annotation) for member in members_of(part))
    if typing.get_origin(annotation) is typing.Annotated:
        return members_of(typing.get_args(annotation)[0])
    return (annotation,)


def flag(name: str) -> str:
    """The command-line spelling of a field: `weight_decay` is `--weight-decay`."""
    return "--" + name.replace("_", "-")


def origin(field: FieldInfo) -> str:
    """Where a default comes from, as declared."""
    extra = field.json_schema_extra
    return str(extra.get("origin", "")) if isinstance(extra, dict) else ""


def show(value: Any) -> str:
    """A value as it would be typed."""
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return ",".join(map(show, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else written(value)


def default(field: FieldInfo) -> str:
    """The default as it would be typed, or 'required'."""
    return "required" if field.is_required() else show(field.get_default(call_default_factory=True))


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The values that can be chosen from, as text; empty when there is no such list."""
    found = [
        str(choice)
        for member in members_of(field.annotation)
        if typing.get_origin(member) is typing.Literal
        for choice in typing.get_args(member)
    ]
    if not found and (plain := re.fullmatch(r"\^\(([\w|-]+)\)\$", str(_constraint(field, "pattern")))):
        found = plain[1].split("|")
    return tuple(found)


def bounds(field: FieldInfo) -> str:
    """The allowed values of a field in words, e.g. '0 to 1', '> 0', 'frozen | drift'; empty when there is no limit."""
    limits = {name: _constraint(field, name) for name in ("ge", "gt", "le", "lt", "min_length", "max_length")}
    if limits["ge"] is not None and limits["le"] is not None:
        parts = [f"{show(limits['ge'])} to {show(limits['le'])}"]
    else:
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        parts = [f"{sign} {show(limits[name])}" for name, sign in signs.items() if limits[name] is not None]
    for name, word in (("min_length", "at least"), ("max_length", "at most")):
        if limits[name] is not None:
            parts.append(f"length {word} {limits[name]}")
    if found := choices(field):
        parts.append(" | ".join(found))
    return ", ".join(parts)


def _constraint(field: FieldInfo, name: str) -> Any:
    return next((value for item in field.metadata if (value := getattr(item, name, None)) is not None), None)


def wanted(field: FieldInfo) -> str:
    """What a field takes, in words: 'a whole number >= 0 or none', 'numbers joined by commas'."""
    members = members_of(field.annotation)
    if bool in members:
        kind = "true or false"
    elif found := choices(field):
        kind = f"one of {' | '.join(found)}"
    else:
        kind = next((words for member in members if (words := _kind(member))), "")
        if not kind and _constraint(field, "pattern"):
            kind = f"text as described ({(field.description or '').rstrip('.')})"
        kind = f"{kind or 'text'} {bounds(field)}".strip()
    return kind + (" or none" if type(None) in members else "")


def _kind(member: Any) -> str:
    if typing.get_origin(member) is tuple:
        inner = {int: "whole numbers", float: "numbers"}.get(typing.get_args(member)[0], "names")
        return f"{inner} joined by commas"
    return {int: "a whole number", float: "a finite number", Path: "a path"}.get(member, "")


def resolve(kind: type[Config], flags: Mapping[str, Any], file: Mapping[str, Any] | None = None) -> Config:
    """Defaults, then the configuration file, then the flags; BadValue names the option, the limits and the value."""
    given: dict[str, Any] = {}
    for source in (file or {}, flags):
        given.update({key.replace("-", "_"): value for key, value in source.items()})
    try:
        return kind(**given)
    except pydantic.ValidationError as problem:
        raise _readable(kind, problem) from None
    except RtkError:
        raise
    except Exception as problem:  # a validator that the author of a strategy wrote
        reason = f"{type(problem).__name__}: {problem}"
        raise PluginError(f"{kind.__module__}: the options {kind.__name__} cannot be checked: {reason}.") from problem


def _readable(kind: type[Config], problem: pydantic.ValidationError) -> BadValue | UnknownName:
    """The first complaint of pydantic as one line in the words of the command line."""
    first = problem.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    said = " ".join(first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").split()).rstrip(".")
    field = kind.model_fields.get(name)
    if first["type"] == "extra_forbidden":
        return UnknownName("option", flag(name), [flag(known) for known in kind.model_fields])
    if field is None:
        return BadValue(f"{said}.")
    if first["type"] == "missing":
        return BadValue(f"{flag(name)}: is required, needs {wanted(field)}.", f"{flag(name)} VALUE")
    if first["type"] in ("value_error", "assertion_error"):
        return BadValue(f"{flag(name)}: {said}, got {_short(first['input'])}.", _usual(name, field))
    return BadValue(f"{flag(name)}: needs {wanted(field)}, got {_short(first['input'])}.", _usual(name, field))


def _usual(name: str, field: FieldInfo) -> str:
    """What to type instead: the default, or nothing where that means something by itself."""
    usual = default(field)
    if field.annotation is bool:
        return f"{flag(name)}, or {flag(f'no_{name}')}"
    return {"required": f"{flag(name)} VALUE", "none": f"without {flag(name)}"}.get(usual, f"{flag(name)} {usual}")


def written(value: Any, write: Callable[[Any], str] = str) -> str:
    """A value as text, also one that Python refuses to write out."""
    try:
        return write(value)
    except (ValueError, RecursionError):  # thousands of digits, thousands of tables in one another
        return f"{type(value).__name__}, too large to be shown"


def _short(value: Any, limit: int = 60) -> str:
    text = written(value, repr)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary; BadValue when it is missing or not TOML."""
    try:
        return tomllib.loads(files.home(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadValue(f"--config {path}: no such file.", "rtk finetune --help") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise BadValue(f"--config {path}: not a TOML file ({problem}).", "lines such as: epochs = 5") from None
    except BadValue as problem:
        raise BadValue(f"--config {problem.message}") from None
    except (OSError, ValueError) as problem:
        raise BadValue(f"--config {path}: {getattr(problem, 'strerror', None) or problem}.") from None
