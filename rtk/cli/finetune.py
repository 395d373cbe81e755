"""`rtk finetune`: the options of the chosen strategy stand beside those of every run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..config import read_toml
from ..errors import BadValue
from ..processes import leads
from ..registry import OWN, Registry
from ..request import RunOptions, build
from .options import check_values, chosen, options
from .supervise import supervise, supervised

EXAMPLE = "rtk finetune --strategy rift, or rtk strategies for the list"


class _Finetune(click.Command):
    """Adds the strategy's options before parsing, and shows them in a section of their own."""

    chosen: str | None = None
    specific: tuple[click.Option, ...] = ()

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        complete = _Finetune(self.name, callback=self.callback, help=self.help)
        check_values(args, self.params)
        complete.chosen = _strategy(args)
        if complete.chosen is None and not {"-h", "--help"} & set(args):
            raise BadValue("No strategy was named.", EXAMPLE)
        if complete.chosen is not None:
            complete.specific = tuple(options(Registry().strategy(complete.chosen).config_type, show_origin=True))
        complete.params = [*self.params, *complete.specific, *options(RunOptions, show_origin=False)]
        context = click.Context(complete, info_name=info_name, parent=parent, **extra)
        check_values(args, complete.get_params(context))
        with context.scope(cleanup=False):
            complete.parse_args(context, args)
        return context

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        others = [param for param in self.get_params(context) if param not in self.specific]
        for title, params in ((f"Options of {self.chosen}", self.specific), ("Options of every run", others)):
            records = [record for param in params if (record := param.get_help_record(context))]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        if not self.specific:
            formatter.write_paragraph()
            formatter.write_text("With --strategy NAME --help the options of that strategy are shown too.")


def _strategy(arguments: list[str]) -> str | None:
    """The strategy that the command line names, or else its configuration file."""
    named, file = chosen(arguments, "--strategy", "-s"), chosen(arguments, "--config")
    return _named(read_toml(Path(file))) if named is None and file is not None else named


def _named(file: dict[str, Any]) -> str | None:
    name = file.get("strategy")
    if name is not None and not isinstance(name, str):
        raise BadValue(f"strategy: needs a name, got {name!r} in the configuration file.", 'strategy = "rift"')
    return name


@click.command(cls=_Finetune, name="finetune")
@click.option("--strategy", "-s", metavar="NAME", help="Which strategy; see: rtk strategies.")
@click.option("--config", metavar="FILE", help="TOML file with any of these options; flags win over it.")
@click.option("--force", is_flag=True, help="Replace the run that the run directory holds.")
@click.option("--quiet", is_flag=True, help="No progress, only the table.")
@click.option(
    "--time-limit", metavar="SECONDS", type=click.FloatRange(min=0, min_open=True), help="End the run after so long."
)
@click.pass_obj
def command(
    typed: list[str],
    strategy: str | None,
    config: str | None,
    force: bool,
    quiet: bool,
    time_limit: float | None,
    **flags: Any,
) -> None:
    """Fine-tune a backbone with a strategy, then evaluate source and result in the same way.

    \b
    rtk finetune --strategy rift
    rtk finetune --strategy linear-probe --dataset signs --epochs 5
    """
    file = read_toml(Path(config)) if config else {}
    name = strategy or _named(file)
    assert name is not None, "make_context has refused it"
    file.pop("strategy", None)
    request = build(name, {key: value for key, value in flags.items() if value is not None}, file)

    if (request.plugin.distribution != OWN or time_limit) and not supervised():
        sys.exit(supervise(typed[1:], request.plugin, time_limit, request.directory / "result.json"))

    from ..host import finetune
    from .display import live
    from .table import print_result

    with live(quiet or not leads()) as progress:
        result = finetune(request, force=force, progress=progress, command=typed)
    if leads():
        print_result(result, request.directory)
