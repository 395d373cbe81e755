"""`rtk plugins`, `rtk plugins new NAME` and `rtk plugins check NAME`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import PluginError
from ..hookspecs import OBSERVERS
from ..registry import Listed, Plugin, Registry, hooks_of, observer
from .listing import in_terminal, print_rows, print_table, print_text
from .options import Checked

if TYPE_CHECKING:
    from ..testing import Row

COLOURS = {"passed": "green", "failed": "red", "expected": "yellow", "skipped": "yellow"}


@click.group(name="plugins", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List the installed plugins, make a new one, or check one.

    Into a pipe: name, distribution, version, hooks and state, separated by tabs.
    """
    if context.invoked_subcommand is not None:
        return
    rows = [_row(listed) for listed in Registry().listing()]
    rows += [_row_of_observer(plugin) for plugin in Registry(group=OBSERVERS).plugins]
    if in_terminal():
        print_table(("name", "distribution", "version", "hooks", "state"), rows)
        click.echo()
        print_text("rtk plugins new NAME makes a plugin of your own; rtk plugins check NAME tries one.")
    else:
        print_rows(rows)


def _row(listed: Listed) -> tuple[str, ...]:
    plugin = listed.plugin
    hooks = " ".join(hooks_of(plugin)) if listed.strategies else "-"
    return plugin.name, plugin.distribution, plugin.version, hooks, listed.problem or "usable"


def _row_of_observer(plugin: Plugin) -> tuple[str, ...]:
    try:
        observer(plugin.name)
        hooks, state = " ".join(hooks_of(plugin)), "usable"
    except PluginError as problem:
        hooks, state = "-", problem.message
    return plugin.name, plugin.distribution, plugin.version, hooks, state


@command.command(name="new", cls=Checked)
@click.argument("name")
@click.option("--path", metavar="DIR", default=".", help="Folder in which rtk-NAME is made. [default .]")
def new(name: str, path: str) -> None:
    """Make a plugin with a strategy that works as it stands, its tests and its packaging."""
    from ..testing.scaffold import create

    folder = create(name, Path(path))
    print_text(f"Made {folder}. Next: pip install -e {folder} && rtk plugins check {name}")


@command.command(name="check")
@click.argument("name")
def check(name: str) -> None:
    """Try a strategy on small networks and a few images; exit code 1 when a check fails.

    NAME is an installed strategy, or module:Class for one that can be imported here.
    """
    from ..testing import NotConforming, Suite

    if ":" in name:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    failed = 0
    for row in Suite(name).rows():
        _print(row)
        failed += row.verdict == "failed"
    if failed:
        raise NotConforming(f"{name} fails {failed} of the checks.", "what the sentences above say")


def _print(row: Row) -> None:
    if not in_terminal():
        print_rows([(row.verdict, row.name, row.sentence)])
        return
    print_text(f"{click.style(f'{row.verdict:<8}', fg=COLOURS[row.verdict])} {row.name}")
    if row.sentence:
        print_text(row.sentence, first=" " * 9)
