"""What SECURITY.md lists and promises is what is there: advisories, tests, and who imports what has known holes."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from rtk import doctor, vulnerabilities
from rtk.vulnerabilities import ADVISORIES, here, unlisted

ROOT = Path(__file__).parent.parent
SECURITY = (ROOT / "SECURITY.md").read_text()
ID = r"(?:CVE-\d+-\d+|PYSEC-\d+-\d+|GHSA(?:-\w{4}){3})"


def report(*found: tuple[str, str, list[str]]) -> dict[str, Any]:
    """As pip-audit writes it: a package, its version, and a vulnerability for each id."""
    return {
        "dependencies": [
            {"name": name, "version": version, "vulns": [{"id": one, "fix_versions": [], "aliases": []} for one in ids]}
            for name, version, ids in found
        ],
        "fixes": [],
    }


def test_every_advisory_is_listed_and_no_other() -> None:
    listed = {advisory.ids[0] for advisory in ADVISORIES}
    assert set(re.findall(ID, SECURITY)) == listed
    for advisory in ADVISORIES:
        assert all(re.fullmatch(ID, name) for name in advisory.ids)


def test_what_is_listed_is_what_the_pins_force() -> None:
    """An advisory that no longer applies has to go, and the table says which versions are there."""
    forced = {advisory.package for advisory in here() if advisory.forced}
    assert {advisory.package for advisory in ADVISORIES if advisory.forced} == forced
    for package in forced:
        assert f"{package} {metadata.version(package)}" in SECURITY, package


def test_a_vulnerability_counts_as_known_by_any_of_its_names() -> None:
    found = report(("urllib3", "1.26.20", ["GHSA-38jv-5279-wg99", "CVE-2099-1"]), ("torch", "2.12.0", []))
    found["dependencies"][0]["vulns"].append({"id": "OTHER-1", "aliases": ["CVE-2024-3651"]})
    assert unlisted(found) == ["urllib3 1.26.20: CVE-2099-1"]


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = folder / vulnerabilities.PROGRAM
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


SKIPPED = {"dependencies": [{"name": "urllib3", "skip_reason": "Dependency not found on PyPI"}], "fixes": []}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit('no network')", "not looked for others: the database cannot be reached"),
        ("print('[]')", "not looked for others: the database cannot be reached"),
        (f"print({json.dumps(json.dumps(SKIPPED))})", "not looked for others: the database knows none of the packages"),
        (f"print({json.dumps(json.dumps(report(('torch', '2', []))))})", "; no others"),
        (
            f"import sys; print({json.dumps(json.dumps(report(('idna', '2.10', ['CVE-2024-3651']))))}); sys.exit(1)",
            "; no",
        ),
        (None, "not looked for others: pip-audit is not installed"),
    ],
)
def test_without_a_network_the_doctor_says_so_and_is_content(
    text: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if text is not None:
        program(tmp_path, monkeypatch, text)
    check = doctor._check("vulnerabilities", doctor._vulnerabilities, "", optional=True)
    assert check.ok and said in check.found and check.found.startswith(f"{len([*here()])} that the pins force")


def test_a_new_vulnerability_is_named_by_the_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(("torch", "2.15.0", ["CVE-2099-7"]), ("idna", "2.10", ["PYSEC-2024-60"]))
    program(tmp_path, monkeypatch, f"import sys; print({json.dumps(json.dumps(found))}); sys.exit(1)")
    check = doctor._check("vulnerabilities", doctor._vulnerabilities, "", optional=True)
    assert not check.ok and "1 that SECURITY.md does not list: torch 2.15.0: CVE-2099-7" in check.found


@pytest.mark.parametrize(
    ("version", "ok"), [("2.9.1", False), ("2.9.1+cu128", False), ("2.10.0", True), ("2.15.0", True)]
)
def test_the_doctor_knows_a_torch_that_runs_what_it_should_only_read(
    version: str, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "torch" else "0")
    check = doctor._check("checkpoints", doctor._checkpoints, "", optional=True)
    assert check.ok == ok and ("CVE-2026-24747" in check.found) != ok


WHO = """
import sys
from rtk import cli
from rtk.attacks import autoattack, pgd
from rtk.backbones import open_backbone
from rtk.data import open_dataset
from rtk.threat import Threat
open_backbone("rtk:fashion-resnet"); open_dataset("signs"); autoattack(Threat(), 10)
open_backbone("torchvision:resnet18", weights="random", classes=10)
print(*sorted({"requests", "urllib3", "idna"} & set(sys.modules)))
open_backbone("timm:test_vit", weights="random", classes=10)
print(*sorted({"requests", "urllib3", "idna"} & set(sys.modules)))
"""


def test_what_has_known_holes_is_imported_for_two_libraries_of_backbones_alone() -> None:
    done = subprocess.run([sys.executable, "-c", WHO], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "idna requests urllib3"]
    for path in [*(ROOT / "rtk").rglob("*.py"), *(ROOT / "plugins").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.partition(".")[0] for name in names} & {"requests", "urllib3", "idna"}, path


def test_every_promise_names_a_test_that_is_there() -> None:
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", SECURITY)
    assert len(named) >= 25
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_nobody_is_named() -> None:
    assert not re.search(r"[\w.]+@[\w.]+", SECURITY)
