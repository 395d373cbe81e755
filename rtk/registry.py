"""Finding plugins by entry point, loading one, and keeping a broken one from harming anything else.

Built-ins are registered in setup.cfg exactly as a third party's: group `rtk`, one entry-point name per strategy, the
value a module with the hook `rtk_strategies`. So names and clashes are known from metadata alone, and asking for one
strategy imports one plugin.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from types import ModuleType

import pluggy
import pydantic

from . import hookspecs
from .config import Config, flag, members_of
from .errors import PluginError, UnknownName
from .strategy import Paper, Strategy

OWN = "rtk"
"""The distribution of the built-in strategies."""

OFF = "RTK_NO_PLUGINS"
"""Environment variable: when set to anything but 0, only rtk's own plugins are loaded."""


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `rtk`: what an installed distribution offers under a name."""

    name: str
    value: str
    distribution: str
    version: str
    entry: metadata.EntryPoint
    requires: tuple[str, ...] = ()
    """The requirements of the distribution, as in its metadata."""

    def __str__(self) -> str:
        return f"plugin '{self.name}' of {self.distribution} {self.version}"


@dataclass(frozen=True)
class Listed:
    """A plugin with what came of loading it: its strategies, or the reason why it cannot be used."""

    plugin: Plugin
    strategies: tuple[type[Strategy], ...] = ()
    problem: str | None = None


def find(paths: Iterable[metadata.Distribution] | None = None, group: str = hookspecs.GROUP) -> list[Plugin]:
    """Every entry point of the group, sorted; nothing is imported."""
    own_only = os.environ.get(OFF, "0") not in ("", "0")
    found: dict[str, list[Plugin]] = {}
    for distribution in metadata.distributions() if paths is None else paths:
        try:
            plugins = _read(distribution, group)
        except Exception:  # the metadata of any package on the path may be broken; that is not rtk's to report
            continue
        # an editable and a normal install of one distribution can both be on the path: the first is what is imported
        if plugins and not (own_only and plugins[0].distribution != OWN):
            found.setdefault(re.sub(r"[-_.]+", "-", plugins[0].distribution).casefold(), plugins)
    return sorted((plugin for plugins in found.values() for plugin in plugins), key=_order)


def _read(distribution: metadata.Distribution, group: str) -> list[Plugin]:
    entries = [entry for entry in distribution.entry_points if entry.group == group]
    if not entries:
        return []
    said, requires = distribution.metadata, tuple(distribution.requires or ())  # each use of them reads a file
    owner, version = said["Name"] or "unknown", said["Version"]
    # a line that stands twice in entry_points.txt is one offer
    return [Plugin(entry.name, entry.value, owner, version, entry, requires) for entry in dict.fromkeys(entries)]


def _order(plugin: Plugin) -> tuple[str, bool, str, str]:
    """By name; in a clash rtk's own comes first."""
    return plugin.name, plugin.distribution != OWN, plugin.distribution, plugin.value


