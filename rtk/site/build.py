"""From the folder of a benchmark to its page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import files, rundir
from ..bench import standings
from ..bench.cells import Cell
from ..bench.formats import render
from ..bench.reported import read_reported
from ..bench.spec import Spec
from ..bench.store import Store
from ..errors import RtkError
from ..progress import Progress
from .board import Board
from .examples import Examples, examples_of
from .figures import curves, trade_off
from .page import Templates, whole
from .runs import Run

MOST = 12
"""Runs of one page that are shown with examples, which takes their networks and the test images."""


@dataclass(frozen=True)
class Written:
    """A page on disk.

    Attributes:
        rows, runs: how many it shows.
        size: in bytes.
        notes: why a run has no examples.
    """

    path: Path
    rows: int
    runs: int
    size: int
    notes: list[str]


def write(
    spec: Spec, text: str, cells: Sequence[Cell], store: Store, out: Path, progress: Progress, *, examples: int
) -> Written:
    """Write the page of a benchmark.

    Args:
        spec: the benchmark.
        text: its file, which the page offers.
        cells: all of them.
        out: where the page is written.
        examples: adversarial images of the first run of each row on a Pareto front, MOST runs at most; 0 for none,
            which needs no torch.

    Raises:
        UnknownName: no row is called as the baseline, or no published table as is asked for.
        RequestError: the extra `site` is not installed.
        RunFailed: the file cannot be written.
    """
    reported = read_reported(spec.reported)
    found = [(cell, record) for cell in cells if (record := store.record(cell)) is not None]
    store.index.save()
    tables = standings.tables(cells, found, spec.baseline)
    templates = Templates()
    boards = [Board(number, table) for number, table in enumerate(tables, 1)]
    titles, notes = dict(_titles(boards)), []
    missing = store.missing(cells)
    packs = {
        "spec.toml": text,
        "tables.csv": render(tables, "csv"),
        "tables.json": render(tables, "json", reported, missing),
    }
    chosen = [cell for cell, _ in found if examples and cell.name in _chosen(boards)]
    bar = progress.stage("pages", len(found) + len(chosen))
    shown, names = {}, {}
    for cell in chosen:
        try:
            shown[cell.name] = examples_of(cell, store.result(cell), store.directory(cell), examples)
            names[cell.request.dataset] = shown[cell.name].names
        except RtkError as problem:
            shown[cell.name] = Examples(f"Not made on this machine: {problem.message}")
            notes.append(f"{cell}: no examples: {problem.message}")
        bar.advance()
    for cell, _ in found:
        folder = store.directory(cell)
        run = Run(cell, store.result(cell), folder, names.get(cell.request.dataset))
        title = titles.get(cell.name, str(cell))
        html = templates.render("run.html", run=run, title=title, examples=shown.get(cell.name))
        raw = (folder / rundir.RESULT).read_text(encoding="utf-8")
        packs[f"run/{cell.name}"] = json.dumps({"html": html, "result": raw}, ensure_ascii=False)
        bar.advance()
    states = Counter(store.state(cell) for cell in cells)
    rows = sum(len(board.lines) for board in boards)
    page = whole(
        templates,
        packs,
        name=spec.name,
        boards=[_section(templates, board, many=len(boards) > 1) for board in boards],
        reported=[templates.render("reported.html", table=table) for table in reported],
        missing=[(each.cell, each.state, each.reason) for each in missing],
        counts=states,
        cells=len(cells),
        rows=rows,
        version=metadata.version("rtk"),
        versions=sorted({record.rtk for _, record in found}) or [metadata.version("rtk")],
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    data = page.encode()
    files.write(out, lambda file: file.write(data))
    return Written(out, rows, len(found), len(data), notes)


def _section(templates: Templates, board: Board, *, many: bool) -> Any:
    front = trade_off(board)
    charts = [*([] if front is None else [front]), *curves(board)]
    return templates.render("board.html", board=board, charts=charts, many=many)


def _titles(boards: list[Board]) -> Iterator[tuple[str, str]]:
    """Folders of runs, and what their pages are called."""
    for board in boards:
        for row in board.table.rows:
            if row.strategy is not None:
                for folder, seed in zip(row.runs, row.seeds, strict=True):
                    yield folder, f"{row.name}, seed {seed}" if len(row.seeds) > 1 else row.name


def _chosen(boards: list[Board]) -> set[str]:
    """The runs that are shown with examples: one of each row on a front."""
    front = [row.runs[0] for board in boards for row in board.table.rows if row.pareto and row.strategy is not None]
    return set(front[:MOST])
