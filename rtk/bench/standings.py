"""From finished cells to tables: a row for each configuration, repetitions with other seeds joined.

Scores whose identities differ in anything but the weights (protocol, images, threat, attack settings, chunk size, data)
are never in one table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import show
from ..errors import BadValue, UnknownName
from .cells import Cell
from .compare import LEVEL, Spread, Versus, behind, front, paired
from .records import Network, Record, Tally

ROBUST = ("autoattack", "pgd100", "pgd20", "pgd10")
"""Kinds of evaluation that may stand for robust accuracy on the Pareto front, the strongest first."""

INDIFFERENT = ("threads", "cores")
"""Facts in which the runs of one table may differ without a word: they decide how fast, and at most how sums round."""


@dataclass(frozen=True)
class Entry:
    """One item of the suite in one row.

    Attributes:
        accuracy: share of images, over seeds.
        interval: 95 % Wilson interval; None for several seeds.
        versus: difference to the source; None where there is no source row.
        baseline: difference to the table's baseline; None without one, and of the baseline itself.
        best: not significantly worse than the row of the table with the highest mean; see rtk.bench.compare.behind.
    """

    accuracy: Spread
    interval: tuple[float, float] | None
    versus: Versus | None
    baseline: Versus | None = None
    best: bool = True


@dataclass(frozen=True)
class Standing:
    """One row of a table.

    Attributes:
        name: of the strategy with the options that tell it apart, or "source" with those of the backbone.
        strategy: its name; None for a source.
        configuration: what its runs have in common, as SHA-256: `Cell.configuration`; None for a source.
        start: the network that it started from: the URI of a backbone, and the weights that replace its own.
        dataset: URI.
        runs: folders of the runs in this row, below `cells` of the benchmark, by seed; of a source, those that it was
            judged in first.
        seeds: of these runs, ascending; empty for a source, unless its weights are random.
        planned: seeds that the benchmark asks for; 0 for a source.
        entries: by item, e.g. "pgd20@Linf:8/255".
        minutes: wall time of fine-tuning, over seeds; of a resumed run, its last part; None for a source.
        cpu_minutes: of all cores, evaluation included, over seeds; None for a source.
        host_bytes: most memory of one process until fine-tuning had ended, the most of all seeds; None for a source.
        device_bytes: most that tensors took on the GPU, the most of all seeds, 0 without one; None for a source.
        changed: parameters that fine-tuning changed, over seeds; None for a source.
        share: of the parameters that fine-tuning changed; None for a source.
        warnings: of its checks, each a sentence.
        pareto: no row of the table is as good on both axes of `Table.axes` and better on one, by point estimates;
            False for every row where the table has no axes.
    """

    name: str
    strategy: str | None
    configuration: str | None
    start: str
    dataset: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    planned: int
    entries: dict[str, Entry]
    minutes: Spread | None
    cpu_minutes: Spread | None
    host_bytes: int | None
    device_bytes: int | None
    changed: Spread | None
    share: float | None
    warnings: tuple[str, ...]
    pareto: bool = False

    @property
    def counted(self) -> str:
        """How many seeds it has, and of how many where some are missing; empty for a source that needs none."""
        if not self.seeds:
            return ""
        return f"{len(self.seeds)} of {self.planned}" if len(self.seeds) < self.planned else str(len(self.seeds))

    def compared(self, versus: Versus | None) -> str:
        """With how many of its seeds a difference was computed, where it is not all; else empty."""
        count = 0 if versus is None else len(versus.seeds)
        return f"{count} of {len(self.seeds)} seeds" if count < len(self.seeds) and count else ""


@dataclass(frozen=True)
class Table:
    """Rows that were judged in the same way.

    Attributes:
        items: by the keys of the scores, how they are called and on how many images.
        identity: by the keys of the scores, how they were judged.
        rows: sources first, then in the order of the spec.
        axes: the items of the Pareto front: clean accuracy, and AutoAttack or else PGD, where several threats were
            measured at the first; None where there are no two such items.
        baseline: what was asked for; None without a baseline. Not every table has a row of that name.
        mixed: what runs were made with that differs among them, such as the version of torch, and its values.
    """

    items: dict[str, tuple[str, int]]
    identity: dict[str, Any]
    rows: list[Standing]
    axes: tuple[str, str] | None
    baseline: str | None
    mixed: dict[str, tuple[str, ...]]


Found = tuple[Cell, Record]
Start = tuple[str, str | None]
"""Backbone and --weights, which decide where a run begins."""


@dataclass(frozen=True)
class _Draft:
    """A row before it is compared with others.

    Attributes:
        runs: those in it, by seed.
        networks: what is judged in it, by seed.
        source: name of the row of the network that its runs began with; None for such a network itself.
        planned: seeds that the benchmark asks for; 0 for such a network.
    """

    name: str
    start: Start
    runs: list[Found]
    networks: dict[int, Network]
    source: str | None
    planned: int = 0

    def scores(self, key: str) -> list[Tally]:
        """The verdicts in an item, by seed."""
        return [network.scores[key] for network in self.networks.values()]


def tables(cells: Sequence[Cell], found: Iterable[Found], baseline: str | None = None) -> list[Table]:
    """The tables of a benchmark, in the order of its spec.

    Args:
        cells: all of them; they decide which options a row has to name.
        found: those that are done.
        baseline: the name of a row, or of a strategy that has one row for each backbone; every row is compared with
            the baseline of its own table.

    Raises:
        UnknownName: no row and no strategy is called so.
        BadValue: a strategy of that name has several rows from the same backbone.
    """
    names = names_of(cells)
    if baseline is not None:
        check_baseline(cells, baseline)
    alike: dict[str, list[Found]] = {}
    for cell, record in found:
        alike.setdefault(record.protocol.digest, []).append((cell, record))
    planned = Counter(cell.configuration for cell in cells)
    return [_table(group, names, planned, baseline) for group in alike.values()]


def names_of(cells: Sequence[Cell]) -> dict[str, str]:
    """By configuration, the strategy with those of its options in which its cells differ."""
    alike: dict[str, list[Cell]] = {}
    for cell in {cell.configuration: cell for cell in cells}.values():
        alike.setdefault(cell.request.strategy.name, []).append(cell)
    found = {}
    for strategy, group in alike.items():
        own = dict.fromkeys(key for cell in group for key in cell.settings.all if key in cell.settings.own)
        given = [key for key in own if key not in ("strategy", "dataset")]  # these have columns
        owned = frozenset(type(group[0].request.config).model_fields)
        shown = {
            key: [show(getattr(cell.request.config if key in owned else cell.request.options, key)) for cell in group]
            for key in given
        }
        differ = {key: values for key, values in shown.items() if len(set(values)) > 1}
        for number, cell in enumerate(group):
            options = [f"{key}={values[number]}" for key, values in differ.items()]
            found[cell.configuration] = " ".join([strategy, *options])
    return {cell.configuration: found[cell.configuration] for cell in cells}


def check_baseline(cells: Sequence[Cell], baseline: str) -> None:
    """Refuse a baseline that no table of these cells could have.

    Raises:
        UnknownName, BadValue: see `tables`.
    """
    names = names_of(cells)
    if baseline in names.values():
        return
    rows = _rows(cells)
    if baseline not in rows:
        single = {name for name, starts in rows.items() if all(len(each) == 1 for each in starts.values())}
        allowed = {*names.values(), *single}
        raise UnknownName("baseline", baseline, allowed, "--baseline, or baseline in the spec, with one of these")
    for configurations in rows[baseline].values():
        if len(configurations) > 1:
            some = " | ".join([names[each] for each in configurations][:3])
            raise BadValue(
                f"Baseline '{baseline}': {len(configurations)} rows from the same network are of this strategy.",
                f"the whole name of one, such as {some}",
            )


def _rows(cells: Sequence[Cell]) -> dict[str, dict[tuple[str, str, str | None], list[str]]]:
    """By strategy, and by data and start, the configurations, each once."""
    found: dict[str, dict[tuple[str, str, str | None], list[str]]] = {}
    for cell in {cell.configuration: cell for cell in cells}.values():
        options = cell.request.options
        start = cell.request.dataset, options.backbone, options.weights
        found.setdefault(cell.request.strategy.name, {}).setdefault(start, []).append(cell.configuration)
    return found


def _table(found: list[Found], names: dict[str, str], planned: Mapping[str, int], baseline: str | None) -> Table:
    protocol = found[0][1].protocol
    drafts = _drafts(found, names, planned)
    axes = _axes(protocol.items)
    best = {key: [p >= LEVEL for p in behind([draft.scores(key) for draft in drafts])] for key in protocol.items}
    fronts = [False] * len(drafts)
    if axes:
        means = [[Spread.of([each.accuracy for each in draft.scores(key)]).mean for key in axes] for draft in drafts]
        fronts = front([(clean, robust) for clean, robust in means])
    bases = _baselines(drafts, baseline)
    rows = [
        _standing(draft, base, {key: best[key][number] for key in best}, pareto)
        for number, (draft, base, pareto) in enumerate(zip(drafts, bases, fronts, strict=True))
    ]
    return Table(protocol.items, protocol.identity, rows, axes, baseline, _mixed(drafts))


def _mixed(drafts: list[_Draft]) -> dict[str, tuple[str, ...]]:
    """What the runs of a table were made with where it differs; of a row, also on how many images it was trained."""
    tuned = [draft for draft in drafts if draft.source is not None]
    # thousands of runs share a few environments, each of which is one object
    made = {(record.rtk, id(record.environment)): record for draft in tuned for _, record in draft.runs}
    found: dict[str, set[str]] = {}
    for record in made.values():
        for name, value in record.facts:
            if name not in INDIFFERENT and not name.startswith("code of "):
                found.setdefault(name, set()).add(show(value))
    for draft in tuned:
        found[f"training images of {draft.name}"] = {show(record.images) for _, record in draft.runs}
    return {name: tuple(sorted(values)) for name, values in found.items() if len(values) > 1}


def _drafts(found: list[Found], names: dict[str, str], planned: Mapping[str, int]) -> list[_Draft]:
    """The rows of a table: the networks that runs began with, then a row for each configuration."""
    found = sorted(found, key=lambda each: each[1].seed)
    begun: dict[Start, list[Found]] = {}
    configurations: dict[str, list[Found]] = {key: [] for key in names}
    for cell, record in found:
        if record.source is not None:
            begun.setdefault(_start(cell, record), []).append((cell, record))
        configurations[cell.configuration].append((cell, record))
    sources = {start: _source(start, runs, list(begun)) for start, runs in begun.items()}
    drafts = list(sources.values())
    for key, runs in configurations.items():
        if runs:
            start = _start(*runs[0])
            source = sources[start].name if start in sources else ""
            networks = {record.seed: record.tuned for _, record in runs}
            drafts.append(_Draft(names[key], start, runs, networks, source, planned[key]))
    return drafts


def _start(cell: Cell, record: Record) -> Start:
    return record.backbone, cell.request.options.weights


def started(start: Start) -> str:
    """The network in words: its backbone, and the file of weights, or "random", where they are not its own."""
    backbone, weights = start
    return backbone if weights is None else f"{backbone}, weights {weights}"


def _source(start: Start, runs: list[Found], all: list[Start]) -> _Draft:
    """The row of what runs began with: one network, or with random weights one for each seed."""
    several = [len({each[part] for each in all}) > 1 for part in (0, 1)]
    backbone, weights = start
    name = " ".join(["source", *[backbone] * several[0], *[f"weights={weights}"] * bool(several[1] and weights)])
    first: dict[str, Found] = {}
    for cell, record in runs:
        assert record.source is not None
        first.setdefault(record.source.weights, (cell, record))
    networks = {record.seed: record.source for _, record in first.values() if record.source is not None}
    return _Draft(name, start, list(first.values()), networks, None)


def _standing(draft: _Draft, base: _Draft | None, best: dict[str, bool], pareto: bool) -> Standing:
    """A row with all that is said about it."""
    records = [record for _, record in draft.runs]
    tuned = draft.source is not None
    costs = [record.cost for record in records] if tuned else []
    changed = Spread.of([cost.changed for cost in costs]) if costs else None
    return Standing(
        name=draft.name,
        strategy=_strategy(draft) if tuned else None,
        configuration=draft.runs[0][0].configuration if tuned else None,
        start=started(draft.start),
        dataset=records[0].dataset,
        runs=tuple(cell.name for cell, _ in draft.runs),
        seeds=tuple(draft.networks) if tuned or len(draft.networks) > 1 else (),
        planned=draft.planned,
        entries={key: _entry(draft, base, key, best[key]) for key in best},
        minutes=Spread.of([cost.seconds / 60 for cost in costs]) if costs else None,
        cpu_minutes=Spread.of([cost.cpu_seconds / 60 for cost in costs]) if costs else None,
        host_bytes=max((cost.host_bytes for cost in costs), default=None),
        device_bytes=max((cost.device_bytes for cost in costs), default=None),
        changed=changed,
        share=changed.mean / records[0].parameters if changed else None,
        warnings=_warnings(draft.networks),
        pareto=pareto,
    )


def _entry(draft: _Draft, base: _Draft | None, key: str, best: bool) -> Entry:
    scores = draft.scores(key)
    return Entry(
        accuracy=Spread.of([score.accuracy for score in scores]),
        interval=(scores[0].low, scores[0].high) if len(scores) == 1 else None,
        versus=_versus(draft, key),
        baseline=_against(draft, base, key) if base and base is not draft else None,
        best=best,
    )


def _versus(draft: _Draft, key: str) -> Versus | None:
    """The differences to the source, as the results state them."""
    if not draft.source:
        return None
    found = {record.seed: record.changes[key] for _, record in draft.runs if key in record.changes}
    return Versus.of(draft.source, list(found.values()), list(found))


def _against(draft: _Draft, base: _Draft, key: str) -> Versus | None:
    """The differences to another row, for the seeds that both have; a source's one network has every seed."""
    only = None if draft.source is not None or len(draft.networks) > 1 else next(iter(draft.networks.values()))
    found = {}
    for seed, before in base.networks.items():
        network = draft.networks.get(seed, only)
        if network is not None:
            found[seed] = paired(before.scores[key], network.scores[key])
    return Versus.of(base.name, list(found.values()), list(found))


