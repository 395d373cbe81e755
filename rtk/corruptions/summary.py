"""From accuracies per corruption and severity to the few figures that papers print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from ..errors import BadValue
from .names import FAMILIES, NAMES, SEVERITIES, check_name

Accuracies = Mapping[tuple[str, int], float]
"""From (corruption, severity) to an accuracy in [0, 1]."""


@dataclass(frozen=True)
class Baseline:
    """The network that mCE is relative to (AlexNet in the paper), with its accuracies on the same images."""

    network: str
    accuracies: Accuracies


@dataclass(frozen=True)
class Summary:
    """Accuracies under corruption, in [0, 1].

    Attributes:
        mean: over all corruptions and severities.
        families: mean per family ("noise", "blur", "weather", "digital"), of the corruptions that were given.
        corruptions: mean over severities, per corruption.
        severities: the severities that the means are over.
        missing: corruptions of the 15 that were not given.
        mce: mean corruption error relative to `baseline`; 1 is as many errors as the baseline makes, and papers print
            it times 100. None without a baseline.
        baseline: the network that mce is relative to.
    """

    mean: float
    families: dict[str, float]
    corruptions: dict[str, float]
    severities: tuple[int, ...]
    missing: tuple[str, ...]
    mce: float | None
    baseline: str | None


def summarise(accuracies: Accuracies, baseline: Baseline | None = None) -> Summary:
    """Means over a grid of corruptions and severities, which may be a part of the 15 x 5.

    mCE is the paper's: the errors of a corruption, summed over its severities, are divided by those of the baseline,
    and the 15 ratios averaged. It says nothing without the baseline's name, and needs all 15 x 5 accuracies of both
    networks. (On CIFAR-10-C "mCE" often means 1 - mean.)

    Raises BadValue or UnknownName when accuracies are missing, out of range, or divide by a baseline without errors.
    """
    _check(accuracies, "accuracies")
    names = [name for name in NAMES if any(name == given for given, _ in accuracies)]
    severities = tuple(severity for severity in SEVERITIES if any(severity == given for _, given in accuracies))
    _check_grid(accuracies, names, severities, "the summary", "for every corruption the same severities")
    means = {name: fmean(accuracies[name, severity] for severity in severities) for name in names}
    families = {family: [means[name] for name in members if name in means] for family, members in FAMILIES.items()}
    return Summary(
        mean=fmean(means.values()),
        families={family: fmean(values) for family, values in families.items() if values},
        corruptions=means,
        severities=severities,
        missing=tuple(name for name in NAMES if name not in means),
        mce=None if baseline is None else _mce(accuracies, baseline),
        baseline=None if baseline is None else baseline.network,
    )


def _mce(accuracies: Accuracies, baseline: Baseline) -> float:
    _check(baseline.accuracies, f"accuracies of {baseline.network}")
    for given, what in ((accuracies, "mCE"), (baseline.accuracies, f"mCE relative to {baseline.network}")):
        _check_grid(given, NAMES, SEVERITIES, what, "all 15 corruptions at all 5 severities, of both networks")
    ratios = []
    for name in NAMES:
        errors, expected = (
            sum(1 - of[name, severity] for severity in SEVERITIES) for of in (accuracies, baseline.accuracies)
        )
        if expected == 0:
            raise BadValue(
                f"mCE: {baseline.network} makes no errors under {name} (allowed: a baseline that makes some)."
            )
        ratios.append(errors / expected)
    return fmean(ratios)


def _check(accuracies: Accuracies, what: str) -> None:
    if not accuracies:
        raise BadValue(f"No {what} under corruption are given (allowed: one or more).")
    for (name, severity), accuracy in accuracies.items():
        check_name(name, severity)
        if not 0 <= accuracy <= 1:  # also refuses NaN
            raise BadValue(f"The {what} hold {accuracy:.4g} for {name} at severity {severity} (allowed: 0 to 1).")


def _check_grid(
    accuracies: Accuracies, names: list[str] | tuple[str, ...], severities: tuple[int, ...], what: str, allowed: str
) -> None:
    for name in names:
        for severity in severities:
            if (name, severity) not in accuracies:
                raise BadValue(f"For {what} {name} at severity {severity} is missing (allowed: {allowed}).")
