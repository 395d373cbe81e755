"""What the command line does, from Python; and networks that other libraries load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import rtk
from rtk.backbones import open_backbone
from rtk.errors import BadBackbone, BadData, BadValue
from rtk.results import Evaluation, Result

QUICK = {"epochs": 1, "suite": "clean", "images": 40}


@pytest.fixture
def few(tmp_path: Path) -> str:
    """A data set of a few small images."""
    noise = np.random.default_rng(0)
    arrays = {
        f"x_{name}": noise.integers(0, 256, (n, 32, 32, 3), np.uint8) for name, n in (("train", 40), ("test", 20))
    }
    labels = {f"y_{name}": np.arange(n) % 10 for name, n in (("train", 40), ("test", 20))}
    np.savez(tmp_path / "few.npz", **arrays, **labels)
    return f"npz:{tmp_path / 'few.npz'}"


def test_three_lines(tmp_path: Path) -> None:
    result = rtk.finetune("linear-probe", out=tmp_path / "run", **QUICK)
    found = rtk.evaluate(tmp_path / "run", out=tmp_path / "judged")
    model = rtk.load(tmp_path / "run")
    assert isinstance(result, Result) and isinstance(found, Evaluation)
    assert found.row.scores["clean"].correct == result.rows[-1].scores["clean"].correct
    logits = model(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 10) and not model.training
    with pytest.raises(rtk.RtkError, match="already holds this result"):
        rtk.finetune("linear-probe", out=tmp_path / "run", **QUICK)


def test_threats_are_objects_or_text(tmp_path: Path) -> None:
    asked = {"suite": "clean,pgd20", "images": 4, "workers": 1}
    found = rtk.evaluate("rtk:fashion-resnet", threats=rtk.Threat("L2", 0.5), out=tmp_path / "one", **asked)
    several = [rtk.Threat("Linf", 0.1), "L2:0.5"]
    both = rtk.evaluate("rtk:fashion-resnet", threats=several, out=tmp_path / "both", **asked)
    assert [*found.row.scores] == ["clean", "pgd20@L2:0.5"]
    assert [*both.row.scores] == ["clean", "pgd20@Linf:0.1", "pgd20@L2:0.5"]


def test_the_random_numbers_of_the_caller_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    rtk.finetune("linear-probe", out=tmp_path / "run", **QUICK)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_radius_of_one_norm_says_nothing_of_another(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"needs --eps, since Linf 0[.]1 is a radius of another norm") as refused:
        rtk.finetune("linear-probe", norm="L2", out=tmp_path / "run", **QUICK)
    assert "--eps 0.5" in str(refused.value) and not (tmp_path / "run").exists()


def test_a_path_that_is_spelt_otherwise_costs_no_classifier(tmp_path: Path, few: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = {**QUICK, "epochs": 0}
    rtk.finetune("full", dataset="npz:few.npz", out="first", **asked)
    (tmp_path / "copy.npz").write_bytes((tmp_path / "few.npz").read_bytes())
    for number, dataset in enumerate(("npz:few.npz", "npz:./few.npz", few, "npz:copy.npz")):
        result = rtk.finetune("full", backbone="run:first", dataset=dataset, out=f"{number}", **asked)
        assert not result.backbone["new_head"] and [row.name for row in result.rows] == ["source", "full"], dataset


@pytest.mark.parametrize("leak, verdict", [(True, "warning"), (False, "ok")])
def test_test_images_that_were_trained_on_are_found(tmp_path: Path, few: str, leak: bool, verdict: str) -> None:
    arrays = dict(np.load(few.removeprefix("npz:")))
    if leak:
        arrays["x_test"] = arrays["x_train"][:20]
    np.savez(tmp_path / "leak.npz", **arrays)
    result = rtk.finetune("full", dataset=f"npz:{tmp_path / 'leak.npz'}", out=tmp_path / "run", **QUICK)
    found = {check.name: check for row in result.rows for check in row.checks}["train-test-overlap"]
    assert found.verdict == verdict


def test_images_that_were_scaled_twice_are_refused(tmp_path: Path, few: str) -> None:
    arrays = dict(np.load(few.removeprefix("npz:")))
    arrays["x_train"] = (arrays["x_train"] / 255 / 255).astype(np.float32)
    np.savez(tmp_path / "dark.npz", **arrays)
    with pytest.raises(BadData, match=r"x_train holds nothing above 0.0039\d*: scaled to \[0, 1\] twice"):
        rtk.finetune("full", dataset=f"npz:{tmp_path / 'dark.npz'}", out=tmp_path / "run", **QUICK)


def photos(folder: Path, names: tuple[str, ...]) -> str:
    """An image folder whose classes are noise around one brightness each."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for place, name in enumerate(names):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(80 * place, 80 * place + 60, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return f"folder:{folder}"


