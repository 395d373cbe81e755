"""An observer that writes runs to TensorBoard: `rtk finetune ... --observe tensorboard`; `tensorboard --logdir runs`.

Loss and validation score of every epoch, by training phase; at the end the options beside clean and robust accuracies,
so that runs can be compared. Needs the extra: pip install 'rtk[tensorboard]'.
"""

from __future__ import annotations

from typing import Any

import rtk


def writer(run: rtk.RunInfo) -> Any:
    """A writer into the run's own folder; one for each call, so that nothing is lost when the run is killed."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.directory / "tensorboard"))


@rtk.hookimpl
def rtk_epoch_finished(run: rtk.RunInfo, phase: str, epoch: int, loss: float, scores: tuple[float, ...]) -> None:
    with writer(run) as log:
        log.add_scalar(f"{phase}/loss", loss, epoch)
        if scores:
            log.add_scalar(f"{phase}/validation score", scores[-1], epoch)


@rtk.hookimpl
def rtk_run_finished(run: rtk.RunInfo, result: dict[str, Any]) -> None:
    row = result["rows"][-1]
    accuracies = {f"accuracy/{score['label']}": score["accuracy"] for score in row["scores"].values()}
    options = {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in run.config.items()
    }
    facts = {"strategy": run.strategy, "backbone": run.backbone, "dataset": run.dataset, "seed": run.seed}
    with writer(run) as log:
        log.add_hparams({**facts, **options}, accuracies, run_name=".")
