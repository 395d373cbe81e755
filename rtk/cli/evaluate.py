"""`rtk evaluate TARGET`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..config import read_toml
from ..errors import AlreadyDone, BadValue
from ..evaluation.request import EvaluateOptions, build
from ..report import robustbench
from ..results import EVALUATION, read_evaluation
from .options import Checked, options


@click.command(cls=Checked, name="evaluate")
@click.argument("target", required=False)
@click.option("--config", metavar="FILE", help="TOML file with any of these options; flags win over it.")
@click.option("--force", is_flag=True, help="Replace the evaluation that the folder holds.")
@click.option("--like", type=click.Choice(["robustbench"]), help="Write OUT/robustbench.json as well, in its format.")
@click.option("--quiet", is_flag=True, help="No progress, only the table.")
@click.pass_obj
def command(
    typed: list[str],
    target: str | None,
    config: str | None,
    force: bool,
    like: str | None,
    quiet: bool,
    **flags: Any,
) -> None:
    """Evaluate TARGET: the folder of a run, the id of a backbone, or a file of weights with --backbone.

    \b
    rtk evaluate runs/rift-fashion-XXXXXXXX --threats Linf:0.05,0.1,0.15
    rtk evaluate robustbench:cifar10/Linf/Wong2020Fast --suite clean,autoattack
    rtk evaluate weights.pt --backbone timm:resnet18 --dataset folder:photos
    """
    file = read_toml(Path(config)) if config else {}
    given = {key: value for key, value in flags.items() if value is not None}
    if target is None and "backbone" not in {**file, **given}:
        raise BadValue("Nothing to evaluate was named.", "rtk evaluate runs/NAME, or rtk evaluate rtk:fashion-resnet")
    request = build(target, given, file)
    if like is not None:
        robustbench.check_suite(request.options.suite, request.options.threats)

    from ..evaluation import evaluate
    from .display import live
    from .table import print_evaluation

    try:
        with live(quiet) as progress:
            found = evaluate(request, force=force, progress=progress, command=typed)
    except AlreadyDone:
        if like is None:
            raise
        found = read_evaluation(request.directory / EVALUATION)  # another format costs no second evaluation
    print_evaluation(found, request.directory)
    if like is not None:
        robustbench.write_model_info(request.directory / robustbench.FILE, robustbench.model_info(found))


command.params += options(EvaluateOptions, show_origin=False)