def test_classes_of_other_names_are_said_and_get_a_new_classifier(tmp_path: Path) -> None:
    asked = {**QUICK, "image_size": 16}
    data = photos(tmp_path / "photos", ("bird", "cat", "dog"))
    result = rtk.finetune("full", dataset=data, out=tmp_path / "run", **asked)
    assert [*result.dataset["class_names"]] == ["bird", "cat", "dog"]

    def judged(name: str) -> list[tuple[str, str]]:
        found = rtk.evaluate(tmp_path / "run", out=tmp_path / name, suite="clean", workers=1)
        return [(check.verdict, check.text) for check in found.row.checks if check.name == "class-names"]

    ((verdict, _),) = judged("before")
    assert verdict == "ok"
    for split in ("train", "test"):
        (tmp_path / "photos" / split / "bird").rename(tmp_path / "photos" / split / "zebra")
    ((verdict, text),) = judged("after")
    assert verdict == "warning" and "class 0 is 'cat', and was 'bird'" in text
    again = rtk.finetune("full", backbone=f"run:{tmp_path / 'run'}", dataset=data, out=tmp_path / "again", **asked)
    assert again.backbone["new_head"]


SCRIPT = """import rtk
print("begun")
found = rtk.evaluate("rtk:fashion-resnet", suite="clean", images=20, chunk_size=10, workers=2, out="judged")
print(found.row.scores["clean"].n)
"""


def test_a_script_needs_no_guard_though_evaluations_start_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == ("begun\n20\n", 0), done.stderr


def test_a_wrong_option_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(rtk.UnknownName, match="--epoch"):
        rtk.finetune("linear-probe", out=tmp_path / "run", epoch=1)
    assert not (tmp_path / "run").exists()


def test_the_library_costs_nothing_until_it_is_used() -> None:
    code = "import sys, rtk; rtk.finetune, rtk.load; print([n for n in ('torch', 'timm') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_run_of_a_timm_network_loads_into_timm(tmp_path: Path, few: str) -> None:
    import timm

    rtk.finetune(
        "linear-probe", backbone="timm:resnet10t", weights="random", dataset=few, out=tmp_path / "run", **QUICK
    )
    path = rtk.export(tmp_path / "run", tmp_path / "net.safetensors")
    net = timm.create_model("resnet10t", num_classes=10, checkpoint_path=str(path)).eval()
    with safe_open(path, "pt") as file:
        said = {name: json.loads(value) for name, value in file.metadata().items() if name != "format"}
    assert said["input"]["size"] == [176, 176] and len(said["input"]["mean"]) == 3 and said["class_names"] is None
    opened = open_backbone(f"run:{tmp_path / 'run'}").model
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(net(images), opened.net(images))
    with pytest.raises(BadValue, match="is there already"):
        rtk.export(tmp_path / "run", path)
    with pytest.raises(BadBackbone, match="timm:resnet10t, which is not one of robustbench"):
        rtk.export(tmp_path / "run", tmp_path / "other", "robustbench")


def test_a_run_of_a_robustbench_network_loads_as_its_checkpoint(tmp_path: Path, few: str) -> None:
    name = "Addepalli2022Efficient_RN18"
    rtk.finetune(
        "linear-probe",
        backbone=f"robustbench:cifar10/Linf/{name}",
        weights="random",
        dataset=few,
        out=tmp_path / "run",
        **QUICK,
    )
    path = rtk.export(tmp_path / "run", tmp_path / f"{name}.pt")
    again = rtk.load(f"robustbench:cifar10/Linf/{name}", weights=path)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), rtk.load(f"run:{tmp_path / 'run'}")(images))


def test_the_embedded_network_belongs_to_no_other_library(tmp_path: Path) -> None:
    rtk.finetune("linear-probe", out=tmp_path / "run", **QUICK)
    with pytest.raises(BadBackbone, match="which is not one of timm or robustbench"):
        rtk.export(tmp_path / "run", tmp_path / "net.pt")
