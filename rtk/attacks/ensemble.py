"""AutoAttack (Croce & Hein, ICML 2020) and its four attacks, with the reference's settings.

torchattacks.AutoAttack is not used: it runs APGD and FAB for 10 instead of 100 iterations, and Square with another
schedule. The attacks built here give the reference's adversarial images bit for bit (tested).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from ..errors import BadValue
from ..threat import Threat
from .attack import Attack

STEPS, QUERIES = 100, 5000
TARGETS = 9
GRADIENT = {"n_restarts": 1, "eot_iter": 1, "rho": 0.75}
TITLES = {
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "apgd-t": "APGD-T",
    "apgd-t-ce": "APGD-T (CE)",
    "fab-t": "FAB-T",
    "square": "Square",
}


def apgd(threat: Threat, *, loss: Literal["ce", "dlr"] = "ce", steps: int = STEPS) -> Attack:
    """Auto-PGD: PGD with momentum that halves its step by itself, from a random start.

    Args:
        loss: cross-entropy, or the difference of logits ratio, which is blind to their scale and needs 3 classes.
    """
    if loss not in ("ce", "dlr"):
        raise BadValue(f"APGD: got loss {loss!r} (allowed: ce | dlr).")
    return _attack(f"apgd-{loss}", "APGD", threat, steps, loss=loss, steps=_positive(steps), **GRADIENT)


def apgd_t(threat: Threat, classes: int, *, steps: int = STEPS) -> Attack:
    """APGD on the targeted difference of logits ratio, for each of the min(9, classes - 1) likeliest wrong classes.

    That loss is not defined for fewer than 4 classes; there it is the cross-entropy of the target, and the name says
    so: "apgd-t-ce".
    """
    targets = _targets(classes)
    loss = {} if classes >= 4 else {"loss": "ce"}
    name = "apgd-t" if classes >= 4 else "apgd-t-ce"
    settings = {"steps": _positive(steps), **GRADIENT, "n_classes": targets + 1, **loss}
    return _attack(name, "APGDT", threat, steps * targets, **settings)


def fab_t(threat: Threat, classes: int, *, steps: int = STEPS) -> Attack:
    """The Fast Adaptive Boundary attack (Croce & Hein, ICML 2020) towards the min(9, classes - 1) likeliest classes.

    It looks for the nearest image of another class, and keeps it when it lies inside the ball.
    """
    targets = _targets(classes)
    settings = {"n_restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9, "multi_targeted": True}
    return _attack(
        "fab-t", "FAB", threat, 2 * steps * targets, steps=_positive(steps), **settings, n_classes=targets + 1
    )


def square(threat: Threat, *, queries: int = QUERIES) -> Attack:
    """The Square attack (Andriushchenko et al., ECCV 2020): random search that sees logits and no gradients."""
    settings = {"n_restarts": 1, "p_init": 0.8, "loss": "margin", "resc_schedule": False}
    return _attack("square", "Square", threat, queries, n_queries=_positive(queries), **settings)


def autoattack(threat: Threat, classes: int) -> tuple[Attack, ...]:
    """The four attacks of AutoAttack standard in its order; for fewer than 4 classes see `apgd_t` and `label`.

    Raises:
        BadValue: fewer than 2 classes.
    """
    return apgd(threat), apgd_t(threat, classes), fab_t(threat, classes), square(threat)


def label(attacks: Sequence[Attack]) -> str:
    """What ran, e.g. "AutoAttack standard", which only its four attacks are, "APGD-CE + Square (100)" or "pgd20"."""
    targeted = [attack.settings["n_classes"] for attack in attacks if attack.name == "apgd-t"]
    if targeted and tuple(attacks) == autoattack(attacks[0].threat, targeted[0]):
        return "AutoAttack standard"
    return " + ".join(_title(attack) for attack in attacks)


def _title(attack: Attack) -> str:
    if attack.name not in TITLES:
        return attack.name
    key, standard = ("n_queries", QUERIES) if attack.name == "square" else ("steps", STEPS)
    length = attack.settings[key]
    return TITLES[attack.name] + ("" if length == standard else f" ({length})")


def _attack(name: str, kind: str, threat: Threat, cost: int, **settings: Any) -> Attack:
    def build(model: nn.Module, seed: int) -> Any:
        from . import mended

        return getattr(mended, kind)(model, norm=threat.norm, eps=threat.eps, seed=seed, **settings)

    return Attack(name, threat, settings, cost, build)


def _targets(classes: int) -> int:
    if classes < 2:
        raise BadValue(f"A targeted attack needs 2 classes or more; got {classes}.")
    return min(TARGETS, classes - 1)


def _positive(count: int) -> int:
    if count < 1:
        raise BadValue(f"An attack needs 1 step or query, or more; got {count}.")
    return count
