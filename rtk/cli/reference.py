"""What RobustBench reports, in a table of its own under what was measured."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from ..report.robustbench import Reference, check_comparable, read_model_info
from ..results import Evaluation, Result
from .table import Plain


def read_references(path: Path, found: Result | Evaluation) -> list[Reference]:
    """RobustBench's rows in a file; BadData when one is of other data or at another threat than the result."""
    references = read_model_info(path)
    for reference in references:
        check_comparable(reference, found)
    return references


def print_references(references: list[Reference], path: Path) -> None:
    """A row for each."""
    console = Plain()
    console.print(f"As reported in {path}, not measured here", markup=False, highlight=False, soft_wrap=True)
    table = Table()
    for name in ("accuracy, %", "clean", "AutoAttack", "best known attack"):
        table.add_column(name, justify="left" if name == "accuracy, %" else "right")
    for reference in references:
        info = reference.info
        table.add_row(
            _name(reference), *(value or "-" for value in (info.clean_acc, info.autoattack_acc, info.external))
        )
    console.print(table, markup=False, highlight=False)
    for note in (each.info.footnote for each in references if each.info.footnote):
        console.print(f"Footnote: {note}", markup=False, highlight=False, soft_wrap=True)


def _name(reference: Reference) -> str:
    info = reference.info
    unreliable = "AutoAttack unreliable" if info.unreliable else None
    parts = (info.name or "no name", info.architecture, info.venue, info.dataset, reference.threat, unreliable)
    return ", ".join(part for part in parts if part)
