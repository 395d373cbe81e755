"""What others report: shown apart, as it was published, and never ranked."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pydantic
import pytest

from rtk.bench.formats import REPORTED, render
from rtk.bench.reported import ReportedTable, published, read_reported
from rtk.cli import main
from rtk.errors import BadData, UnknownName

SPEC = 'name = "mine"\n[[run]]\nstrategy = "full"\n'
INFO = {
    "link": "https://example.org/paper",
    "name": "A paper",
    "dataset": "cifar10",
    "venue": "ICML 2021",
    "architecture": "WideResNet-28-10",
    "eps": "8/255",
    "clean_acc": "89.69",
    "autoattack_acc": "59.53",
    "unreliable": True,
    "footnote": "With more data.",
}


def said(*arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit):
        main(["bench", "table", "spec.toml", *arguments])
    return out.getvalue(), err.getvalue()


def test_figures_are_those_of_the_papers() -> None:
    """The reproduction targets, one of each table; the rest was compared with the papers' tables when it was copied."""
    found = {
        (table.name, row.method, row.network, row.data): row.figures
        for table in published().values()
        for row in table.rows
    }
    assert found["rift-table-1", "AT + RiFT", "ResNet-18", "CIFAR-10"] == [83.44, 75.69, 53.65]
    assert found["rift-table-3", "all layers", "ResNet-18", "CIFAR-10"] == [83.56, 75.48, 52.66]
    assert found["autolora-table-2", "TWINS", "ResNet-50", "CIFAR-100"] == [65.52, 33.79, 28.37]
    assert found["cartl-ablation", "AT + NEFT, k = 8", "WRN-34-10", "CIFAR-10"] == [90.92, 29.97]
    assert found["cartl-transfer", "LwF", "WRN-34-10", "SVHN"] == [85.90, 6.67]


@pytest.mark.parametrize("table", published().values(), ids=published().keys())
def test_every_table_says_where_it_is_from_and_what_is_different(table: ReportedTable) -> None:
    assert table.url and table.url.startswith("https://") and table.protocol and table.differences
    clean = table.columns.index("clean")
    for row in table.rows:
        figures = [figure for figure in row.figures if figure is not None]
        assert row.figures[clean] == max(figures), "no network is better under attack or corruption"
    shown = {(row.method, row.network, row.source, row.data) for row in table.rows}
    assert len(shown) == len(table.rows)


@pytest.mark.parametrize("figures", [[81.46], [81.46, 100.1], [-1, 2], [float("nan"), 2], ["x", 2]])
def test_a_table_that_is_wrong_is_refused(figures: list[object]) -> None:
    table = {"name": "a", "title": "a", "url": None, "protocol": "a", "differences": ["a"], "columns": ["a", "b"]}
    with pytest.raises(pydantic.ValidationError):
        ReportedTable.model_validate({**table, "rows": [{"method": "a", "data": "a", "figures": figures}]})


def test_a_reported_table_stands_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.toml").write_text(SPEC)
    text, _ = said("--reported", "rift-table-1", "--reported", "cartl-beta")
    headings = [line for line in text.splitlines() if line.startswith(REPORTED)]
    assert headings == [f"{REPORTED}: {published()[name].title}" for name in ("rift-table-1", "cartl-beta")]
    assert "83.44" in text and "Source: https://arxiv.org/abs/2308.02533" in text and "Not as in rtk: " in text
    assert "front" not in text and " *" not in text
    (tmp_path / "spec.toml").write_text('reported = ["rift-table-3"]\n' + SPEC)
    assert "RiFT (ICCV 2023), Table 3" in said()[0]
    assert (
        "Table 4" in said("--reported", "rift-table-4")[0] and "Table 3:" not in said("--reported", "rift-table-4")[0]
    )
    parsed, others = json.loads(said("--format", "json")[0])
    assert [each["state"] for each in others["missing"]] == ["waiting"]
    assert parsed["reported"]["rows"][0]["figures"] == [83.56, 75.48, 52.66]
    assert len(said("--format", "csv")[0].splitlines()) == 1, "a line of CSV is a measurement"
    assert f"**{REPORTED}: RiFT" in said("--format", "markdown")[0]


def test_a_name_that_is_none_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.toml").write_text(SPEC)
    assert (
        "Unknown reported table 'rift-tabel-1'. Did you mean 'rift-table-1'?" in said("--reported", "rift-tabel-1")[1]
    )
    (tmp_path / "spec.toml").write_text('baseline = "fll"\n' + SPEC)
    err = io.StringIO()
    with redirect_stderr(err), pytest.raises(SystemExit):
        main(["bench", "run", "spec.toml"])
    assert "Unknown baseline 'fll'. Did you mean 'full'?" in err.getvalue() and not (tmp_path / "runs").exists()


def test_robustbenchs_files_are_reported_rows(tmp_path: Path) -> None:
    folder = tmp_path / "Linf"
    folder.mkdir()
    path = folder / "A2021.json"
    path.write_text(json.dumps(INFO))
    (table,) = read_reported([str(path)])
    (row,) = table.rows
    assert (row.figures, row.network, row.data) == ([89.69, 59.53, None], "WideResNet-28-10", "cifar10, Linf 8/255")
    text = render([], "text", [table])
    assert INFO["link"] in text and "AutoAttack may be too weak" in text and "With more data." in text
    path.write_text('{"clean_acc": "101"}')
    with pytest.raises(BadData, match="clean_acc"):
        read_reported([str(path)])
    with pytest.raises(UnknownName):
        read_reported([str(tmp_path / "none.json")])
