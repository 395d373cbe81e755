"""`rtk strategies` and `rtk strategies show NAME`."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from ..config import bounds, flag, origin
from ..registry import Registry
from ..strategy import Strategy
from .options import show as show_value


@click.group(name="strategies", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List the installed strategies."""
    if context.invoked_subcommand is not None:
        return
    console = Console()
    table = Table(box=None, pad_edge=False)
    for title in ("name", "venue", "works on", "what it does"):
        table.add_column(title, no_wrap=title != "what it does")
    problems = []
    for listed in Registry().listing():
        for strategy in listed.strategies:
            data = "source's data" if strategy.setting == "source" else "new data"
            venue = strategy.paper.venue if strategy.paper else "-"
            table.add_row(strategy.name, venue, data, strategy.summary)
        if listed.problem:
            problems.append(listed.problem)
    console.print(table)
    for problem in sorted(set(problems)):
        console.print(f"not usable: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    console.print("\nrtk strategies show NAME prints options, their origin and the departures from the paper.")


@command.command(name="show")
@click.argument("name")
def show(name: str) -> None:
    """Print everything about one strategy."""
    registry = Registry()
    strategy, plugin = registry.strategy(name), registry.plugin(name)
    console = Console()
    console.print(f"[bold]{strategy.name}[/bold]: {strategy.summary}", highlight=False)
    if strategy.paper:
        paper = strategy.paper
        console.print(f"{paper.title}. {paper.authors}, {paper.venue}. {paper.url}", markup=False, highlight=False)
    console.print(f"Works on {'the source data' if strategy.setting == 'source' else 'new data'}.", highlight=False)
    console.print(f"From {plugin}.\n", markup=False, highlight=False)
    console.print(_options(strategy))
    if strategy.departures:
        console.print("\nDepartures from the paper and its published code:")
        for departure in strategy.departures:
            console.print(f"  * {departure}", markup=False, highlight=False)


def _options(strategy: type[Strategy]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("option", "default", "allowed", "meaning", "origin of the default"):
        table.add_column(title, no_wrap=title == "option")
    for name, field in strategy.config_type.model_fields.items():
        default = "required" if field.is_required() else show_value(field.default)
        table.add_row(flag(name), default, bounds(field), field.description or "", origin(field))
    return table
