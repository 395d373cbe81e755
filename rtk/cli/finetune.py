"""`rtk finetune`: the options of the chosen strategy stand beside those of every run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..config import read_toml
from ..errors import BadValue
from ..registry import Registry
from ..request import RunOptions, build
from .options import options, value_after

OWN = ("strategy", "config", "force", "quiet")


class _Finetune(click.Command):
    """Adds the strategy's options before parsing, and shows them in a section of their own."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        name = _strategy(args)
        self.params = [param for param in self.params if param.name in OWN] + list(options(RunOptions, show_origin=False))
        self.specific: list[click.Option] = []
        if name is not None:
            self.specific = options(Registry().strategy(name).config_type, show_origin=True)
            self.params += self.specific
        return super().make_context(info_name, args, parent, **extra)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        names = {param.name for param in self.specific}
        sections = {
            "Run": [param for param in self.get_params(context) if param.name not in names],
            f"Strategy {_strategy(sys.argv) or ''}": self.specific,
        }
        for title, params in sections.items():
            records = [record for param in params if (record := param.get_help_record(context))]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        if not self.specific:
            formatter.write_paragraph()
            formatter.write_text("With --strategy NAME --help the options of that strategy are shown too.")


def _strategy(arguments: list[str]) -> str | None:
    named = value_after(arguments, "--strategy") or value_after(arguments, "-s")
    file = value_after(arguments, "--config")
    if named is None and file is not None:
        found = read_toml(Path(file)).get("strategy")
        named = found if isinstance(found, str) else None
    return named


@click.command(cls=_Finetune, name="finetune")
@click.option("--strategy", "-s", metavar="NAME", help="Which strategy; see: rtk strategies.")
@click.option("--config", metavar="FILE", help="TOML file with any of these options; flags win over it.")
@click.option("--force", is_flag=True, help="Replace the run that the run directory holds.")
@click.option("--quiet", is_flag=True, help="No progress, only the table.")
def command(strategy: str | None, config: str | None, force: bool, quiet: bool, **flags: Any) -> None:
    """Fine-tune a backbone with a strategy, then evaluate source and result in the same way.

    \b
    rtk finetune --strategy rift
    rtk finetune --strategy linear-probe --dataset signs --epochs 5
    """
    file = read_toml(Path(config)) if config else {}
    name = strategy or file.get("strategy")
    if not isinstance(name, str):
        raise BadValue("No strategy was named.", "rtk finetune --strategy rift, or rtk strategies for the list")
    request = build(name, {key: value for key, value in flags.items() if value is not None}, file)

    from ..finetune import finetune
    from ..progress import Silent
    from .display import Live
    from .table import print_result

    typed = ["rtk", *sys.argv[1:]]
    if quiet:
        result = finetune(request, force=force, progress=Silent(), command=typed)
    else:
        with Live() as live:
            result = finetune(request, force=force, progress=live, command=typed)
    print_result(result, request.directory)
