"""The command line. Each sub-command is a module that is imported when it is called; none of them imports torch."""

from __future__ import annotations

import importlib
import signal
import sys
from types import FrameType
from typing import Any

import click

from ..errors import Interrupted, RtkError

COMMANDS = {
    "finetune": "Fine-tune a backbone with a strategy, and evaluate before and after.",
    "show": "Show the result of a run again.",
    "strategies": "List the strategies, or show one with its options.",
    "backbones": "List the networks to start from.",
    "datasets": "List the data sets, or download one.",
    "doctor": "Check this installation and say how to mend it.",
}


class _Commands(click.Group):
    """Sub-commands by name; imports just the one that is called."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"{__name__}.{name}").command  # type: ignore[no-any-return]

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from ..errors import UnknownName

            raise UnknownName("command", args[0], COMMANDS, "rtk --help")
        return super().resolve_command(context, args)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(package_name="rtk", message="rtk %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Fine-tune adversarially pre-trained image classifiers without losing their robustness.

    Start with: rtk finetune --strategy rift
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 a run failed, 2 a wrong request, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    traceback = "--traceback" in given
    given = [argument for argument in given if argument != "--traceback"]
    signal.signal(signal.SIGTERM, _terminated)
    try:
        cli.main(args=given, prog_name="rtk", standalone_mode=False)
        code = 0
    except click.ClickException as problem:
        code = _fail(problem.format_message().replace("\n", " "), "rtk --help", 2, traceback)
    except RtkError as problem:
        code = _fail(problem.message, problem.hint, problem.exit_code, traceback)
    except (KeyboardInterrupt, click.Abort):
        code = _fail("Interrupted.", None, Interrupted.exit_code, traceback)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has gone; Python would complain at exit
        code = 0
    except Exception as problem:
        said = f"Unexpected {type(problem).__name__}: {problem}. This is a defect of rtk."
        code = _fail(" ".join(said.split()), "the same command with --traceback, and report it", 1, traceback)
    sys.exit(code)


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(message: str, hint: str | None, code: int, traceback: bool) -> int:
    if traceback:
        import traceback as printer

        printer.print_exc()
    click.echo(f"rtk: {message}" + (f" Try: {hint}" if hint else ""), err=True)
    return code
