"""Two benchmarks compared run by run, such as before and after an upgrade: what changed?"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..config import show
from ..errors import BadValue
from ..options import PLACE
from .cells import SHARED
from .compare import Spread, Versus, paired
from .records import Network, Protocol, Record
from .spec import expand, folder_of, located, read_spec
from .store import Store

IMAGES = ("item", "data", "n", "seed")
"""What an identity says about which images were judged, and against which threat."""

Key = tuple[str, int]
"""A configuration, by the digest of its options, and a seed."""


@dataclass(frozen=True)
class Run:
    """A run of one of the two.

    Attributes:
        folder: below `cells` of its benchmark.
        options: as they were given, the seed and where it was computed apart.
    """

    folder: str
    options: Mapping[str, Any]
    record: Record


@dataclass(frozen=True)
class Side:
    """One of the two benchmarks.

    Attributes:
        runs: those that are done and that its spec names; of several with the same options and seed the newest.
        unreadable: why results were left out.
    """

    root: Path
    runs: dict[Key, Run]
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """One item of the suite in both.

    Attributes:
        label: what was measured, for a reader.
        n: images in the second.
        before, after: accuracy, over seeds.
        versus: second minus first on the same images, seed by seed; None where the images are others.
        equal: every verdict on every image is the same.
        judged: what differs in how it was judged, each a sentence's part; the images are the same nevertheless where
            `versus` is given.
    """

    label: str
    n: int
    before: Spread
    after: Spread
    versus: Versus | None
    equal: bool
    judged: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """One configuration in both.

    Attributes:
        name: the strategy with the options that tell it apart, or "source" with the backbone.
        dataset: URI.
        seeds: that both have; of a source, those of the runs that it was first judged in.
        runs: folders of the first and of the second, by seed.
        weights: seeds that ended with the same weights, bit by bit.
        numbers: by item.
    """

    name: str
    dataset: str
    seeds: tuple[int, ...]
    runs: tuple[tuple[str, str], ...]
    weights: int
    numbers: dict[str, Number]


@dataclass(frozen=True)
class Comparison:
    """What became of the numbers.

    Attributes:
        first, second: the folders.
        pairs: sources first.
        only_first, only_second: runs that the other one lacks.
        environment: what differs, by name: the values in the first and in the second, joined where there are several.
        unreadable: why results were left out.
    """

    first: str
    second: str
    pairs: list[Pair]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    environment: dict[str, tuple[str, str]]
    unreadable: tuple[str, ...]


def compare(first: Path, second: Path) -> Comparison:
    """Compare two benchmarks.

    Runs belong together when their options, as the specs give them, and their seeds are equal; the strategies' code and
    the version of rtk may differ.

    Args:
        first, second: a spec, whose folder is then the default one, or the folder of a benchmark.

    Raises:
        BadValue: no spec, and no folder with one.
    """
    one, other = read_side(first), read_side(second)
    both = [key for key in one.runs if key in other.runs]
    names = _names([*one.runs.values(), *other.runs.values()])
    matched: dict[str, list[tuple[Run, Run]]] = {}
    for key in sorted(both, key=lambda key: key[1]):
        matched.setdefault(key[0], []).append((one.runs[key], other.runs[key]))
    order = dict.fromkeys(key[0] for key in both)
    pairs = [_pair(names[key], matched[key]) for key in order]
    return Comparison(
        str(one.root),
        str(other.root),
        [*_sources([each for key in order for each in matched[key]]), *pairs],
        tuple(_missing(one.runs, other.runs, names)),
        tuple(_missing(other.runs, one.runs, names)),
        _environment([(one.runs[key].record, other.runs[key].record) for key in both]),
        (*one.unreadable, *other.unreadable),
    )


def read_side(place: Path) -> Side:
    """The runs of a benchmark, in the order of its spec; nothing of the installed strategies is needed to read them."""
    place = files.home(place)
    spec, folder = located(place)
    read = read_spec(spec)
    store = Store(folder or folder_of(read))
    found: dict[Key, Run] = {}
    unreadable = []
    for path in sorted((store.root / "cells").glob("*.toml")):
        said = store.index.look(path.stem)
        if isinstance(said, str):
            unreadable.append(said)
        elif said is not None:
            run = Run(path.stem, _given(_options(path)), said)
            key = _digest(run.options), said.seed
            if key not in found or found[key].record.created < said.created:
                found[key] = run
    store.index.save()
    wanted = [(_digest(_given(settings.all)), settings.all["seed"]) for settings in expand(read)]
    return Side(store.root, {key: found[key] for key in wanted if key in found}, tuple(unreadable))


def _options(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise BadValue(f"{path}: {problem}.", "rtk bench run SPEC writes it again") from None


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that make a configuration; of those called as in PLACE, a strategy's own do (batch_size)."""
    return {name: value for name, value in options.items() if name not in PLACE & SHARED and name != "seed"}


