"""`rtk plugins`: list, new and check; and a new plugin from its first file to its first result."""

from __future__ import annotations

import json
import keyword
import os
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import rtk.cli
from rtk.errors import BadValue
from rtk.registry import OFF, Registry
from rtk.testing.scaffold import create, names_of, render
from rtk.testing.suite import NAMES

PYTHON = [sys.executable, "-m"]


def cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        rtk.cli.main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A new plugin as it lies on sys.path after an editable installation: its module, and metadata beside it."""
    folder = create("small-steps", tmp_path)
    info = folder / "rtk_small_steps-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rtk-small-steps\nVersion: 0.1.0\nRequires-Dist: rtk\n")
    (info / "entry_points.txt").write_text("[rtk]\nsmall-steps = rtk_small_steps\n")
    return folder


def run(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    values = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=cwd, env=values, capture_output=True, text=True)


def test_a_new_plugin_is_four_files_that_name_it(tmp_path: Path) -> None:
    assert cli("plugins", "new", "small-steps", "--path", str(tmp_path / "mine")) == 0
    folder = tmp_path / "mine" / "rtk-small-steps"
    files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert set(files) == {"rtk_small_steps.py", "tests/test_small_steps.py", "pyproject.toml", "README.md"}
    assert 'name = "small-steps"' in files["rtk_small_steps.py"]
    assert "class SmallSteps(rtk.Strategy)" in files["rtk_small_steps.py"]
    assert len(files["tests/test_small_steps.py"].split("\n\n")) == 2
    assert f'"rtk>={metadata.version("rtk")}"' in files["pyproject.toml"]
    assert not any("$" in text for text in files.values())


@given(st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", fullmatch=True))
def test_whatever_the_name_the_files_are_python(name: str) -> None:
    assume(not keyword.iskeyword(name.capitalize()))
    names = names_of(name)
    assert names["module"].isidentifier() and names["title"].isidentifier()
    for template in ("strategy.py.template", "test_strategy.py.template"):
        compile(render(template, name), template, "exec")
    offers = tomllib.loads(render("pyproject.toml.template", name))["project"]["entry-points"]["rtk"]
    assert offers == {name: names["module"]}


@pytest.mark.parametrize(
    "name", ["My-Strategy", "my_strategy", "2-steps", "-x", "x-", "a--b", "", "none", "../x", "a b"]
)
def test_a_name_that_is_not_allowed_makes_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="needs a word in lower case") as problem:
        create(name, tmp_path)
    assert problem.value.hint and not list(tmp_path.iterdir())


def test_the_name_of_an_installed_strategy_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("plugins", "new", "rift", "--path", str(tmp_path)) == 2
    said = capsys.readouterr().err
    assert "is taken by plugin 'rift' of rtk" in said and "Try: rtk plugins new my-rift" in said
    assert not list(tmp_path.iterdir())


def test_a_module_that_others_import_is_not_hidden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("plugins", "new", "plugins", "--path", str(tmp_path)) == 2
    assert "rtk_plugins is the module of plugin" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = create("small-steps", tmp_path) / "rtk_small_steps.py"
    place.write_text("mine")
    assert cli("plugins", "new", "small-steps", "--path", str(tmp_path)) == 2
    assert "is there already, and is not overwritten" in capsys.readouterr().err
    assert place.read_text() == "mine"


def test_plugins_are_listed_with_their_hooks_and_state(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(made)
    monkeypatch.delitem(sys.modules, "rtk_small_steps", raising=False)
    assert cli("plugins") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert ["small-steps", "rtk-small-steps", "0.1.0", "rtk_strategies", "usable"] in rows
    assert sorted(row[0] for row in rows if "rtk_strategies" in row[3]) == Registry().names()
    assert any(row[0] == "tensorboard" and "rtk_epoch_finished" in row[3] for row in rows)
    (made / "rtk_small_steps.py").write_text("import not_installed")
    monkeypatch.delitem(sys.modules, "rtk_small_steps")
    assert cli("plugins") == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("small-steps")]
    assert row.split("\t")[3] == "-" and "No module named 'not_installed'" in row


def test_third_parties_can_be_left_out(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(made)
    monkeypatch.setenv(OFF, "0")  # so that it is put back
    assert cli("plugins", "--no-plugins") == 0
    assert "small-steps" not in capsys.readouterr().out


@pytest.mark.slow  # runs the whole conformance kit in another pytest
def test_a_new_plugin_passes_its_own_tests_and_is_listed(made: Path) -> None:
    """One pytest test per check, named after it; `rtk.testing` loads no pytest by itself."""
    found = run([*PYTHON, "pytest", "-v", "-p", "no:cacheprovider", "tests"], made, PYTHONPATH=str(made))
    assert found.returncode == 0, found.stdout[-3000:]
    assert all(f"::test_conformance[{name}]" in found.stdout for name in NAMES)
    listed = run([*PYTHON, "rtk.cli", "strategies"], made, PYTHONPATH=str(made))
    assert "small-steps\t-\tnew data\tTrain the last blocks on clean images." in listed.stdout
    code = "import sys, rtk.testing; rtk.testing.Suite('full').row('prints-nothing'); print('pytest' in sys.modules)"
    assert run([sys.executable, "-c", code], made).stdout == "False\n"


def test_check_prints_a_line_per_check_and_fails_when_one_fails(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = made / "rtk_small_steps.py"
    source.write_text(source.read_text().replace("on clean images.", "on clean images", 2))
    monkeypatch.chdir(made)  # where the module is found
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "rtk_small_steps", raising=False)
    assert cli("plugins", "check", "rtk_small_steps:SmallSteps") == 1
    found = capsys.readouterr()
    lines = [line.split("\t") for line in found.out.splitlines()]
    assert [line[1] for line in lines] == list(NAMES)
    assert [line[1] for line in lines if line[0] == "failed"] == ["says-what-it-is"]
    assert "must be one sentence" in found.out
    assert found.err.startswith("rtk: rtk_small_steps:SmallSteps fails 1 of the checks.")


def test_checking_what_is_not_there_is_a_wrong_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("plugins", "check", "rfit") == 2
    assert "Did you mean 'rift'?" in capsys.readouterr().err
    assert cli("plugins", "check", "tests.bad_strategies:shift_head") == 2
    assert "leads to no subclass of rtk.Strategy" in capsys.readouterr().err


@pytest.mark.slow
def test_a_new_plugin_is_installed_run_and_checked(tmp_path: Path) -> None:
    """From nothing to a result in a virtual environment; slow for the installation."""
    folder = create("small-steps", tmp_path)
    venv.create(tmp_path / "venv")
    inside = str(tmp_path / "venv" / "bin" / "python")
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "outer.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path) + "\n")
    (site / "rtk-source.pth").write_text(f"{Path(rtk.__file__).parent.parent}\n")
    install = [inside, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", str(folder)]
    done = run(install, tmp_path)
    assert done.returncode == 0, done.stderr
    tune = [inside, "-m", "rtk.cli", "finetune", "--strategy", "small-steps", "--epochs", "1", "--out", "run"]
    done = run([*tune, "--suite", "clean"], tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["strategy"]["distribution"] == "rtk-small-steps"
    done = run([inside, "-m", "rtk.cli", "plugins", "check", "small-steps"], tmp_path)
    assert done.returncode == 0, done.stdout
