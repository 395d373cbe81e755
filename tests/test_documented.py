"""Every public name and every hook says what it is, with its arguments, and its errors where it has some."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator

import pytest

import rtk
from rtk import hookspecs
from rtk.attacks import Attack

HOOKS = [member for name, member in vars(hookspecs).items() if name.startswith("rtk_")]
PUBLIC = [name for name in rtk.__all__ if name != "schedules"]
CONTRACT = (rtk.Run, rtk.Strategy, rtk.Threat, Attack)
LIBRARY = (rtk.finetune, rtk.evaluate, rtk.load, rtk.export)


def modules() -> Iterator[str]:
    for package in ("rtk", "rtk_plugins"):
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not found.name.endswith("__main__") and ".template" not in found.name:
                yield found.name


def methods() -> Iterator[Callable[..., object]]:
    for owner in CONTRACT:
        for name, member in vars(owner).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                yield member


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_docstring_of_its_own(name: str) -> None:
    member = getattr(rtk, name)
    if callable(member) and not isinstance(member, type) and inspect.getmodule(member) is None:
        return  # a marker of pluggy
    text = (vars(member).get("__doc__") if isinstance(member, type) else member.__doc__) or ""
    assert len(text.split()) >= 4 and text.strip()[0].isupper(), f"rtk.{name}"


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_a_hook_says_when_it_is_called(hook: Callable[..., object]) -> None:
    assert len((hook.__doc__ or "").split()) >= 5


@pytest.mark.parametrize("member", [*methods(), *LIBRARY], ids=lambda member: member.__qualname__)
def test_every_argument_of_the_contract_is_explained_or_plain(member: Callable[..., object]) -> None:
    """In its own docstring or, where it repeats the class's, by its name there."""
    text = member.__doc__ or ""
    assert len(text.split()) >= 4, member.__qualname__
    if len(inspect.signature(member).parameters) > 4:
        assert "Args:" in text or "`" in text, f"{member.__qualname__} has many arguments and explains none"


@pytest.mark.parametrize("name", list(modules()))
def test_every_module_and_its_public_functions_and_classes_have_docstrings(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as problem:
        pytest.skip(f"needs an extra: {problem.name}")
    assert (module.__doc__ or "").strip(), name
    for key, member in vars(module).items():
        own = inspect.isfunction(member) or inspect.isclass(member)
        if own and not key.startswith("_") and member.__module__ == name:
            text = vars(member).get("__doc__") if inspect.isclass(member) else member.__doc__
            implemented = inspect.isfunction(member) and key.startswith("rtk_")  # the hook itself is documented
            options = inspect.isclass(member) and issubclass(member, rtk.Config | rtk.Strategy)
            assert text or implemented or options, f"{name}.{key}"


def test_shapes_and_units_stand_where_tensors_enter() -> None:
    for member in (rtk.Strategy.finetune, rtk.load, Attack.__call__, rtk.Run.predict):
        assert re.search(r"\(N", member.__doc__ or ""), member.__qualname__
