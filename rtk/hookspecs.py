"""The pluggy hooks that a plugin may implement.

A plugin of the entry-point group `rtk` brings strategies; one of the group `rtk.observers` looks on at runs that name
it with `--observe`. An implementation takes any of the arguments of its hook, by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .observers import RunInfo
    from .strategy import Strategy

GROUP = "rtk"
"""The entry-point group of strategies, built-in or a third party's, and the name of the hooks."""

OBSERVERS = "rtk.observers"
"""The entry-point group of observers."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def rtk_strategies() -> type[Strategy] | list[type[Strategy]]:
    """Return the strategy class, or classes, that this plugin brings."""
    raise NotImplementedError


@hookspec
def rtk_run_started(run: RunInfo) -> None:
    """A run begins, or goes on after an interruption; its directory is there."""


@hookspec
def rtk_stage_started(run: RunInfo, stage: str, total: float) -> None:
    """A stage begins, e.g. "fine-tune" or "evaluate"; `total` is in units of its own, such as steps."""


@hookspec
def rtk_stage_advanced(run: RunInfo, stage: str, amount: float, note: str) -> None:
    """`amount` more units of the stage are done; `note` is a few words such as "loss 0.412", or empty. Called often."""


@hookspec
def rtk_said(run: RunInfo, text: str) -> None:
    """One line for the reader."""


@hookspec
def rtk_event(run: RunInfo, event: str, values: dict[str, Any]) -> None:
    """Something worth a line in the log happened; `values` are JSON."""


@hookspec
def rtk_epoch_finished(run: RunInfo, phase: str, epoch: int, loss: float, scores: tuple[float, ...]) -> bool | None:
    """An epoch of a training phase is over.

    Args:
        epoch: counted from 1.
        loss: mean over the epoch's images.
        scores: validation scores of all epochs of this phase so far, in [0, 1] for accuracies; empty when it has none.

    Returns:
        True to end the phase here.
    """


@hookspec
def rtk_run_finished(run: RunInfo, result: dict[str, Any]) -> None:
    """The run is over; `result` is what `result.json` holds."""


@hookspec
def rtk_run_failed(run: RunInfo, reason: str) -> None:
    """The run broke off; what was finished is kept, and the same command goes on from there."""
