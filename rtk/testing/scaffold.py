"""The files of a new strategy: a package of its own that works as it stands."""

from __future__ import annotations

import keyword
import re
from importlib import metadata, resources
from pathlib import Path
from string import Template

from .. import files
from ..errors import BadValue
from ..registry import Registry

FILES = {
    "$module.py": "strategy.py.template",
    "tests/test_$identifier.py": "test_strategy.py.template",
    "pyproject.toml": "pyproject.toml.template",
    "README.md": "README.md.template",
}
"""Where each template goes; both hold placeholders."""


def names_of(name: str) -> dict[str, str]:
    """What stands for the placeholders: "my-strategy" has the class MyStrategy in the module rtk_my_strategy."""
    identifier = name.replace("-", "_")
    return {
        "name": name,
        "identifier": identifier,
        "module": f"rtk_{identifier}",
        "title": "".join(word.capitalize() for word in name.split("-")),
        "distribution": f"rtk-{name}",
        "version": metadata.version("rtk"),
    }


def render(template: str, name: str) -> str:
    """The text of a template for the strategy `name`."""
    text = (resources.files("rtk.testing") / "template" / template).read_text(encoding="utf-8")
    return Template(text).substitute(names_of(name))


def create(name: str, parent: Path) -> Path:
    """Write the package of a new strategy into `parent`/rtk-NAME, which is returned.

    Raises:
        BadValue: the name is not allowed or taken, or the folder is there already; nothing was written.
    """
    _check(name)
    names = names_of(name)
    folder = files.home(parent) / names["distribution"]
    if folder.exists():
        raise BadValue(f"{folder}: is there already, and is not overwritten.", f"rtk plugins new {name} --path DIR")
    for place, template in FILES.items():
        path = folder / Template(place).substitute(names)
        files.write_bytes(path, render(template, name).encode())
    return folder


def _check(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(name.capitalize()):
        raise BadValue(
            f"Strategy name {name!r}: needs a word in lower case, or several joined by hyphens, that begins with a"
            " letter.",
            "rtk plugins new my-strategy",
        )
    plugins, module = Registry().plugins, names_of(name)["module"]
    offers = [plugin for plugin in plugins if plugin.name == name]
    if offers:
        raise BadValue(f"Strategy name '{name}': is taken by {offers[0]}.", f"rtk plugins new my-{name}")
    hidden = [plugin for plugin in plugins if plugin.entry.module.partition(".")[0] == module]
    if hidden:  # one module of this name would be found in place of the other
        raise BadValue(f"Strategy name '{name}': {module} is the module of {hidden[0]}.", f"rtk plugins new my-{name}")
