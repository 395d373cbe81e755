"""`rtk show DIR`: a result or an evaluation again."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import BadValue


@click.command(name="show")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="The whole result as JSON.")
@click.option("--schema", is_flag=True, help="The JSON schema of results instead.")
def command(directory: Path | None, as_json: bool, schema: bool) -> None:
    """Show the result of the run, or the evaluation, in DIRECTORY."""
    import json

    from .. import results

    if schema:
        click.echo(json.dumps(results.schema(), indent=2))
        return
    if directory is None:
        raise BadValue("No run directory was named.", "rtk show runs/NAME; ls runs")
    found = results.read_any(directory)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
        return
    from .table import print_evaluation, print_result

    if isinstance(found, results.Evaluation):
        print_evaluation(found, directory)
    else:
        print_result(found, directory)