class Registry:
    """The plugins of this environment. Nothing is imported before it is needed."""

    def __init__(self, plugins: Iterable[Plugin] | None = None, group: str = hookspecs.GROUP):
        self._given = None if plugins is None else tuple(plugins)
        self._loaded: dict[str, type[Strategy]] = {}
        self.group = group

    @cached_property
    def plugins(self) -> tuple[Plugin, ...]:
        return tuple(find(group=self.group)) if self._given is None else self._given

    def names(self) -> list[str]:
        """Every entry-point name, sorted."""
        return sorted({plugin.name for plugin in self.plugins})

    def strategy(self, name: str) -> type[Strategy]:
        """Load the plugin that offers `name`, once.

        Raises:
            UnknownName: no plugin offers it; the message suggests the nearest.
            PluginError: two offer it, or the one that does cannot be loaded. Names plugin and version.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(self.plugin(name))
        return self._loaded[name]

    def plugin(self, name: str) -> Plugin:
        """The one plugin registered as `name`; raises UnknownName, or PluginError when two are."""
        offers = [plugin for plugin in self.plugins if plugin.name == name]
        if not offers:
            if self.group == hookspecs.OBSERVERS:
                raise UnknownName("observer", name, self.names(), "rtk plugins")
            raise UnknownName("strategy", name, self.names(), "rtk strategies")
        if len(offers) > 1:
            raise PluginError(self._clash(offers), _way_out(offers))
        return offers[0]

    def listing(self) -> list[Listed]:
        """Load everything, each plugin in quarantine; for `rtk strategies`."""
        listed = []
        for plugin in self.plugins:
            offers = [other for other in self.plugins if other.name == plugin.name]
            if len(offers) > 1:
                listed.append(Listed(plugin, problem=self._clash(offers)))
                continue
            try:
                listed.append(Listed(plugin, (self._load(plugin),)))
            except PluginError as problem:
                listed.append(Listed(plugin, problem=problem.message))
        return listed

    def _load(self, plugin: Plugin) -> type[Strategy]:
        strategies = offered(plugin)
        registered = {
            other.name
            for other in self.plugins
            if (other.value, other.distribution) == (plugin.value, plugin.distribution)
        }
        for strategy in strategies:
            if strategy.name not in registered:
                raise PluginError(
                    f"{plugin}: offers the strategy '{strategy.name}' without an entry point of that name.",
                    f"add `{strategy.name} = {plugin.value}` under [options.entry_points] rtk",
                )
        for strategy in strategies:
            if strategy.name == plugin.name:
                return strategy
        names = ", ".join(strategy.name for strategy in strategies)
        raise PluginError(f"{plugin}: {plugin.value} offers no strategy of that name, but {names}.")

    @staticmethod
    def _clash(offers: list[Plugin]) -> str:
        owners = " and ".join(f"{plugin.distribution} {plugin.version} ({plugin.value})" for plugin in offers)
        return f"Two plugins offer '{offers[0].name}': {owners}."


def _way_out(offers: list[Plugin]) -> str:
    """What to type when one name is offered twice."""
    if offers[0].distribution == offers[-1].distribution:
        return "one of the two entry points must go"
    alternative = f", or {OFF}=1 for rtk's own" if offers[0].distribution == OWN else ""
    return f"pip uninstall {offers[-1].distribution}{alternative}"


def offered(plugin: Plugin) -> list[type[Strategy]]:
    """Import one plugin in quarantine, check its hooks, and return the strategies that it brings.

    Raises:
        PluginError: for anything that goes wrong on the way, also SystemExit; never an exception of the plugin itself.
    """
    manager = _quarantine(plugin)
    try:
        brought = manager.hook.rtk_strategies()
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise PluginError(f"{plugin}: {type(problem).__name__}: {_one_line(problem)}") from problem
    strategies = [one for many in brought for one in (many if isinstance(many, list | tuple) else [many])]
    if not strategies:
        raise PluginError(f"{plugin}: {_why_none(manager)}.")
    for strategy in strategies:
        _check(plugin, strategy)
    return strategies


def observer(name: str) -> ModuleType:
    """Load the observer that is registered as `name`; see `rtk.observers`.

    Raises:
        UnknownName: no plugin offers it; the message suggests the nearest.
        PluginError: two offer it, it cannot be loaded, or it implements no hook of an observer.
    """
    plugin = Registry(group=hookspecs.OBSERVERS).plugin(name)
    ((_, module),) = _quarantine(plugin).list_name_plugin()
    if not set(hooks_of(plugin)) - {"rtk_strategies"}:
        raise PluginError(
            f"{plugin}: implements no hook of an observer ({', '.join(_hooks()[1:])}).",
            "decorate its functions with @rtk.hookimpl",
        )
    return module  # type: ignore[return-value]


def _quarantine(plugin: Plugin) -> pluggy.PluginManager:
    """Import one plugin and register it, alone; PluginError for anything that goes wrong on the way."""
    _check_version(plugin)
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin.entry.load(), plugin.name)
        manager.check_pending()
    except pluggy.PluginValidationError as problem:
        raise PluginError(f"{plugin}: {_one_line(problem)}. Known hooks: {', '.join(_hooks())}.") from problem
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise PluginError(f"{plugin}: {type(problem).__name__}: {_one_line(problem)}") from problem
    return manager


def hooks_of(plugin: Plugin) -> list[str]:
    """Names of the hooks that a plugin implements; for one that can be loaded."""
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    module = plugin.entry.load()
    manager.register(module, plugin.name)
    return sorted(caller.name for caller in manager.get_hookcallers(module) or [])


def _check_version(plugin: Plugin) -> None:
    """PluginError when the plugin's distribution asks for another version of rtk than this."""
    if plugin.distribution == OWN:
        return
    from packaging.requirements import InvalidRequirement, Requirement

    running = metadata.version(OWN)
    for line in plugin.requires:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue  # pip's to complain about
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if wanted.name.casefold() == OWN and applies and not wanted.specifier.contains(running, prereleases=True):
            raise PluginError(
                f"{plugin}: requires rtk {wanted.specifier}, but this is rtk {running}.",
                f"pip install --upgrade {plugin.distribution} rtk",
            )


