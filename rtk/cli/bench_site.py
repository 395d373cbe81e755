"""`rtk bench site SPEC|DIR`: a benchmark as one web page."""

from __future__ import annotations

from pathlib import Path

import click

from .options import Checked, compared


@click.command(name="site", cls=Checked)
@click.argument("path", metavar="SPEC|DIR", type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="By default site.html in the folder.")
@click.option(
    "--examples",
    metavar="N",
    type=click.IntRange(0, 16),
    default=4,
    show_default=True,
    help="Adversarial images of each row on the Pareto front, of 12 rows at most; 0 needs no network and no data.",
)
@compared
def command(path: Path, out: Path | None, examples: int, baseline: str | None, reported: tuple[str, ...]) -> None:
    """Write a benchmark as one web page that needs no server, no network and no other file.

    SPEC is its file, or DIR the folder that its runs are in.
    """
    from ..bench.cells import cells_of
    from ..bench.spec import folder_of, located, read_spec
    from ..bench.store import Store
    from ..site.build import write
    from .display import live

    source, folder = located(path)
    spec = read_spec(source)
    update = {"baseline": baseline or spec.baseline, "reported": [*reported] or spec.reported}
    cells, store = cells_of(spec), Store(folder or folder_of(spec))
    text = source.expanduser().read_text(encoding="utf-8")
    with live() as progress:
        made = write(
            spec.model_copy(update=update),
            text,
            cells,
            store,
            out or store.root / "site.html",
            progress,
            examples=examples,
        )
    for note in made.notes:
        click.echo(note, err=True)
    if missing := len(cells) - made.runs:
        click.echo(f"{missing} of {len(cells)} cells have no result; see: rtk bench status", err=True)
    click.echo(f"{made.path}: {made.rows} rows, {made.runs} runs, {made.size / 1e6:.1f} MB")
