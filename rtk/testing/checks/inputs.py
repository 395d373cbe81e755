"""Any backbone, label set, image and threat is taken, or refused in a way that helps."""

from __future__ import annotations

import pydantic

from ...threat import Threat
from ..report import Fault, Skip
from ..trial import Setup, Trial, brief, refused
from .returned import accepted, judge

CLASSES = (2, 3, 120)
L2 = Threat("L2", 0.5)


def _takes(trial: Trial, setup: Setup, what: str) -> str | None:
    """Judge a run under these circumstances; a refusal is an answer."""
    attempt = trial.known(setup)
    if said := refused(attempt):
        return said
    if attempt.error is not None:
        raise Fault(
            f"finetune raised {brief(attempt.error)} on {what}; make it work, or raise rtk.Refusal before training"
            " and say what to use instead."
        )
    judge(attempt)
    return None


def takes_batch_norm(trial: Trial) -> str | None:
    """A network with BatchNorm is fine-tuned, or refused."""
    return _takes_norm(trial, "batch")


def takes_layer_norm(trial: Trial) -> str | None:
    """A transformer with LayerNorm is fine-tuned, or refused."""
    return _takes_norm(trial, "layer")


def takes_group_norm(trial: Trial) -> str | None:
    """A network with GroupNorm is fine-tuned, or refused."""
    return _takes_norm(trial, "group")


def _takes_norm(trial: Trial, norm: str) -> str | None:
    if norm not in trial.norms:
        raise Skip(f"norms={trial.norms} leaves this one out.")
    accepted(trial)
    return _takes(trial, Setup(norm=None if norm == trial.norms[0] else norm), f"a network with {norm} normalisation")


def takes_any_number_of_classes(trial: Trial) -> str | None:
    """Two, three and 120 classes are fine-tuned, or refused."""
    accepted(trial)
    notes = [_takes(trial, Setup(classes=count), f"{count} classes") for count in CLASSES]
    return next((note for note in notes if note), None)


def takes_oblong_images(trial: Trial) -> str | None:
    """Images that are wider than high are fine-tuned on, or refused."""
    accepted(trial)
    return _takes(trial, Setup(shape=(16, 24)), "images of 16 x 24 pixels")


def takes_an_image_left_over(trial: Trial) -> str | None:
    """A last batch of one image is trained on or left out, as the data set gives it."""
    accepted(trial)
    return _takes(trial, Setup(train=17, val=9), "17 training images in batches of 8")


def takes_either_norm_of_threat(trial: Trial) -> str | None:
    """An adversary in an L2 ball is trained against as one in an Linf ball is, or refused."""
    accepted(trial)
    return _takes(trial, Setup(threat=L2), "a threat in L2")


def takes_zero_epochs(trial: Trial) -> str | None:
    """`--epochs 0` returns a network, which shows what a strategy does beside training."""
    accepted(trial)
    setup = Setup(options=(("epochs", 0),))
    if not trial.has("epochs"):
        raise Skip("There is no option epochs.")
    try:
        trial.config(setup)
    except pydantic.ValidationError:
        raise Skip("The option epochs does not allow 0.") from None
    return _takes(trial, setup, "zero epochs")


def refuses_honestly(trial: Trial) -> None:
    """A refusal is a sentence with a way out, and comes before any training."""
    accepted(trial)
    setups = [Setup(norm=norm) for norm in trial.norms[1:]]
    setups += [Setup(threat=L2), *(Setup(classes=count) for count in CLASSES)]
    attempts = [attempt for attempt in map(trial.known, setups) if refused(attempt)]
    if not attempts:
        raise Skip("The strategy refuses nothing.")
    for attempt in attempts:
        said = str(getattr(attempt.error, "message", "")).strip()
        if not said.endswith(".") or " " not in said:
            raise Fault(f"The refusal says {said!r}; say in a sentence what is needed and what was given.")
        if not getattr(attempt.error, "hint", None):
            raise Fault(f"The refusal {said!r} has no hint; say what to type instead, e.g. '--strategy full'.")
        if attempt.has_trained():
            raise Fault(f"The refusal {said!r} came after training had begun; check before the first step.")
