"""`rtk plot DIR`: pictures of a result or an evaluation."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import BadValue
from .options import Checked


@click.command(cls=Checked, name="plot")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="By default DIRECTORY/pictures.")
@click.option(
    "--item",
    metavar="ITEM",
    help="Attack whose examples and classes are shown, e.g. pgd20@Linf:0.1; by default at the network's own threat.",
)
@click.option("--data-root", metavar="PATH", type=click.Path(path_type=Path), help="Folder that holds named data sets.")
def command(directory: Path | None, out: Path | None, item: str | None, data_root: Path | None) -> None:
    """Draw the result of the run, or the evaluation, in DIRECTORY.

    \b
    curve.png     accuracy against the radius
    classes.png   accuracy of each class, before and after an attack
    examples.png  images that an attack broke, where rtk evaluate --save-examples kept them
    chart-*.png   what the strategy says of itself
    README.txt    the same in words
    """
    if directory is None:
        raise BadValue("No run directory was named.", "rtk plot runs/NAME; ls runs")

    from ..report.folder import draw

    for one in draw(directory, out, item, data_root):
        click.echo(one.path or f"{one.name}: {one.text}")
