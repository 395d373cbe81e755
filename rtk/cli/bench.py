"""`rtk bench run SPEC`, `rtk bench status SPEC` and `rtk bench table SPEC`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .listing import in_terminal, print_rows, print_table
from .options import Checked

if TYPE_CHECKING:
    from ..bench.cells import Cell
    from ..bench.formats import Format
    from ..bench.store import Store

FORMATS = ("text", "markdown", "csv", "json")


@click.group(name="bench", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Compare strategies, backbones, data and seeds, from a file of cells to one table.

    \b
    rtk bench run benchmarks/quickstart.toml
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _of_a_bench(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every sub-command takes."""
    out = click.option(
        "--out", metavar="DIR", type=click.Path(path_type=Path), help="Folder; by default runs/bench-NAME."
    )
    return click.argument("spec", type=click.Path(path_type=Path))(out(function))


@command.command(name="run", cls=Checked)
@_of_a_bench
@click.option(
    "--jobs", metavar="N", type=click.IntRange(min=1), help="Cells at once; by default half as many as cores."
)
@click.option("--retry", is_flag=True, help="Try those again that have failed.")
def run(spec: Path, out: Path | None, jobs: int | None, retry: bool) -> None:
    """Run the cells that have no result yet, then print the table.

    Whenever it stops, the same command goes on. Exit code 1 when a cell failed.
    """
    from ..bench import engine
    from .display import live

    cells, store = _open(spec, out)
    store.keep_spec(spec)
    with live() as progress:
        engine.run(cells, store, progress, jobs=jobs, retry=retry)
    _print_tables(cells, store, "text")
    failed = _report_failures(cells, store)
    click.echo(f"Benchmark: {store.root}")
    if failed:
        sys.exit(1)


@command.command(name="status", cls=Checked)
@_of_a_bench
def status(spec: Path, out: Path | None) -> None:
    """Say what became of every cell.

    Into a pipe: state, cell, folder and reason, separated by tabs. A stale folder is of a cell that the spec names no
    more, or whose strategy has changed; it is kept.
    """
    cells, store = _open(spec, out)
    states = [store.state(cell) for cell in cells]
    rows = [
        (str(state), str(cell), cell.name, store.failure(cell).reason if state == "failed" else "")
        for cell, state in zip(cells, states, strict=True)
    ]
    stale = store.stale(cells)
    rows += [("stale", "", folder.name, "") for folder in stale]
    if not in_terminal():
        print_rows(rows)
        return
    print_table(("state", "cell", "folder", "reason"), rows)
    counts = Counter(states)
    click.echo(
        f"{counts['done']} of {len(cells)} cells are done, {counts['failed']} failed; {len(stale)} stale folders."
    )


@command.command(name="table", cls=Checked)
@_of_a_bench
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="How to write it."
)
def table(spec: Path, out: Path | None, form: Format) -> None:
    """Print the tables of the cells that are done.

    Rows that were judged differently (data, threat, images, protocol) are in different tables.
    """
    cells, store = _open(spec, out)
    _print_tables(cells, store, form)


def _open(path: Path, out: Path | None) -> tuple[list[Cell], Store]:
    from ..bench.cells import cells_of
    from ..bench.spec import read_spec
    from ..bench.store import Store

    spec = read_spec(path)
    return cells_of(spec), Store(out or Path("runs") / f"bench-{spec.name}")


def _print_tables(cells: list[Cell], store: Store, form: Format) -> None:
    from ..bench.formats import render
    from ..bench.standings import tables

    done = [(cell, store.result(cell)) for cell in cells if store.state(cell) == "done"]
    click.echo(render(tables(cells, done), form), nl=False)
    missing = len(cells) - len(done)
    if missing:
        click.echo(f"{missing} of {len(cells)} cells have no result; see: rtk bench status", err=True)


def _report_failures(cells: list[Cell], store: Store) -> int:
    failed = [cell for cell in cells if store.state(cell) == "failed"]
    for cell in failed:
        click.echo(f"failed: {cell}: {store.failure(cell).reason}")
    if failed:
        click.echo("rtk bench run SPEC --retry tries them again.")
    return len(failed)
