"""Finding plugins by entry point, loading one, and keeping a broken one from harming anything else.

Built-ins are registered in setup.cfg exactly as a third party's: group `rtk`, one entry-point name per strategy, the
value a module with the hook `rtk_strategies`. So names and clashes are known from metadata alone, and asking for one
strategy imports one plugin.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from types import ModuleType

import pluggy

from . import hookspecs
from .errors import PluginError, UnknownName
from .strategy import Strategy

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

    def __str__(self) -> str:
        return f"plugin '{self.name}' of {self.distribution} {self.version}"


@dataclass(frozen=True)
class Listed:
    """A plugin with what came of loading it: its strategies, or the reason why it cannot be used."""

    plugin: Plugin
    strategies: tuple[type[Strategy], ...] = ()
    problem: str | None = None


def find(paths: Iterable[metadata.Distribution] | None = None) -> list[Plugin]:
    """Every entry point of the group, sorted; nothing is imported."""
    own_only = os.environ.get(OFF, "0") not in ("", "0")
    found: dict[tuple[str, str, str], Plugin] = {}
    for distribution in metadata.distributions() if paths is None else paths:
        for entry in distribution.entry_points:
            if entry.group != hookspecs.GROUP:
                continue
            owner = distribution.metadata["Name"] or "unknown"
            if own_only and owner != "rtk":
                continue
            # an editable and a normal install of one distribution can both be on the path: same key, first one wins
            found.setdefault(
                (entry.name, owner, entry.value), Plugin(entry.name, entry.value, owner, distribution.version, entry)
            )
    return [found[key] for key in sorted(found)]


class Registry:
    """The plugins of this environment. Nothing is imported before it is needed."""

    def __init__(self, plugins: Iterable[Plugin] | None = None):
        self._given = None if plugins is None else tuple(plugins)

    @cached_property
    def plugins(self) -> tuple[Plugin, ...]:
        return tuple(find()) if self._given is None else self._given

    def names(self) -> list[str]:
        """Every entry-point name, sorted."""
        return sorted({plugin.name for plugin in self.plugins})

    def strategy(self, name: str) -> type[Strategy]:
        """Load the plugin that offers `name`.

        Raises:
            UnknownName: no plugin offers it; the message suggests the nearest.
            PluginError: two offer it, or the one that does cannot be loaded. Names plugin and version.
        """
        return self._load(self.plugin(name))

    def plugin(self, name: str) -> Plugin:
        """The one plugin registered as `name`; raises UnknownName, or PluginError when two are."""
        offers = [plugin for plugin in self.plugins if plugin.name == name]
        if not offers:
            raise UnknownName("strategy", name, self.names(), "rtk strategies")
        if len(offers) > 1:
            raise PluginError(self._clash(offers), f"pip uninstall {offers[-1].distribution}")
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
        registered = {other.name for other in self.plugins if other.value == plugin.value}
        for strategy in strategies:
            if strategy.name not in registered:
                raise PluginError(
                    f"{plugin}: offers the strategy '{strategy.name}' without an entry point of that name.",
                    f"add `{strategy.name} = {plugin.value}` under [options.entry_points] rtk",
                )
        for strategy in strategies:
            if strategy.name == plugin.name:
                return strategy
        raise PluginError(f"{plugin}: is no strategy; it offers {[strategy.name for strategy in strategies]}.")

    @staticmethod
    def _clash(offers: list[Plugin]) -> str:
        owners = " and ".join(f"{plugin.distribution} {plugin.version} ({plugin.value})" for plugin in offers)
        return f"Two plugins offer '{offers[0].name}': {owners}."


def offered(plugin: Plugin) -> list[type[Strategy]]:
    """Import one plugin in quarantine, check its hooks, and return the strategies that it brings.

    Raises:
        PluginError: for anything that goes wrong on the way, also SystemExit; never an exception of the plugin itself.
    """
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        module: ModuleType = plugin.entry.load()
        manager.register(module, plugin.name)
        manager.check_pending()
        brought = manager.hook.rtk_strategies()
    except pluggy.PluginValidationError as problem:
        raise PluginError(f"{plugin}: {problem}. Known hooks: {', '.join(_hooks())}.") from problem
    except (Exception, SystemExit) as problem:
        raise PluginError(f"{plugin}: {type(problem).__name__}: {problem}") from problem
    strategies = [one for many in brought for one in (many if isinstance(many, list | tuple) else [many])]
    if not strategies:
        raise PluginError(f"{plugin}: brings no strategy. Decorate `def rtk_strategies()` with @rtk.hookimpl.")
    for strategy in strategies:
        _check(plugin, strategy)
    return strategies


def _check(plugin: Plugin, strategy: object) -> None:
    if not (isinstance(strategy, type) and issubclass(strategy, Strategy)):
        raise PluginError(f"{plugin}: rtk_strategies() must return subclasses of rtk.Strategy, got {strategy!r}.")
    if not isinstance(getattr(strategy, "name", None), str):
        raise PluginError(f"{plugin}: {strategy.__name__} has no `name`.")
    if strategy.finetune is Strategy.finetune:
        raise PluginError(f"{plugin}: {strategy.__name__} does not define finetune(model, run).")
    if strategy.setting not in ("source", "target"):
        raise PluginError(f"{plugin}: {strategy.__name__}.setting must be 'source' or 'target'.")


def _hooks() -> list[str]:
    return [name for name in vars(hookspecs) if name.startswith("rtk_")]