def _baselines(drafts: list[_Draft], baseline: str | None) -> list[_Draft | None]:
    """For each row the one of this name, or else the one of this strategy that began with the same network.

    Several rows have one name where they were trained on other data: then it is that with the same.
    """
    named = {_data(draft): draft for draft in drafts if draft.name == baseline}
    alone = next(iter(named.values())) if len(named) == 1 else None
    own = {
        (draft.start, _data(draft)): draft
        for draft in drafts
        if draft.source is not None and _strategy(draft) == baseline
    }
    return [alone or named.get(_data(draft)) or own.get((draft.start, _data(draft))) for draft in drafts]


def _data(draft: _Draft) -> str:
    return draft.runs[0][1].dataset


def _strategy(draft: _Draft) -> str:
    return draft.runs[0][0].request.strategy.name


def _warnings(networks: dict[int, Network]) -> tuple[str, ...]:
    before = "seed {}: " if len(networks) > 1 else ""
    return tuple(before.format(seed) + text for seed, network in networks.items() for text in network.warnings)


def _axes(items: dict[str, tuple[str, int]]) -> tuple[str, str] | None:
    kinds = {key: key.partition("@")[0] for key in items}
    clean = [key for key, kind in kinds.items() if kind == "clean"]
    robust = [key for strongest in ROBUST for key, kind in kinds.items() if kind == strongest]
    return (clean[0], robust[0]) if clean and robust else None
