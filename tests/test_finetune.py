"""The host of a strategy: what it accepts, what it writes, and that nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import nn

import rtk
from rtk import results
from rtk.backbones import open_backbone
from rtk.cli.table import print_result
from rtk.data import open_dataset
from rtk.errors import BadValue, PluginError, RunExists
from rtk.host import finetune
from rtk.registry import Plugin
from rtk.request import Request, RunOptions

FAST = {"suite": ("clean", "pgd20"), "images": 20, "chunk_size": 20, "workers": 1, "device": "cpu"}


class Nudge(rtk.Strategy):
    """Adds a little to the classifier; the smallest honest strategy."""

    name = "nudge"
    setting = "source"

    def finetune(self, model: nn.Module, run: rtk.Run) -> nn.Module:
        with torch.no_grad():
            model.net.fc.bias += 0.01
        run.report(chosen=["fc.bias"])
        return model


def request(strategy: type[rtk.Strategy], out: Path, **options: object) -> Request:
    entry = metadata.EntryPoint(strategy.name, "example", "rtk")
    plugin = Plugin(strategy.name, "example", "rtk-example", "9.9", entry)
    return Request(strategy, plugin, rtk.Config(), RunOptions(**{**FAST, "out": out, **options}))


def making(change) -> type[rtk.Strategy]:
    """A strategy whose finetune is `change(model, run)`."""

    class Made(rtk.Strategy):
        name = "made"
        setting = "source"

        def finetune(self, model: nn.Module, run: rtk.Run) -> nn.Module:
            return change(model, run)

    return Made


def test_a_run_directory_is_complete(tmp_path: Path) -> None:
    result = finetune(request(Nudge, tmp_path), command=["rtk", "finetune"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {
        "config.json",
        "environment.json",
        "report.json",
        "backbone.json",
        "model.safetensors",
        "result.json",
    }
    assert results.read(tmp_path / "result.json") == result
    assert [row.name for row in result.rows] == ["source", "nudge"]
    assert result.trained["changed"] == ["fc.bias"] and result.report == {"chosen": ["fc.bias"]}
    assert result.rows[0].scores["clean"].n == 20 and set(result.changes) == {"clean", "pgd20@Linf:0.1"}
    assert result.strategy["distribution"] == "rtk-example" and len(result.strategy["source_sha256"]) == 64
    assert set(result.dataset["sha256"]) == {"train", "val"} and result.environment["packages"]["torch"]
    assert not list((tmp_path / "work").glob("*.pt")), "checkpoints are not kept"


def test_the_result_follows_the_published_schema(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="part of the extra 'test'")
    finetune(request(Nudge, tmp_path, suite=("clean",)))
    jsonschema.validate(json.loads((tmp_path / "result.json").read_text()), results.schema())


def test_the_judged_weights_are_those_on_disk(tmp_path: Path) -> None:
    finetune(request(Nudge, tmp_path, suite=("clean",)))
    source = open_backbone("rtk:fashion-resnet").model.net.fc.bias
    tuned = open_backbone(f"run:{tmp_path}")
    assert torch.allclose(tuned.model.net.fc.bias, source + 0.01)
    assert str(tuned.threat) == "Linf:0.1"


def test_a_run_is_a_backbone_for_the_next_run(tmp_path: Path) -> None:
    finetune(request(Nudge, tmp_path / "first", suite=("clean",)))
    second = finetune(request(Nudge, tmp_path / "second", suite=("clean",), backbone=f"run:{tmp_path / 'first'}"))
    assert second.rows[0].weights == results.read(tmp_path / "first" / "result.json").rows[1].weights


def test_new_data_gets_a_new_classifier_and_no_source_row(tmp_path: Path) -> None:
    class Target(Nudge):
        name = "target"
        setting = "target"

    result = finetune(request(Target, tmp_path, suite=("clean",)))
    assert result.dataset["uri"] == "signs" and result.backbone["new_head"]
    assert [row.name for row in result.rows] == ["target"] and result.changes == {}


def test_what_a_strategy_changes_for_the_process_is_changed_back(tmp_path: Path) -> None:
    def careless(model: nn.Module, run: rtk.Run) -> nn.Module:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(7)
        return model

    threads = torch.get_num_threads()
    finetune(request(making(careless), tmp_path, suite=("clean",)))
    assert torch.get_default_dtype() == torch.float32 and torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "facts, said",
    [
        ({"selection": "best on val"}, "'selection' is what rtk itself reports"),
        ({"gain": float("nan")}, "gain is no JSON"),
        ({"gain": torch.ones(1)}, "gain is no JSON"),
    ],
)
def test_what_cannot_be_reported_is_refused_by_its_name(tmp_path: Path, facts: dict[str, object], said: str) -> None:
    def reports(model: nn.Module, run: rtk.Run) -> nn.Module:
        run.report(**facts)
        return model

    with pytest.raises(rtk.RtkError, match=said):
        finetune(request(making(reports), tmp_path, suite=("clean",)))


def test_that_nothing_was_changed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    idle = finetune(request(making(lambda model, run: model), tmp_path / "idle", suite=("clean",)))
    busy = finetune(request(Nudge, tmp_path / "busy", suite=("clean",)))
    for result, expected in ((idle, True), (busy, False)):
        print_result(result, tmp_path)
        assert ("no weight differs from those that the run started from" in capsys.readouterr().out) == expected


def replace_layer(model: nn.Module, run: rtk.Run) -> nn.Module:
    model.net.fc = nn.Linear(64, 11)
    return model


def add_layer(model: nn.Module, run: rtk.Run) -> nn.Module:
    model.extra = nn.Linear(1, 1)
    return model


def poison(model: nn.Module, run: rtk.Run) -> nn.Module:
    with torch.no_grad():
        model.net.conv1.weight[0] = torch.nan
    return model


def overwrite_source(model: nn.Module, run: rtk.Run) -> nn.Module:
    run.source.net.fc.weight.zero_()
    return model


def crash(model: nn.Module, run: rtk.Run) -> nn.Module:
    raise ZeroDivisionError("of the author")


@pytest.mark.parametrize(
    "change, message",
    [
        (replace_layer, r"'net\.fc\.\w+' came back with shape"),
        (add_layer, "adds 'extra"),
        (poison, "NaN"),
        (overwrite_source, "wrote over run.source"),
        (crash, "ZeroDivisionError: of the author"),
        (lambda model, run: None, "must return a module, got NoneType"),
        (lambda model, run: model.net, "the returned network"),
    ],
)
def test_nothing_that_comes_back_is_trusted(tmp_path: Path, change, message: str) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        finetune(request(making(change), tmp_path))
    assert "rtk-example 9.9" in str(caught.value), "the plugin and its version are named"
    assert not (tmp_path / "result.json").exists() and not (tmp_path / "model.safetensors").exists()


def test_no_path_leads_to_test_data(tmp_path: Path) -> None:
    """Nothing reachable from the run, its loaders or its splits holds a test image."""
    from rtk.data import open_dataset

    test = {image.numpy().tobytes() for image in open_dataset("fashion").split("test").images(slice(0, 50))}
    seen: list[rtk.Run] = []
    finetune(request(making(lambda model, run: seen.append(run) or model), tmp_path, suite=("clean",)))
    run = seen[0]
    for split in (run.train, run.val):
        assert not test & {image.numpy().tobytes() for image in split.images(slice(0, len(split)))}
    assert not [name for name in dir(run) if "test" in name]


def test_finished_runs_are_not_overwritten_without_force(tmp_path: Path) -> None:
    first = finetune(request(Nudge, tmp_path, suite=("clean",)))
    with pytest.raises(RunExists, match="already holds"):
        finetune(request(Nudge, tmp_path, suite=("clean",)))
    assert results.read(tmp_path / "result.json") == first
    finetune(request(Nudge, tmp_path, suite=("clean",)), force=True)


def test_one_class_of_a_wrong_request_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="cuda:9"):
        finetune(request(Nudge, tmp_path / "run", device="cuda:9"))
    assert not (tmp_path / "run").exists()


ARGUMENTS = ["finetune", "--strategy", "rift", "--epochs", "2", "--criticality-images", "64", "--attack-steps", "2"]
ARGUMENTS += ["--ascent-steps", "2", "--alphas", "2", "--train-fraction", "0.2"]
ARGUMENTS += ["--suite", "clean,pgd20", "--images", "120", "--chunk-size", "30"]


def launch(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rtk.cli", *ARGUMENTS, "--out", str(out), "--quiet", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def comparable(out: Path) -> tuple[bytes, dict]:
    """The weights, and everything of the result that is no cost."""
    found = json.loads((out / "result.json").read_text())
    for key in ("created", "seconds", "peak_bytes", "command"):
        found.pop(key)
    return (out / "model.safetensors").read_bytes(), found


MEASURED, TRAINED, JUDGED = "work/criticality+conv1.weight.json", "work/fine-tune.pt", "evaluation/rift"


@pytest.mark.slow
@pytest.mark.parametrize("signs", [(TRAINED,), (MEASURED, TRAINED, JUDGED)], ids=["once", "thrice"])
def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bits(tmp_path: Path, signs: tuple[str, ...]) -> None:
    """kill -9 while criticality is measured, while it trains, while it is judged.

    Slow because every part is a process that begins by importing torch; test_cli.py has an interruption by default.
    """
    whole = launch(tmp_path / "whole")
    assert whole.wait(300) == 0, whole.stderr.read().decode()
    killed = tmp_path / "killed"
    for sign in signs:
        process = launch(killed)
        until = time.monotonic() + 120
        while not (killed / sign).exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (killed / "result.json").exists()
    last = launch(killed)
    assert last.wait(300) == 0, last.stderr.read().decode()
    assert comparable(killed) == comparable(tmp_path / "whole")


def test_a_share_of_the_training_images_is_the_same_of_every_class(tmp_path: Path) -> None:
    seen: dict[str, torch.Tensor] = {}

    def look(model: nn.Module, run: rtk.Run) -> nn.Module:
        seen[run.directory.name] = run.train.images(slice(None)).flatten(1).sum(1)
        assert torch.equal(run.train.labels.bincount(), whole.labels.bincount() // 20)
        assert len(run.val) == len(fashion.split("val"))
        return model

    fashion = open_dataset("fashion")
    whole = fashion.split("train")
    found = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        asked = request(making(look), tmp_path / name, train_fraction=0.05, seed=seed)
        found[name] = finetune(asked)
    assert found["first"].dataset["images"]["train"] == len(seen["first"]) == len(whole) // 20
    assert torch.equal(seen["first"], seen["again"]) and not torch.equal(seen["first"], seen["other"])
    assert found["first"].dataset["sha256"]["train"] != found["other"].dataset["sha256"]["train"]
