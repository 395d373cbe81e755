"""`rtk show DIR`: a result or an evaluation again."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import BadValue


@click.command(name="show")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="The whole result as JSON.")
@click.option("--checks", is_flag=True, help="What speaks for and against the numbers: every check, value and limit.")
@click.option("--reference", metavar="FILE", type=click.Path(path_type=Path), help="RobustBench's JSON of a network.")
@click.option("--schema", is_flag=True, help="The JSON schema of results instead.")
def command(directory: Path | None, as_json: bool, checks: bool, reference: Path | None, schema: bool) -> None:
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
    from .reference import print_references, read_references
    from .table import print_checks, print_evaluation, print_result

    references = [] if reference is None else read_references(reference, found)
    if checks:
        print_checks(found)
    elif isinstance(found, results.Evaluation):
        print_evaluation(found, directory)
    else:
        print_result(found, directory)
    if reference is not None:
        print_references(references, reference)
