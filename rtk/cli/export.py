"""`rtk export DIR FILE`: the network of a run for another library."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="export")
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--layout", metavar="timm|robustbench", help="Whose file format; by default the network's own library.")
def command(directory: Path, file: Path, layout: str | None) -> None:
    """Write the network of the run in DIRECTORY to FILE, as timm or RobustBench load it."""
    from ..library import export

    click.echo(f"Written: {export(directory, file, layout)}")  # type: ignore[arg-type]  # export judges the layout
