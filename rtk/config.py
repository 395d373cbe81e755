"""A strategy's hyper-parameters, declared once.

One pydantic model gives validation, command-line options with help and bounds, `rtk strategies show`, TOML files and
the resolved values stored with a run:

    class RiftConfig(rtk.Config):
        epochs: int = rtk.option(10, "Epochs of fine-tuning.", origin="paper, section 4.1", ge=1)

Nothing here imports torch, so that a wrong value is refused before anything heavy is loaded.
"""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
from pydantic import ConfigDict, Field
from pydantic.fields import FieldInfo

from .errors import BadValue, UnknownName


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
    'none' stands for None.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_text(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {
            key: _parse(value, cls.model_fields[key].annotation)
            if isinstance(value, str) and key in cls.model_fields
            else value
            for key, value in values.items()
        }


def _parse(text: str, annotation: Any) -> Any:
    members = _members(annotation)
    if type(None) in members and text.casefold() == "none":
        return None
    if float in members:
        return fraction(text)
    if any(typing.get_origin(member) is tuple for member in members):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text


def _members(annotation: Any) -> tuple[Any, ...]:
    """The plain types of an annotation: `float | None` gives (float, NoneType)."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(member for part in typing.get_args(annotation) for member in _members(part))
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    return (annotation,)


def flag(name: str) -> str:
    """The command-line spelling of a field: `weight_decay` is `--weight-decay`."""
    return "--" + name.replace("_", "-")


def origin(field: FieldInfo) -> str:
    """Where a default comes from, as declared."""
    extra = field.json_schema_extra
    return str(extra.get("origin", "")) if isinstance(extra, dict) else ""


def bounds(field: FieldInfo) -> str:
    """The allowed values of a field in words, e.g. '>= 0, <= 1', 'frozen | drift'; empty when there is no limit."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    parts = [
        f"{sign} {value}"
        for item in field.metadata
        for attribute, sign in signs.items()
        if (value := getattr(item, attribute, None)) is not None
    ]
    for member in _members(field.annotation):
        if typing.get_origin(member) is typing.Literal:
            parts.append(" | ".join(str(choice) for choice in typing.get_args(member)))
    return ", ".join(parts)


def resolve(kind: type[Config], flags: Mapping[str, Any], file: Mapping[str, Any] | None = None) -> Config:
    """Defaults, then the configuration file, then the flags; raises BadValue with the option, the limits and the value."""
    given: dict[str, Any] = {key.replace("-", "_"): value for key, value in (file or {}).items()}
    given.update(flags)
    try:
        return kind(**given)
    except pydantic.ValidationError as problem:
        raise _readable(kind, problem) from None


def _readable(kind: type[Config], problem: pydantic.ValidationError) -> BadValue | UnknownName:
    first = problem.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    field = kind.model_fields.get(name)
    if first["type"] == "extra_forbidden":
        return UnknownName("option", flag(name), [flag(known) for known in kind.model_fields])
    if field is None:
        return BadValue(f"{kind.__name__}: {first['msg']}.")
    allowed = f" (allowed: {bounds(field)}; default {field.default})" if bounds(field) else f" (default {field.default})"
    given = "nothing" if first["type"] == "missing" else repr(first["input"])
    return BadValue(f"{flag(name)}: {first['msg'].lower()}, got {given}{allowed}.")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary; BadValue when it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadValue(f"--config {path}: no such file.", "rtk finetune --help") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise BadValue(f"--config {path}: not a TOML file ({problem}).") from None
    except OSError as problem:
        raise BadValue(f"--config {path}: {problem.strerror}.") from None
