"""The pins of setup.cfg work together, and the package brings what it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rtk.doctor import checks


def test_every_check_of_the_doctor_passes() -> None:
    """torchattacks, RobustBench's architectures, timm, its hub, embedded files, plugins and all requirements."""
    broken = [check for check in checks() if not check.ok and not check.optional]
    assert broken == []


def test_pip_check() -> None:
    found = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_timm_loads_weights_from_the_hugging_face_hub(tmp_path: Path, monkeypatch) -> None:
    """From a planted cache, as a download would leave it; timm 1.0.9 cannot with huggingface_hub 1 or newer."""
    import timm

    net = timm.create_model("resnet10t", num_classes=10)
    home = tmp_path / "models--somebody--net"
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    save_file(net.state_dict(), str(snapshot / "model.safetensors"))
    (snapshot / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 10}))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = (
        "import os, sys, timm, torch; net = timm.create_model('hf-hub:somebody/net', pretrained=True);"
        "print(float(net.fc.weight.sum()))"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr[-600:]
    assert float(found.stdout) == pytest.approx(float(net.fc.weight.sum()))


def test_built_ins_are_registered_as_a_third_party_would() -> None:
    names = {entry.name for entry in metadata.entry_points(group="rtk") if entry.value.startswith("rtk_plugins.")}
    assert names >= {"rift", "linear-probe", "full", "at"}


def test_the_embedded_files_are_small_and_have_a_licence() -> None:
    assets = resources.files("rtk") / "assets"
    files = [path for path in Path(str(assets)).rglob("*") if path.is_file()]
    sizes = {path.name: path.stat().st_size for path in files}
    weights = {name: size for name, size in sizes.items() if name.endswith(".safetensors")}
    assert max(weights.values()) < 2_000_000
    assert sum(sizes.values()) - sum(weights.values()) <= 7_600_000
    names = {path.name for path in files}
    assert {"NOTICE.md", "MIT-Fashion-MNIST.txt", "Apache-2.0.txt", "fashion-resnet.safetensors"} <= names
    notice = (assets / "NOTICE.md").read_text()
    assert "Fashion-MNIST" in notice and "Sign Language Digits" in notice and all(name in notice for name in weights)


@pytest.mark.slow  # builds a wheel and installs it without its dependencies
def test_the_wheel_holds_everything(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(root)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True).stdout
    for name in ("rtk/assets/fashion-resnet.safetensors", "rtk/assets/LICENSES/Apache-2.0.txt", "rtk_plugins/rift.py"):
        assert name in listed


def test_torch_loads_checkpoints_without_running_code_by_default() -> None:
    assert tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 6)