def _why_none(manager: pluggy.PluginManager) -> str:
    if manager.hook.rtk_strategies.get_hookimpls():
        return "rtk_strategies() returned no strategy; it must return a subclass of rtk.Strategy, or a list of them"
    return "brings no strategy; decorate `def rtk_strategies()` with @rtk.hookimpl"


def _check(plugin: Plugin, strategy: object) -> None:
    """PluginError unless `strategy` keeps the contract of rtk.Strategy."""
    if not (isinstance(strategy, type) and issubclass(strategy, Strategy)):
        given = strategy.__name__ if isinstance(strategy, type) else f"an instance of {type(strategy).__name__}"
        raise PluginError(f"{plugin}: rtk_strategies() must return subclasses of rtk.Strategy, got {given}.")
    for fault in faults(strategy):
        raise PluginError(f"{plugin}: {strategy.__name__}{fault}.")


def faults(strategy: type[Strategy]) -> Iterator[str]:
    """What keeps a strategy from being used, each as the end of a sentence that begins with the class's name."""
    name = getattr(strategy, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        yield ".name must be text in lower case, words joined by hyphens"
    if strategy.finetune is Strategy.finetune:
        yield " does not define finetune(model, run)"
    if strategy.setting not in ("source", "target"):
        yield ".setting must be 'source' or 'target'"
    if strategy.paper is not None and not isinstance(strategy.paper, Paper):
        yield ".paper must be an rtk.Paper or None"
    departures = strategy.departures
    if not isinstance(departures, tuple | list) or not all(isinstance(one, str) for one in departures):
        yield ".departures must be a tuple of sentences"
    yield from _option_faults(strategy.config_type)


def _option_faults(kind: type[Config]) -> Iterator[str]:
    from .request import reserved  # not above: that module needs this one

    taken = {flag(name): name for name in reserved()}
    for name, field in kind.model_fields.items():
        kinds = {typing.get_origin(member) or member for member in members_of(field.annotation)}
        if kinds & {list, set, dict}:
            yield f": its option '{name}' cannot be typed; annotate several values as tuple[int, ...] or the like"
        for spelling in (flag(name), flag(f"no_{name}")) if field.annotation is bool else (flag(name),):
            if spelling in taken:
                whose = "one of rtk's own" if taken[spelling] in reserved() else f"that of '{taken[spelling]}'"
                yield f": its option '{name}' is {whose} ({spelling}); rename it"
            taken[spelling] = name
    try:
        kind.model_validate({})
    except pydantic.ValidationError as problem:
        for error in problem.errors():
            if error["type"] != "missing":
                name = ".".join(map(str, error["loc"]))
                yield f": the default of its option '{name}' is wrong: {error['msg']}"
    except Exception as problem:
        yield f": its options cannot be checked: {type(problem).__name__}: {_one_line(problem)}"


def _hooks() -> list[str]:
    return [name for name in vars(hookspecs) if name.startswith("rtk_")]


def _one_line(thing: object, limit: int = 300) -> str:
    try:
        text = " ".join(str(thing).split())
    except Exception:  # a plugin's own __str__
        text = type(thing).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
