"""Plugins as they are found in real life: distributions on sys.path, also broken ones."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

import rtk.cli
from rtk.errors import PluginError, UnknownName
from rtk.registry import OFF, Registry, find

BUILT_IN = sorted(entry.name for entry in metadata.entry_points(group="rtk") if entry.value.startswith("rtk_plugins."))
GOOD = """
import rtk
class MyConfig(rtk.Config):
    strength: float = rtk.option(0.5, "Strength.", origin="here", ge=0)
class Mine(rtk.Strategy):
    name = "mine"
    summary = "Does nothing."
    config: MyConfig
    def finetune(self, model, run):
        return model
@rtk.hookimpl
def rtk_strategies():
    return Mine
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a fake distribution: its metadata and a module, in a folder at the front of sys.path."""
    made: list[str] = []

    def install(
        code: str, *, name: str = "x", version: str = "1.0", entries: str = "mine = {module}", requires: str = ""
    ) -> Path:
        number = len(made)
        module = f"rtk_fake_{number}"
        made.append(module)
        folder = tmp_path / f"site{number}"
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        required = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}")
        (info / "entry_points.txt").write_text("[rtk]\n" + entries.format(module=module) + "\n")
        (folder / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()
        return folder

    yield install
    for module in made:
        sys.modules.pop(module, None)


def refused(name: str = "mine") -> str:
    """Why `name` cannot be used; everything else still must be usable, from the library and the command line."""
    with pytest.raises(PluginError) as problem:
        Registry().strategy(name)
    listing = Registry().listing()
    names = [strategy.name for listed in listing for strategy in listed.strategies]
    assert names == [other for other in BUILT_IN if other != name]
    assert {listed.problem for listed in listing if listed.plugin.name == name} == {problem.value.message}
    assert "\n" not in problem.value.message
    return str(problem.value)


def cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        rtk.cli.main(list(arguments))
    return int(ended.value.code or 0)


def test_the_built_in_strategies_are_found_through_their_entry_points() -> None:
    assert Registry().names() == BUILT_IN
    assert {plugin.distribution for plugin in find()} == {"rtk"}


def test_a_third_party_is_found_and_named_with_its_version(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(GOOD)
    assert Registry().strategy("mine").name == "mine"
    assert str(Registry().plugin("mine")) == "plugin 'mine' of x 1.0"
    assert cli("strategies") == 0
    assert "mine\t-\tnew data\tDoes nothing." in capsys.readouterr().out
    assert cli("finetune", "--strategy", "mine", "--help") == 0
    assert "--strength X" in capsys.readouterr().out


def test_asking_for_one_strategy_imports_no_other_plugin(install: Install) -> None:
    install("raise RuntimeError('must not be imported')")
    assert Registry().strategy("rift").name == "rift"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import not_installed", "No module named 'not_installed'"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
        (GOOD.replace("def rtk_strategies", "def rtk_strategy"), "unknown hook 'rtk_strategy'"),
        (GOOD.replace("rtk_strategies()", "rtk_strategies(extra)"), "declared in the hookimpl"),
        (GOOD.replace("@rtk.hookimpl", ""), "decorate `def rtk_strategies()` with @rtk.hookimpl"),
        (GOOD.replace("return Mine", "return None"), "returned no strategy"),
        (GOOD.replace("return Mine", "return []"), "returned no strategy"),
        (
            GOOD.replace("return Mine", "return Mine()"),
            "must return subclasses of rtk.Strategy, got an instance of Mine",
        ),
        (
            GOOD.replace("return Mine", "return 'mine'"),
            "must return subclasses of rtk.Strategy, got an instance of str",
        ),
        (GOOD.replace("return Mine", "raise KeyError('x')"), "KeyError: 'x'"),
        (GOOD.replace("def finetune", "def fine_tune"), "Mine does not define finetune(model, run)"),
        (GOOD.replace('name = "mine"', 'name = "other"'), "'other' without an entry point of that name"),
        (GOOD.replace('name = "mine"', 'name = "My Strategy"'), "lower case, words joined by hyphens"),
        (GOOD.replace('name = "mine"', ""), "Mine.name must be text"),
        (GOOD.replace("summary", 'setting = "both"\n    summary'), "must be 'source' or 'target'"),
        (GOOD.replace("summary", 'paper = "Mine 2024"\n    summary'), ".paper must be an rtk.Paper"),
        (GOOD.replace("summary", 'departures = ("one sentence")\n    summary'), "must be a tuple of sentences"),
        (GOOD.replace("config: MyConfig", "config: dict"), "must be annotated with a subclass of rtk.Config"),
        (GOOD.replace("rtk.option(0.5", "rtk.option(-1"), "the default of its option 'strength' is wrong"),
        (
            GOOD.replace("strength: float = rtk.option(0.5", "strength: list[int] = rtk.option([1]"),
            "its option 'strength' cannot be typed; annotate several values as tuple[int, ...]",
        ),
        (GOOD.replace("strength", "seed"), "its option 'seed' is one of rtk's own (--seed); rename it"),
        (GOOD.replace("strength", "force"), "its option 'force' is one of rtk's own"),
    ],
)
def test_a_broken_plugin_is_named_and_harms_nothing_else(
    code: str, said: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(code)
    message = refused()
    assert "plugin 'mine' of x 1.0" in message
    assert said in message
    assert cli("finetune", "--strategy", "rift", "--help") == 0
    assert "--criticality-images" in capsys.readouterr().out
    assert cli("strategies") == 0
    shown = capsys.readouterr()
    assert "rift" in shown.out
    assert shown.err.startswith("not usable: plugin 'mine' of x 1.0") and shown.err.count("\n") == 1
    assert cli("finetune", "--strategy", "mine", "--help") == 1
    assert capsys.readouterr().err.startswith("rtk: plugin 'mine' of x 1.0")


def test_a_clash_with_a_built_in_names_both_and_replaces_nothing(install: Install) -> None:
    install(GOOD.replace('"mine"', '"rift"'), name="aaa", version="2.1", entries="rift = {module}")
    message = refused("rift")
    own = metadata.version("rtk")
    assert f"Two plugins offer 'rift': rtk {own} (rtk_plugins.rift) and aaa 2.1 (rtk_fake_0)." in message
    assert "pip uninstall aaa" in message and OFF in message  # never rtk itself


def test_a_clash_of_two_third_parties_names_both(install: Install) -> None:
    install(GOOD, name="a", version="1")
    install(GOOD, name="b", version="2")
    message = refused()
    assert "a 1 (rtk_fake_0) and b 2 (rtk_fake_1)" in message and "pip uninstall b" in message


def test_a_clash_is_told_on_the_command_line(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(GOOD, name="aaa", entries="rift = {module}")
    assert cli("finetune", "--strategy", "rift") == 1
    assert capsys.readouterr().err.startswith("rtk: Two plugins offer 'rift'")
    assert cli("finetune", "--strategy", "full", "--help") == 0


def test_only_own_plugins_are_loaded_when_the_others_are_turned_off(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(GOOD.replace('"mine"', '"rift"'), entries="rift = {module}\nmine = {module}")
    monkeypatch.setenv(OFF, "1")
    assert Registry().names() == BUILT_IN
    assert Registry().strategy("rift").__module__ == "rtk_plugins.rift"
    monkeypatch.setenv(OFF, "0")
    assert "mine" in Registry().names()


@pytest.mark.parametrize(("again", "version"), [("x", "1.0"), ("X", "1.0"), ("x", "0.9")])
def test_a_distribution_that_is_seen_twice_is_one(install: Install, again: str, version: str) -> None:
    install("raise RuntimeError('shadowed')", name=again, version=version)
    install(GOOD, name="x", version="1.0")  # in front, so this is what is imported
    assert [plugin.version for plugin in find() if plugin.name == "mine"] == ["1.0"]
    assert Registry().strategy("mine").name == "mine"


def test_two_strategies_of_one_module_need_two_entry_points(install: Install) -> None:
    two = GOOD.replace("return Mine", "return [Mine, type('Other', (Mine,), {'name': 'other'})]")
    install(two, entries="mine = {module}\nother = {module}")
    assert {name: Registry().strategy(name).name for name in ("mine", "other")} == {"mine": "mine", "other": "other"}


def test_an_entry_point_without_its_strategy_is_refused(install: Install) -> None:
    install(GOOD, entries="mine = {module}\nother = {module}")
    with pytest.raises(PluginError, match=r"rtk_fake_0 offers no strategy of that name, but mine\."):
        Registry().strategy("other")
    assert Registry().strategy("mine").name == "mine"


def test_a_plugin_for_another_version_of_rtk_is_refused_before_it_is_imported(install: Install) -> None:
    install("raise RuntimeError('must not be imported')", requires="RTK>=99,<100")
    message = refused()
    assert f"plugin 'mine' of x 1.0: requires rtk <100,>=99, but this is rtk {metadata.version('rtk')}" in message


@pytest.mark.parametrize("requires", ["rtk", "rtk>=0.1", 'rtk>=99; extra == "new"', "torch>=99", "rtk (nonsense"])
def test_a_plugin_for_this_version_of_rtk_is_loaded(install: Install, requires: str) -> None:
    install(GOOD, requires=requires)
    assert Registry().strategy("mine").name == "mine"


def test_broken_metadata_of_another_package_is_not_the_business_of_rtk(install: Install) -> None:
    folder = install(GOOD, name="broken", entries="mine")
    (folder / "broken-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe")
    assert Registry().names() == BUILT_IN


def test_an_unknown_name_comes_with_the_nearest_and_the_list() -> None:
    with pytest.raises(UnknownName, match=r"Unknown strategy 'RFIT'. Did you mean 'rift'\? Allowed: at, "):
        Registry().strategy("RFIT")
    with pytest.raises(UnknownName, match=r"Unknown strategy 'zzz'\. Allowed: at"):
        Registry().strategy("zzz")


def test_a_strategy_that_is_annotated_for_type_checkers_only_is_loaded(install: Install) -> None:
    typed = "from __future__ import annotations\n" + GOOD.replace("summary", "helper: NotImported\n    summary")
    install(typed)
    assert Registry().strategy("mine").config_type.__name__ == "MyConfig"


def test_two_options_of_one_spelling_are_refused(install: Install) -> None:
    twice = GOOD.replace("class Mine", "    fast: bool = True\n    no_fast: int = 1\nclass Mine")
    install(twice)
    assert "its option 'no_fast' is that of 'fast' (--no-fast)" in refused()