def _digest(options: Mapping[str, Any]) -> str:
    return files.digest({name: str(value) for name, value in options.items()})


def _names(runs: Iterable[Run]) -> dict[str, str]:
    """By the digest of its options, the strategy with those in which its runs differ, on either side."""
    alike: dict[str, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        alike.setdefault(run.record.strategy, {})[_digest(run.options)] = run.options
    found = {}
    for strategy, group in alike.items():
        known = dict.fromkeys(name for options in group.values() for name in options)
        differ = [
            name
            for name in known
            if name != "dataset" and len({str(options.get(name)) for options in group.values()}) > 1
        ]
        for key, options in group.items():
            found[key] = " ".join([strategy, *(f"{name}={show(options[name])}" for name in differ if name in options)])
    return found


def _pair(name: str, runs: list[tuple[Run, Run]]) -> Pair:
    networks = [(one.record.tuned, other.record.tuned) for one, other in runs]
    return _compared(name, runs, networks)


def _sources(runs: list[tuple[Run, Run]]) -> Iterator[Pair]:
    """The networks that runs began with, each once; where these differ, it is not fine-tuning that changed."""
    alike: dict[str, dict[tuple[str, str], tuple[Run, Run]]] = {}
    for one, other in runs:
        if one.record.source is not None and other.record.source is not None:
            weights = one.options.get("weights")
            name = " ".join(["source", other.record.backbone, *[f"weights={weights}"] * bool(weights)])
            mark = one.record.source.weights, other.record.source.weights
            alike.setdefault(f"{name} {other.record.protocol.digest}", {}).setdefault(mark, (one, other))
    for name, found in alike.items():
        chosen = list(found.values())
        networks = [(one.record.source, other.record.source) for one, other in chosen]
        known = [(one, other) for one, other in networks if one is not None and other is not None]
        yield _compared(name.rpartition(" ")[0], chosen, known)


def _compared(name: str, runs: list[tuple[Run, Run]], networks: list[tuple[Network, Network]]) -> Pair:
    seeds = tuple(run.record.seed for run, _ in runs)
    protocols = [(one.record.protocol, other.record.protocol) for one, other in runs]
    keys = [key for key in protocols[0][1].items if all(key in each.items for both in protocols for each in both)]
    return Pair(
        name,
        runs[0][1].record.dataset,
        seeds,
        tuple((one.folder, other.folder) for one, other in runs),
        sum(one.weights == other.weights for one, other in networks),
        {key: _number(key, seeds, networks, protocols) for key in keys},
    )


def _number(
    key: str,
    seeds: tuple[int, ...],
    networks: list[tuple[Network, Network]],
    protocols: list[tuple[Protocol, Protocol]],
) -> Number:
    scores = [(one.scores[key], other.scores[key]) for one, other in networks]
    judged = [(before.identity[key], after.identity[key]) for before, after in protocols]
    same = all(old.get(name) == new.get(name) for old, new in judged for name in IMAGES)
    same = same and all(one.copies == other.copies for one, other in scores)
    facts = [
        f"{name} was {_short(old.get(name))}, is {_short(new.get(name))}"
        for old, new in judged
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    label, n = protocols[0][1].items[key]
    return Number(
        label,
        n,
        Spread.of([one.accuracy for one, _ in scores]),
        Spread.of([other.accuracy for _, other in scores]),
        Versus.of("first", [paired(one, other) for one, other in scores], seeds) if same else None,
        same and all(one.verdicts == other.verdicts for one, other in scores),
        tuple(dict.fromkeys(facts)),
    )


def _missing(runs: dict[Key, Run], others: dict[Key, Run], names: dict[str, str]) -> Iterator[str]:
    for (configuration, seed), run in runs.items():
        if (configuration, seed) not in others:
            yield f"{names[configuration]} on {run.record.dataset}, seed {seed}"


def _environment(records: list[tuple[Record, Record]]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[set[str], set[str]]] = {}
    for pair in records:
        for side, record in enumerate(pair):
            for name, value in record.facts:
                found.setdefault(name, (set(), set()))[side].add(_short(value))
    joined = {name: (", ".join(sorted(one)), ", ".join(sorted(other))) for name, (one, other) in found.items()}
    return {name: values for name, values in joined.items() if values[0] != values[1]}


def _short(value: Any) -> str:
    text = show(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
