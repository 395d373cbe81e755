"""What comes back from a strategy."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from ...freeze import native
from ..report import Fault, Skip
from ..trial import Attempt, Setup, Trial, differing

PARAMETRISED = re.compile(r"parametrizations\.(\w+)\.original\d*")
"""How torch.nn.utils.parametrize renames a tensor for as long as it is one."""


def judge(attempt: Attempt) -> None:
    """Fault unless the host would take what came back; raises what the strategy raised."""
    if attempt.error is not None:
        raise attempt.error
    if not isinstance(attempt.tuned, nn.Module):
        raise Fault(f"finetune returned {type(attempt.tuned).__name__}; return the network.")
    state = attempt.state
    for name in sorted({*state} ^ {*attempt.before}):
        what = "adds" if name in state else "lacks"
        raise Fault(f"The returned network {what} '{name}'; export the weights into the architecture of `model`.")
    for name, value in state.items():
        if value.shape != attempt.before[name].shape:
            given, wanted = tuple(value.shape), tuple(attempt.before[name].shape)
            raise Fault(f"'{name}' came back with shape {given} instead of {wanted}; keep the architecture.")
    if broken := not_finite(state):
        raise Fault(f"'{broken}' came back with NaN or infinite values; check the loss, as run.fit does.")


def accepted(trial: Trial) -> Attempt:
    """The plain run, for what can only be asked where the host would take what came back."""
    try:
        judge(trial.base)
    except Fault:
        raise Skip("What comes back cannot be used: see keeps-the-architecture.") from None
    return trial.base


def not_finite(state: dict[str, Tensor]) -> str | None:
    """The first tensor that holds NaN or an infinity."""
    return next((name for name, value in state.items() if not torch.isfinite(value).all()), None)


def keeps_the_architecture(trial: Trial) -> None:
    """The returned weights load into the architecture that the run started from: same names, same shapes, finite."""
    judge(trial.base)


def stays_in_float32(trial: Trial) -> None:
    """Nothing is rounded on the way to the evaluation, which is made in float32."""
    base = accepted(trial)
    for name, value in base.state.items():
        if value.dtype != base.before[name].dtype:
            raise Fault(f"'{name}' came back as {value.dtype}; keep {base.before[name].dtype}.")


def gives_finite_logits(trial: Trial) -> None:
    """The returned weights give every image a finite logit for each class."""
    base = accepted(trial)
    run = base.run
    with torch.no_grad():
        logits = base.reloaded()(run.val.images(slice(None)))
    if tuple(logits.shape) != (len(run.val), run.classes):
        raise Fault(f"The logits have shape {tuple(logits.shape)} instead of {(len(run.val), run.classes)}.")
    if not torch.isfinite(logits).all():
        raise Fault("The returned weights give logits that are NaN or infinite; keep them in a sane range.")


def is_what_its_weights_say(trial: Trial) -> None:
    """The network that came back computes what its weights compute in the plain architecture: no filter, no wrapper."""
    base = accepted(trial)
    if any(value.dtype != base.before[name].dtype for name, value in base.state.items()):
        raise Skip("The weights are not float32: see stays-in-float32.")
    images = base.run.val.images(slice(None))
    with torch.no_grad():
        returned, plain = base.tuned.eval()(images), base.reloaded()(images)
    if not torch.allclose(returned, plain, rtol=1e-4, atol=1e-4):
        raise Fault("The returned network gives other logits than its weights in the architecture of `model` do.")


def never_returns_nan(trial: Trial) -> None:
    """A loss that is NaN ends the run with an error instead of a network of NaN."""
    trial.require_end()
    attempt = trial.known(Setup(overflows=True))
    if attempt.error is None and (name := not_finite(attempt.state)):
        raise Fault(f"The loss was NaN and '{name}' came back so; raise rtk.RtkError when a loss is not finite.")


def moves_only_what_it_declares(trial: Trial) -> None:
    """Weights and running statistics that no call of `run.fit` declares as moving are the source's, bit for bit."""
    base = accepted(trial)
    if not base.run.phases:
        raise Skip("The strategy does not train with run.fit, so nothing is declared.")
    if any(model is not base.model for model, _ in base.run.phases):
        raise Skip("The strategy trains a network of its own making.")
    declared = [given for _, given in base.run.phases]
    parameters = {native(name) for name, _ in base.model.named_parameters()}
    for name in map(native, differing(base.before, base.state)):
        if name in parameters and not any(_covers(given.get("trainable", "all"), name) for given in declared):
            raise Fault(f"'{name}' moved, but no run.fit(trainable=...) names it; name it, or put it back.")
        if name not in parameters and not any(_updates(given.get("statistics", "update"), name) for given in declared):
            raise Fault(f"'{name}' moved in spite of run.fit(statistics='keep'); call the network in evaluation mode.")


def _covers(trainable: str | tuple[str, ...], name: str) -> bool:
    return trainable == "all" or name in {PARAMETRISED.sub(r"\1", each) for each in trainable}


def _updates(statistics: str | tuple[str, ...], name: str) -> bool:
    if isinstance(statistics, str):
        return statistics == "update"
    return any(name.startswith(f"{module}.") for module in statistics)
