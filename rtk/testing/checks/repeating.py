"""Runs that are made again, elsewhere, or in two parts end with the same bits."""

from __future__ import annotations

from ..report import Fault, Skip
from ..trial import Attempt, Setup, Trial, brief, differing
from ..watching import Counter, Interruption, forwards, interrupted

CUTS = (0.4, 0.8)
"""Shares of a run after which it is interrupted."""


def same_seed_gives_the_same_weights(trial: Trial) -> None:
    """A result can be made again."""
    if name := _other(trial.base, trial.attempt(Setup())):
        raise Fault(f"The same run again ends with another '{name}'; draw from run.derive('purpose') and step.seed.")


def global_seed_does_not_matter(trial: Trial) -> None:
    """Random draws are keyed by what they are for, and not by what happened to be drawn before."""
    trial.require_repeatable()
    if name := _other(trial.base, trial.known(Setup(global_seed=1))):
        raise Fault(
            f"'{name}' depends on the global random state; use a torch.Generator seeded with run.derive('purpose')."
        )


def state_on_entry_does_not_matter(trial: Trial) -> None:
    """Training mode and requires_grad of the network that comes in are nobody's promise."""
    trial.require_repeatable()
    again = trial.attempt(Setup(), prepare=lambda model: model.train().requires_grad_(False))
    if again.error is not None:
        raise Fault(
            f"finetune raised {brief(again.error)} for a network in training mode without requires_grad; declare"
            " what moves with run.fit(trainable=...)."
        )
    if name := _other(trial.base, again):
        raise Fault(f"'{name}' depends on mode or requires_grad of the network that came in; set both yourself.")


def lets_interruptions_through(trial: Trial) -> None:
    """Ctrl-C stops a run, and does not end it as if it were finished."""
    error = _interrupted(trial, _length(trial) // 2).error
    if not isinstance(error, Interruption):
        became = "swallowed" if error is None else f"turned into {type(error).__name__}"
        raise Fault(f"A KeyboardInterrupt was {became}; catch Exception, not BaseException, and raise it again.")


def resumes_with_the_same_bits(trial: Trial) -> None:
    """A run that was interrupted and is started again ends as if nothing had happened."""
    trial.require_repeatable()
    whole, length = trial.known(trial.longer()), _length(trial)
    for cut in CUTS:
        first = _interrupted(trial, int(length * cut))
        if not isinstance(first.error, Interruption):
            raise Skip("The strategy cannot be interrupted: see lets-interruptions-through.")
        second = trial.attempt(trial.longer(), directory=first.run.directory)
        if second.error is not None:
            raise Fault(f"Started again after an interruption, finetune raised {brief(second.error)}.")
        if name := _other(whole, second):
            raise Fault(
                f"After an interruption at {cut:.0%} of the run, '{name}' ends otherwise; derive every draw from"
                " step.seed, keep values with run.once, and count nothing across steps."
            )


def _other(first: Attempt, second: Attempt) -> str | None:
    """The first tensor in which two runs differ; raises what they raised."""
    return next(iter(differing(first.state, second.state)), None)


def _length(trial: Trial) -> int:
    """Forward passes of modules in a run of two epochs."""
    trial.require_end()
    counter = Counter()
    attempt = trial.attempt(trial.longer(), watch=forwards(counter))
    if attempt.error is not None:
        raise attempt.error
    if counter.count < len(CUTS):
        raise Skip("The strategy calls no network, so there is nothing to interrupt.")
    return counter.count


def _interrupted(trial: Trial, count: int) -> Attempt:
    """A run of two epochs that is interrupted at a forward pass."""
    return trial.attempt(trial.longer(), watch=interrupted(count))
