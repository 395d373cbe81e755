"""`rtk bench run SPEC`, `rtk bench status SPEC` and `rtk bench table SPEC`."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import bench_site
from .listing import in_terminal, print_rows, print_table
from .options import Checked, compared

if TYPE_CHECKING:
    from ..bench.cells import Cell
    from ..bench.formats import Format
    from ..bench.spec import Spec
    from ..bench.store import State, Store

FORMATS = ("text", "markdown", "csv", "json")
ENGINES = ("local", "ray")


@click.group(name="bench", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Compare strategies, backbones, data and seeds, from a file of cells to one table.

    \b
    rtk bench run benchmarks/quickstart.toml
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


command.add_command(bench_site.command)


def _of_a_bench(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every sub-command takes."""
    out = click.option(
        "--out", metavar="DIR", type=click.Path(path_type=Path), help="Folder; by default runs/bench-NAME."
    )
    return click.argument("path", metavar="SPEC|DIR", type=click.Path(path_type=Path))(out(function))


def _many(function: Callable[..., Any]) -> Callable[..., Any]:
    """For commands that read everything and end: looking for garbage among what stays takes a third of their time."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        gc.disable()
        try:
            function(*args, **kwargs)
        finally:
            gc.enable()

    return run


_format = click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="How to write it."
)


@command.command(name="run", cls=Checked)
@_of_a_bench
@click.option("--engine", type=click.Choice(ENGINES), default=ENGINES[0], show_default=True, help="Where cells run.")
@click.option(
    "--address", metavar="HOST:PORT", help="Of the Ray cluster that this machine belongs to; by default it is found."
)
@click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Cells at once; by default one for each GPU, or for two cores; with Ray twice as many.",
)
@click.option("--retry", is_flag=True, help="Try those again that have failed.")
def run(path: Path, out: Path | None, engine: str, address: str | None, jobs: int | None, retry: bool) -> None:
    """Run the cells that have no result yet, then print the table. DIR is the folder of a benchmark.

    Whenever it stops, the same command goes on. Exit code 1 when a cell has no result.
    """
    from ..bench import engines
    from ..bench.spec import located
    from .display import live

    spec, cells, store = _open(path, out)
    store.keep_spec(located(path)[0])
    with live() as progress:
        engines.run(cells, store, progress, engine=engine, address=address, jobs=jobs, retry=retry)
    _print_tables(spec, cells, store, "text")
    states = {store.state(cell) for cell in cells}
    if "failed" in states:
        click.echo("rtk bench run SPEC --retry tries again what has failed.")
    click.echo(f"Benchmark: {store.root}")
    if states != {"done"}:
        sys.exit(1)


@command.command(name="status", cls=Checked)
@_of_a_bench
@_many
def status(path: Path, out: Path | None) -> None:
    """Say what became of every cell.

    Into a pipe: state, cell, folder and reason, separated by tabs. A stale folder is of a cell that the spec names no
    more, or whose strategy has changed; it is kept.
    """
    _, cells, store = _open(path, out)
    states = [store.state(cell) for cell in cells]
    rows = [
        (str(state), str(cell), cell.name, _why(store, cell, state)) for cell, state in zip(cells, states, strict=True)
    ]
    store.index.save()
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
@_format
@compared
@_many
def table(path: Path, out: Path | None, form: Format, baseline: str | None, reported: tuple[str, ...]) -> None:
    """Print the tables of the cells that are done.

    Rows that were judged differently (data, threat, images, protocol) are in different tables. A baseline is the name
    of a row, or of a strategy that has one row for each backbone.
    """
    spec, cells, store = _open(path, out)
    update = {"baseline": baseline or spec.baseline, "reported": [*reported] or spec.reported}
    _print_tables(spec.model_copy(update=update), cells, store, form)


@command.command(name="diff", cls=Checked)
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@_format
@_many
def diff(first: Path, second: Path, form: Format) -> None:
    """Say what changed from one benchmark to another, such as before and after an upgrade.

    A and B are specs, or folders of benchmarks. Runs belong together when their options and seeds are equal; numbers
    are compared image by image.
    """
    from ..bench.changes import render
    from ..bench.difference import compare

    click.echo(render(compare(first, second), form), nl=False)


def _open(path: Path, out: Path | None) -> tuple[Spec, list[Cell], Store]:
    from ..bench.cells import cells_of
    from ..bench.reported import read_reported
    from ..bench.spec import folder_of, located, read_spec
    from ..bench.standings import check_baseline
    from ..bench.store import Store

    path, folder = located(path)
    spec = read_spec(path)
    cells = cells_of(spec)
    if spec.baseline is not None:
        check_baseline(cells, spec.baseline)
    read_reported(spec.reported)
    return spec, cells, Store(out or folder or folder_of(spec))


def _print_tables(spec: Spec, cells: list[Cell], store: Store, form: Format) -> None:
    from ..bench.formats import render
    from ..bench.reported import read_reported
    from ..bench.standings import tables

    reported = read_reported(spec.reported)

    done = [(cell, record) for cell in cells if (record := store.record(cell)) is not None]
    store.index.save()
    present = {cell.key for cell, _ in done}
    missing = store.missing(cell for cell in cells if cell.key not in present)
    click.echo(render(tables(cells, done, spec.baseline), form, reported, missing), nl=False)
    if missing:
        click.echo(f"{len(missing)} of {len(cells)} cells have no result; see: rtk bench status", err=True)


def _why(store: Store, cell: Cell, state: State) -> str:
    if state == "failed":
        return store.failure(cell).reason
    return "was interrupted; what it has finished is kept" if state == "waiting" and store.begun(cell) else ""
