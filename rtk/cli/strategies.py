"""`rtk strategies` and `rtk strategies show NAME`."""

from __future__ import annotations

import click
from pydantic.fields import FieldInfo

from ..config import bounds, default, flag, origin
from ..registry import Listed, Registry
from ..strategy import Strategy
from .listing import in_terminal, print_rows, print_table, print_text


@click.group(name="strategies", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List the installed strategies.

    Into a pipe: name, venue, data and summary, separated by tabs.
    """
    if context.invoked_subcommand is not None:
        return
    listing = Registry().listing()
    rows = [_row(strategy) for listed in listing for strategy in listed.strategies]
    if in_terminal():
        print_table(("name", "venue", "works on", "what it does"), rows)
    else:
        print_rows(rows)
    _print_problems(listing)
    if in_terminal():
        click.echo()
        print_text("rtk strategies show NAME prints options, their origin and the departures from the paper.")


def _row(strategy: type[Strategy]) -> tuple[str, ...]:
    venue = strategy.paper.venue if strategy.paper else "-"
    return strategy.name, venue, _data(strategy), " ".join(strategy.summary.split())


def _print_problems(listing: list[Listed]) -> None:
    """What cannot be used goes to stderr, once each: a list that is piped stays a list."""
    for problem in sorted({listed.problem for listed in listing if listed.problem}):
        click.secho(f"not usable: {problem}", fg="red", err=True)


def _data(strategy: type[Strategy]) -> str:
    return "the source's data" if strategy.setting == "source" else "new data"


@command.command(name="show")
@click.argument("name")
def show(name: str) -> None:
    """Print everything about one strategy."""
    registry = Registry()
    strategy, plugin = registry.strategy(name), registry.plugin(name)
    print_text(f"{strategy.name}: {strategy.summary}")
    if strategy.paper:
        paper = strategy.paper
        print_text(f"{paper.title}. {paper.authors}, {paper.venue}.")
        print_text(paper.url)
    print_text(f"Works on {_data(strategy)}. From {plugin}.")
    if strategy.config_type.model_fields:
        click.echo("\nOptions, with their defaults:")
    for name, field in strategy.config_type.model_fields.items():
        _print_option(name, field)
    if strategy.departures:
        click.echo("\nDepartures from the paper and its published code:")
        for departure in strategy.departures:
            print_text(departure, first="  * ", rest="    ")


def _print_option(name: str, field: FieldInfo) -> None:
    """The option and its default; below it the meaning, what is allowed, and where the default comes from."""
    spelling = f"{flag(name)}/{flag(f'no_{name}')}" if field.annotation is bool else flag(name)
    click.echo(f"\n  {click.style(spelling, bold=True)} {default(field)}")
    if field.description:
        print_text(field.description, first=" " * 6)
    facts = [f"Allowed: {bounds(field)}."] if bounds(field) else []
    facts += [f"Origin: {origin(field)}."] if origin(field) else []
    if facts:
        print_text(" ".join(facts), first=" " * 6)
