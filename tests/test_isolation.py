"""A third party's strategy that goes wrong is named with its version, and stops nothing else.

Each is an installed distribution, run as a user would. What fails on import is in test_registry.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import rtk

class Third(rtk.Strategy):
    name = "third"
    summary = "Goes wrong."
    setting = "target"
    config: rtk.Config

    def finetune(self, model, run):
        {body}
        return model

@rtk.hookimpl
def rtk_strategies():
    return Third
"""
NAMED = "plugin 'third' of rtk-third 2.5"
WRONG = {
    "exception": ("{}['missing']", "KeyError: 'missing'"),
    "out of memory": ("raise MemoryError", "MemoryError"),
    "segmentation fault": ("import ctypes; ctypes.string_at(0)", "was ended by SIGSEGV"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL, perhaps for want of memory"),
    "exit": ("import os; os._exit(0)", "ended without a result"),
    "exit with a code": ("import os; os._exit(7)", "ended with exit code 7 and no result"),
    "asks to exit": ("import sys; sys.exit(3)", "ended the process with exit(3)"),
    "endless loop": ("while True: pass", "was stopped at the time limit of 12 s"),
    "NaN weights": ("next(model.parameters()).data.fill_(float('nan'))", "came back with NaN or infinite values"),
    "another architecture": ("import torch; model = torch.nn.Linear(2, 2)", "it must keep the architecture"),
    "no network": ("model = 'done'", "must return a module, got str"),
    "writes over the source": ("next(run.source.parameters()).data.zero_()", "wrote over run.source"),
}


def install(folder: Path, body: str) -> dict[str, str]:
    """The environment of a process that finds the distribution `rtk-third`."""
    site = folder / "site"
    info = site / "rtk_third-2.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rtk-third\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text("[rtk]\nthird = rtk_third\n")
    (site / "rtk_third.py").write_text(CODE.replace("{body}", body))
    return {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def rtk(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rtk.cli", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("kind", WRONG)
def test_what_goes_wrong_is_said_with_the_plugin_and_its_version(kind: str, tmp_path: Path) -> None:
    body, said = WRONG[kind]
    environment = install(tmp_path, body)
    limit = ["--time-limit", "12"] if kind == "endless loop" else []
    quick = ["--suite", "clean", "--images", "20", "--out", "run", "--quiet"]
    found = rtk(environment, tmp_path, "finetune", "--strategy", "third", *quick, *limit)
    last = found.stderr.strip().splitlines()[-1]
    assert found.returncode == 1 and NAMED in last and said in last, found.stderr
    assert not (tmp_path / "run" / "result.json").exists() and "Traceback" not in last


def test_a_package_is_known_by_all_its_files(tmp_path: Path) -> None:
    """What a strategy is made of may lie in other files of its package; when they change, it is another strategy."""
    environment = install(tmp_path, "from .losses import SCALE")
    package = tmp_path / "site" / "rtk_third"
    package.mkdir()
    (tmp_path / "site" / "rtk_third.py").rename(package / "__init__.py")
    (package / "losses.py").write_text("SCALE = 1")
    quick = ["finetune", "--strategy", "third", "--suite", "clean", "--images", "20", "--out", "run", "--quiet"]
    assert rtk(environment, tmp_path, *quick).returncode == 0
    assert "already holds this result" in rtk(environment, tmp_path, *quick).stderr
    (package / "losses.py").write_text("SCALE = 50")
    found = rtk(environment, tmp_path, *quick)
    assert found.returncode == 2 and "strategy source: the code has changed" in found.stderr


def test_the_others_go_on_and_a_good_one_is_looked_after_too(tmp_path: Path) -> None:
    """The process in between changes neither output nor exit code."""
    environment = install(tmp_path, "pass")
    found = rtk(
        environment, tmp_path, "finetune", "--strategy", "third", "--suite", "clean", "--images", "20", "--out", "run"
    )
    assert found.returncode == 0 and "third" in found.stdout and (tmp_path / "run" / "result.json").exists()
    again = rtk(environment, tmp_path, "finetune", "--strategy", "third", "--out", "run", "--quiet")
    assert again.returncode == 2 and "other settings" in again.stderr
    listed = rtk({**environment, "RTK_NO_PLUGINS": "1"}, tmp_path, "plugins")
    assert "third" not in listed.stdout and "rift" in listed.stdout
