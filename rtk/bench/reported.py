"""Figures that others report, to be read beside a benchmark; nothing of them was measured by rtk."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Self

import pydantic
from pydantic import ConfigDict, Field

from .. import files
from ..errors import UnknownName

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class _Part(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ReportedRow(_Part):
    """One network as others report it."""

    method: str
    network: str | None = None
    """Architecture; null where it is not stated."""
    source: str | None = None
    """Data that the network was trained on before."""
    data: str | None
    """What it was judged on."""
    figures: list[Percent | None]
    """Accuracies in percent, in the order of the columns; null where nothing is reported."""


class ReportedTable(_Part):
    """A published table."""

    name: str
    """What it is asked for by, or the file that it was read from."""
    title: str
    """Paper and table."""
    url: str | None
    """Of the source; null for a file that names none."""
    columns: list[str]
    """What was measured."""
    protocol: str
    """How it was measured."""
    differences: list[str] = Field(min_length=1)
    """In what that is not what rtk does, each a sentence."""
    note: str | None = None
    """Anything else that a reader should know."""
    rows: list[ReportedRow] = Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Self:
        for row in self.rows:
            if len(row.figures) != len(self.columns):
                raise ValueError(f"{row.method}: {len(row.figures)} figures for {len(self.columns)} columns")
        return self


@cache
def published() -> dict[str, ReportedTable]:
    """The tables that come with rtk, by name."""
    text = (resources.files("rtk") / "assets" / "reported.toml").read_text(encoding="utf-8")
    found = [ReportedTable.model_validate(each) for each in tomllib.loads(text)["table"]]
    return {table.name: table for table in found}


def read_reported(names: Iterable[str]) -> list[ReportedTable]:
    """The tables that are asked for.

    Args:
        names: of published tables, or paths of RobustBench's JSON files.

    Raises:
        UnknownName: there is no such table and no such file.
        BadData: a file is not RobustBench's.
    """
    return [_read(name) for name in names]


def _read(name: str) -> ReportedTable:
    if name in published():
        return published()[name]
    if not files.there(name, Path.is_file):
        raise UnknownName("reported table", name, published(), "--reported with a name, or a JSON file of RobustBench")
    return _robustbench(files.home(name))


def _robustbench(path: Path) -> ReportedTable:
    from ..report.robustbench import read_model_info

    found = read_model_info(path)
    links = {each.info.link for each in found if each.info.link}
    rows = [
        ReportedRow(
            method=", ".join(part for part in (each.info.name or "no name", each.info.venue) if part),
            network=each.info.architecture,
            source=each.info.dataset,
            data=f"{each.info.dataset or 'data not stated'}, {each.threat}",
            figures=[
                None if value is None else float(value)
                for value in (each.info.clean_acc, each.info.autoattack_acc, each.info.external)
            ],
        )
        for each in found
    ]
    notes = [f"{each.info.name}: {each.info.footnote}" for each in found if each.info.footnote]
    notes += [f"{each.info.name}: AutoAttack may be too weak for it." for each in found if each.info.unreliable]
    return ReportedTable(
        name=str(path),
        title="RobustBench",
        url=links.pop() if len(links) == 1 else None,
        columns=["clean", "AutoAttack", "best known attack"],
        protocol="RobustBench's own; the file does not say on how many images.",
        differences=[
            "The network as it was published, not fine-tuned.",
            "The images may be others, and more, than those of the tables above.",
            "The best known attack is the strongest that anybody has reported, and may be made for this network.",
        ],
        note=" ".join(notes) or None,
        rows=rows,
    )
