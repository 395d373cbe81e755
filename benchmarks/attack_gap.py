"""How much of the robust accuracy under PGD AutoAttack leaves: python benchmarks/attack_gap.py RESULTS [RESULTS ...]

RESULTS is the folder of a benchmark, such as evidence/results/rift. Both attacks are looked at on the images of
AutoAttack alone, which are the first of those of PGD, so that the gap is not one between samples. One row for each
strategy, learning rate and data set, and one for the networks that they started from; over several networks mean and
sample standard deviation, for one a 95 % interval for paired proportions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rtk import results
from rtk.bench.compare import Spread
from rtk.statistics import paired
from rtk.verdicts import unpack

STRONGEST = "autoattack"
HEAD = ["| | networks | n | attack | accuracy | AutoAttack | difference |", "|---|---|---|---|---|---|---|"]
Verdicts = dict[str, list[bool]]
"""Of one network, by attack, on the images of AutoAttack."""


def main() -> None:
    """A table in Markdown for each benchmark."""
    for place in map(Path, sys.argv[1:]):
        groups: dict[str, dict[str, Verdicts]] = {}
        for path in sorted(place.glob("cells/*/result.json")):
            found = results.read(path)
            for row in found.rows:
                name = f"{title(found) if row is found.rows[-1] else row.name}, {found.dataset['uri']}"
                if verdicts := judged(row):
                    groups.setdefault(name, {})[row.weights] = verdicts  # a source is in every run that starts from it
        rows = [row for name in sorted(groups) for row in lines(name, list(groups[name].values()))]
        print("", place.name, "", *(HEAD + rows if rows else ["no network was attacked by both"]), sep="\n")


def title(found: results.Result) -> str:
    """The strategy with its learning rate."""
    return f"{found.strategy['name']}, rate {found.strategy['config']['lr']:g}"


def judged(row: results.Row) -> Verdicts:
    """The verdicts on a network under AutoAttack and each PGD at the same threat; none where AutoAttack was not run."""
    strongest = [score for score in row.scores.values() if score.item == STRONGEST]
    if not strongest:
        return {}
    n, threat = strongest[0].n, strongest[0].threat
    scores = [score for score in row.scores.values() if score.threat == threat and score.n >= n]
    attacks = [score for score in scores if score.item == STRONGEST or score.item.startswith("pgd")]
    return {score.item: unpack(score.verdicts, score.n)[:n] for score in attacks}


def lines(name: str, networks: Sequence[Verdicts]) -> Iterator[str]:
    """A row of the table for each attack beside AutoAttack."""
    n = len(networks[0][STRONGEST])
    for item in sorted({item for network in networks for item in network} - {STRONGEST}):
        both = [(network[item], network[STRONGEST]) for network in networks if item in network]
        weaker, strongest = (Spread.of([sum(each[i]) / n for each in both]) for i in (0, 1))
        if len(both) == 1:
            gap = paired(both[0][1], both[0][0])
            said = f"{100 * gap.value:+.1f} [{100 * gap.interval[0]:+.1f}, {100 * gap.interval[1]:+.1f}]"
        else:
            said = show(Spread.of([(sum(before) - sum(after)) / n for before, after in both]), "+")
        yield f"| {name} | {len(both)} | {n} | {item} | {show(weaker)} | {show(strongest)} | {said} |"


def show(spread: Spread, sign: str = "") -> str:
    """In per cent."""
    mean = f"{100 * spread.mean:{sign}.1f}"
    return mean if spread.deviation is None else f"{mean} ± {100 * spread.deviation:.1f}"


if __name__ == "__main__":
    main()
