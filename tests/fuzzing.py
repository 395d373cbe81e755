"""What the fuzz tests feed to readers: damaged bytes, JSON with a wrong part, values of any kind."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from rtk.config import Config, default

HUGE = (2**31, 2**63, 2**64 - 1, 10**30, -1, -(2**63))
WORDS = (
    "",
    " ",
    "none",
    "all",
    "nan",
    "inf",
    "-0",
    "1e999",
    "8/255",
    "1/0",
    "~no-such-user/x",
    "~\0",
    "../../etc/passwd",
    "/dev/null",
)
WORDS += (
    "a" * 300,
    "a" * 5000,
    "\x1b[2J",
    "\u202e",
    "<script>",
    "[/red]",
    "{}",
    "%s",
    "a,b,,c",
    "Linf:8/255",
    "é",
    "\udc80",
)

texts = st.one_of(st.sampled_from(WORDS), st.text(max_size=20))
unwritable = st.builds(lambda power: 16**power, st.just(4000))  # Python refuses to write so many digits
numbers = st.one_of(
    st.sampled_from(HUGE), unwritable, st.integers(-5, 300), st.floats(allow_nan=True, allow_infinity=True)
)
plain = st.one_of(st.none(), st.booleans(), numbers, texts)


@st.composite
def deep(draw: st.DrawFn) -> Any:
    """A value inside of up to thousands of lists or tables."""
    found: Any = draw(plain)
    kind = draw(st.booleans())
    for _ in range(draw(st.sampled_from((1, 2, 50, 3000)))):
        found = [found] if kind else {"a": found}
    return found


values = st.one_of(
    plain,
    st.lists(plain, max_size=4),
    st.dictionaries(texts, plain, max_size=3),
    st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
    ),
    deep(),
)
"""Whatever TOML, JSON or a caller can bring."""


def options(kind: type[Config], also: Mapping[str, Any] | None = None) -> st.SearchStrategy[dict[str, Any]]:
    """Option names to values; most names are known, and many values are those that such an option has."""
    usual = {name: default(field) for name, field in kind.model_fields.items()} | dict(also or {})
    known = st.sampled_from([*usual]).flatmap(
        lambda name: st.tuples(st.just(name), st.one_of(st.just(usual[name]), st.just(usual[name]), values))
    )
    return st.lists(st.one_of(*[known] * 6, st.tuples(texts, values)), max_size=4).map(dict)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes of a valid file, flipped, cut, inserted, doubled or overwritten with large numbers in a few places."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        place = draw(st.integers(0, len(data) - 1))
        length = draw(st.sampled_from((1, 2, 4, 8, 16, 64)))
        kind = draw(st.sampled_from(("flip", "cut", "end", "insert", "double", "large", "text")))
        if kind == "flip":
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[place : place + length]
        elif kind == "end":
            del data[place:]
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "double":
            data[place:place] = data[place : place + length]
        elif kind == "large":
            data[place : place + min(length, 8)] = draw(st.sampled_from((b"\xff", b"\x7f", b"\x00"))) * min(length, 8)
        else:
            data[place : place + 1] = draw(
                st.sampled_from((b"9", b"-", b"(", b"[", b"\n", b"c", b"R", b"\x93", b"\xff"))
            )
    return bytes(data)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if len(path) > 6:
        return found
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _places(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value[:3]):
            found += _places(inner, (*path, place))
    return found


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> str:
    """A JSON value as text, with a few of its parts replaced, removed, added or renamed."""
    found = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_places(found)))
        kind = draw(st.sampled_from(("replace", "remove", "add")))
        if not path:
            if kind == "replace" and draw(st.integers(0, 9)) == 0:
                found = draw(values)
            continue
        parent = found
        for step in path[:-1]:
            parent = parent[step]
        if kind == "replace":
            parent[path[-1]] = draw(values)
        elif kind == "remove":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[draw(texts)] = draw(values)
        if not isinstance(found, dict | list) or not found:
            break
    return _dumped(found)


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value)
    except (RecursionError, ValueError):  # too deep, or too many digits for Python to write
        return "[" * 3000 if isinstance(value, dict | list) else "9" * 5000


def toml(value: Any) -> str:
    """A value as TOML, where it can be; tables are written inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:#x}" if value > 2**70 else str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value.encode("utf-8", "replace").decode())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(inner)}" for key, inner in value.items()) + "}"
    return '"none"'
