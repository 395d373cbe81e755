"""The command line. Each sub-command is a module that is imported when it is called; none of them imports torch."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..errors import Interrupted, RequestError, RtkError, UnknownName, printable
from ..processes import complains, launched
from ..signals import heeded, stopping

COMMANDS = {
    "finetune": "Fine-tune a backbone with a strategy, and evaluate before and after.",
    "evaluate": "Evaluate a run, a backbone or a checkpoint.",
    "bench": "Compare strategies, backbones, data and seeds in one table.",
    "verify": "Judge adversarial images on disk again: an evaluation's, or anybody's.",
    "show": "Show the result of a run or an evaluation again.",
    "plot": "Draw the result of a run or an evaluation.",
    "export": "Write the network of a run for timm or RobustBench.",
    "strategies": "List the strategies, or show one with its options.",
    "plugins": "List the plugins, make one, or check one.",
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
        return importlib.import_module(f"{__name__}.{name}").command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UnknownName("command", args[0], COMMANDS, "rtk --help")
        if launched() and args[:1] != ["finetune"]:
            raise RequestError("Of the commands, torchrun can start `rtk finetune` alone.", "rtk without torchrun")
        return super().resolve_command(context, args)

    def make_context(self, *given: Any, **options: Any) -> click.Context:
        with _ahead_of_click():  # --help is printed here
            return super().make_context(*given, **options)

    def invoke(self, context: click.Context) -> Any:
        with _ahead_of_click():
            return super().invoke(context)


class _ReaderGone(Exception):
    """The other end of a pipe has been closed, as by `head`."""


@contextmanager
def _ahead_of_click() -> Iterator[None]:
    """Take what click would answer itself: an interruption with an empty line, a closed pipe with exit code 1."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("Interrupted.", "the same command again") from None
    except BrokenPipeError:
        raise _ReaderGone from None
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # rich ends the program by itself
            raise _ReaderGone from None
        raise


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    epilog="Anywhere in a command: --traceback shows where in the code an error came from, --no-plugins loads the"
    " strategies of rtk alone.",
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
    given = sys.argv[1:] if arguments is None else list(arguments)
    traceback = "--traceback" in given
    if "--no-plugins" in given:
        os.environ["RTK_NO_PLUGINS"] = "1"  # which worker processes inherit
    given = [argument for argument in given if argument not in ("--traceback", "--no-plugins")]
    with stopping():
        code = _run(given, traceback)
    if launched():  # what torch leaves at work for a group of processes can abort Python's own way to end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(given: list[str], traceback: bool) -> int:
    """Run one command and report what goes wrong in one line; returns the exit code."""
    try:
        with heeded():
            cli.main(args=given, prog_name="rtk", standalone_mode=False, obj=["rtk", *given])
        sys.stdout.flush()  # here, since Python's own flush at exit would complain when the reader of a pipe has gone
        return 0
    except click.UsageError as problem:
        wrong = _usage(problem)
        return _fail(wrong.message, wrong.hint, 2, traceback)
    except click.ClickException as problem:
        return _fail(problem.format_message(), "rtk --help", 2, traceback)
    except RtkError as problem:
        return _fail(problem.message, _unforced(problem.hint, given), problem.exit_code, traceback)
    except (KeyboardInterrupt, click.Abort):
        return _fail("Interrupted.", _unforced("the same command again", given), Interrupted.exit_code, traceback)
    except (BrokenPipeError, _ReaderGone):
        _discard_output()
        return 0
    except MemoryError:
        return _fail("Out of memory.", "a smaller --batch-size or --chunk-size, or --workers 1", 1, traceback)
    except OSError as problem:
        return _fail(*_system_error(problem), 1, traceback)
    except Exception as problem:
        said = f"Unexpected {type(problem).__name__}: {problem}. This is a defect of rtk."
        return _fail(said, "the same command with --traceback, and report it", 1, traceback)


def _unforced(hint: str | None, given: list[str]) -> str | None:
    """The hint for a command that replaces what it finds: the same command would begin again."""
    again = "the same command"
    if hint is None or "--force" not in given or "--traceback" in hint:
        return hint
    return hint.replace(again, f"{again} without --force")


def _usage(problem: click.UsageError) -> RtkError:
    """A complaint of click in the words of rtk."""
    where = problem.ctx.command_path if problem.ctx else "rtk"
    strategy = getattr(problem.ctx.command, "chosen", None) if problem.ctx else None
    hint = f"{where} --strategy {strategy} --help" if strategy else f"{where} --help"
    if isinstance(problem, click.NoSuchOption):
        command = problem.ctx.command if problem.ctx else cli
        return UnknownName("option", problem.option_name, _spellings(command, problem.ctx), hint)
    return RtkError(problem.format_message(), hint)


def _spellings(command: click.Command, context: click.Context | None) -> list[str]:
    params = command.params if context is None else command.get_params(context)
    found = [name for param in params if isinstance(param, click.Option) for name in param.opts]
    return [name for name in found if name.startswith("--")]


def _system_error(problem: OSError) -> tuple[str, str]:
    where = f" ({problem.filename})" if problem.filename else ""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"Disk full{where}; what was finished is kept.", "free space, then the same command"
    return f"{problem.strerror or problem}{where}.", "the same command with --traceback shows where"


def _discard_output() -> None:
    # the reader of a pipe has gone: no error, but what is still buffered must not be written at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, hint: str | None, code: int, traceback: bool) -> int:
    if traceback:
        import traceback as printer

        printer.print_exc()
    if not complains():
        return code
    line = " ".join(f"rtk: {message}{f' Try: {hint}' if hint else ''}".split())
    click.echo(printable(line), err=True)
    return code
