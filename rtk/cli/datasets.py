"""`rtk datasets` and `rtk datasets download NAME`."""

from __future__ import annotations

from pathlib import Path

import click

from ..data.catalogue import VAL_CUT, DatasetInfo, list_datasets
from .listing import in_terminal, print_rows, print_table, print_text


@click.group(name="datasets", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List the data sets.

    Into a pipe: name, classes, pixels, augmentation, origin and splits, separated by tabs.
    """
    if context.invoked_subcommand is not None:
        return
    if not in_terminal():
        print_rows(
            (info.name, str(info.classes or ""), _size(info), info.augment, info.origin, info.splits)
            for info in list_datasets()
        )
        return
    rows = [(info.name, str(info.classes or ""), _size(info), info.augment, _origin(info)) for info in list_datasets()]
    print_table(("data set", "classes", "pixels", "augmentation", "origin"), rows)
    click.echo()
    print_text(f"Where nothing else is said, {VAL_CUT}. Use one with: rtk finetune --strategy NAME --dataset DATASET")


def _origin(info: DatasetInfo) -> str:
    return info.origin if info.splits == VAL_CUT else f"{info.origin}; {info.splits}"


def _size(info: DatasetInfo) -> str:
    return f"{info.image_size}x{info.image_size}" if info.image_size else ""


@command.command(name="download")
@click.argument("name")
@click.option("--data-root", metavar="DIR", help="Where to; by default $RTK_DATA or ~/.cache/rtk/data.")
def download(name: str, data_root: str | None) -> None:
    """Download the data set NAME from its publisher."""
    from ..data import download as fetch

    click.echo(f"{name} is in {fetch(name, Path(data_root) if data_root else None)}.")
